"""One random stream per image.

Image 17 starts from the same noise and receives the same noise at every diffusion step, at
any batch size, on any device and on any rerun: its numbers come from a CPU generator seeded
with its own seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15


def mix(*numbers: int) -> int:
    """A well-mixed 63-bit seed from whole numbers (splitmix64): near seeds give far streams."""
    state = 0
    for number in numbers:
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) + _GOLDEN & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


class ImageStreams:
    """The streams of a batch of images, one seed an image."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(mix(int(seed))) for seed in seeds]
        """One CPU generator an image, the form in which diffusers' schedulers take them."""

    def randn(self, *shape: int) -> Tensor:
        """Standard normal float32 numbers ``[batch, *shape]``, row ``i`` from stream ``i``."""
        return torch.stack(
            [torch.randn(shape, generator=g, dtype=torch.float32) for g in self.generators]
        )

    def rand(self, *shape: int) -> Tensor:
        """Uniform float32 numbers in [0, 1), ``[batch, *shape]``, row ``i`` from stream ``i``."""
        return torch.stack(
            [torch.rand(shape, generator=g, dtype=torch.float32) for g in self.generators]
        )


SEEDS_PER_RUN = 1_000_000
"""Image seeds that belong to one run's seed: the most samples one run can draw."""


def image_seeds(seed: int, start: int, stop: int) -> range:
    """Seeds of the images ``start`` to ``stop - 1`` of the run with ``seed``.

    Raises:
        ValueError: the images beyond :data:`SEEDS_PER_RUN` are those of the next seed.
    """
    if stop > SEEDS_PER_RUN:
        raise ValueError(
            f"image {stop:,} of seed {seed}: one seed has {SEEDS_PER_RUN:,} images; draw the rest "
            "with another seed"
        )
    return range(seed * SEEDS_PER_RUN + start, seed * SEEDS_PER_RUN + stop)
