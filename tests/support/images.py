"""Small generated images and points for tests that train."""

from __future__ import annotations

import torch
from torch import Tensor

from sddpm.protocol import ImageShape, PointShape, Shape
from sddpm.training import ImageSource


def data_for(shape: Shape, count: int = 32) -> ImageSource:
    """Generated data of a shape: pictures, or points of the uniform distribution."""
    if isinstance(shape, ImageShape):
        return GeneratedImages(count, shape.channels, shape.size)
    return GeneratedPoints(count, shape)


class GeneratedPoints:
    """``count`` uniform points of a manifold."""

    def __init__(self, count: int, shape: PointShape, seed: int = 0) -> None:
        self.shape = shape
        rng = torch.Generator().manual_seed(seed)
        self.points = shape.space.uniform(torch.randn(count, shape.coordinates, generator=rng))

    def __len__(self) -> int:
        return len(self.points)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.points[indices]


class GeneratedImages:
    """uint8 images of soft blobs, [n, channels, size, size], for tests that train."""

    def __init__(self, count: int = 64, channels: int = 1, size: int = 8) -> None:
        rng = torch.Generator().manual_seed(0)
        axis = torch.arange(size) - size / 2
        centre = torch.randn(count, channels, 2, generator=rng) * size / 8
        dy = axis[:, None] - centre[..., 0, None, None]
        dx = axis[None, :] - centre[..., 1, None, None]
        self.images = (255 * torch.exp(-(dx**2 + dy**2) / size)).to(torch.uint8)
        self.shape = ImageShape(channels, size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images[indices]
