"""The floor: an independent Gaussian per pixel, fitted to the training set.

Not from a paper. Every model worth a row must beat it by a wide margin; it has no network,
no optimiser and no product, so its energy is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sddpm.protocol import ImageShape, Step, System
from sddpm.rng import ImageStreams


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


class PixelStatistics(nn.Module):
    """Running count, mean and sum of squared deviations per pixel (Chan's parallel update)."""

    count: Tensor
    mean: Tensor
    deviations: Tensor

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        size = (shape.channels, shape.size, shape.size)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("deviations", torch.zeros(size, dtype=torch.float64))

    def add(self, images: Tensor) -> None:
        """Take in a batch ``[batch, C, H, W]``."""
        images = images.double()
        size, mean = len(images), images.mean(0)
        total = self.count + size
        delta = mean - self.mean
        self.deviations += (images - mean).square().sum(0)
        self.deviations += delta.square() * self.count * size / total
        self.mean += delta * size / total
        self.count.copy_(total)

    def forward(self, noise: Tensor) -> Tensor:
        """``mean + std * noise``; the standard deviation is that of the data seen."""
        std = (self.deviations / self.count.clamp(min=1)).sqrt()
        return (self.mean + std * noise).float()


class PixelGaussian(System):
    """Fits and draws from the per-pixel Gaussian."""

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.shape = shape
        self.statistics = PixelStatistics(shape)
        self.optimizers = {}

    @property
    def generator(self) -> nn.Module:
        return self.statistics

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        self.statistics.add(step.gather(images))
        return {"pixels_std": (self.statistics.deviations / self.statistics.count).mean().sqrt()}

    def sample(self, seeds: Sequence[int], sampling: Mapping[str, Any] | None = None) -> Tensor:
        noise = ImageStreams(seeds).randn(self.shape.channels, self.shape.size, self.shape.size)
        return self.statistics(noise.to(self.statistics.mean.device))


def build(config: Config, shape: ImageShape, parent: System | None = None) -> PixelGaussian:
    """A per-pixel Gaussian for images of ``shape``; it has no parent."""
    return PixelGaussian(shape)


PRESETS: dict[str, dict[str, Any]] = {"smoke": {}, "small": {}, "medium": {}, "paper": {}}
