"""The denoising chain as pictures: a strip (rows images, columns steps) and an animation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.grids import grid, save_picture
from sddpm.protocol import ImageShape, to_uint8
from sddpm.replacing import atomic_write
from sddpm.rng import ImageStreams
from sddpm.samplers import OnStep

STRIP_COLUMNS = 10
STRIP_ROWS = 8
ANIMATIONS: dict[str, dict[str, Any]] = {
    ".gif": {"format": "GIF"},
    ".webp": {"format": "WEBP", "lossless": True},
}
"""Ending of a file's name -> how the animation in it is written."""
GIF_SIDE = 4
GIF_FRAMES = 50
"""Largest number of frames. A longer chain is thinned out evenly."""
FRAME_MS, LAST_FRAME_MS = 80, 2000
LOUD = 2.0
"""Root mean square from which a state is scaled to 1 for display: solvers that add noise of
variance up to 1e4 would show saturated pixels until their last steps."""


class Denoising(Protocol):
    """System that can be recorded: its ``sample`` takes ``on_step``."""

    shape: ImageShape

    def sample(
        self, seeds: Sequence[int], sampling: Mapping[str, Any] | None, on_step: OnStep | None
    ) -> Tensor: ...


class Recorder:
    """Samples as ``system`` does, and keeps the first images of each step.

    Args:
        count: images to watch; they must be in the first batch.
    """

    def __init__(self, system: Denoising, count: int) -> None:
        self.system, self.count = system, count
        self._states: list[Tensor] = []

    def sample(self, seeds: Sequence[int], sampling: Mapping[str, Any] | None = None) -> Tensor:
        """Sample as the system does; the first call is recorded."""
        if self._states:
            return self.system.sample(seeds, sampling, None)
        shape = self.system.shape
        watched = seeds[: self.count]
        # on_step speaks after each step, so the noise before the first one is drawn again.
        start = ImageStreams(watched).randn(shape.channels, shape.size, shape.size)
        self._states.append(_visible(start))

        def keep(done: int, x: Tensor, predicted: Tensor) -> None:
            self._states.append(_visible(x[: self.count]))

        images = self.system.sample(seeds, sampling, keep)
        self._states[-1] = to_uint8(images[: self.count])
        return images

    @property
    def frames(self) -> NDArray[np.uint8]:
        """uint8 ``[steps + 1, images, C, H, W]``: the noise, then the state after each step.

        Raises:
            ValueError: nothing was sampled.
        """
        if not self._states:
            raise ValueError("nothing was sampled yet, so there is no denoising chain to show")
        return torch.stack(self._states).numpy()


def _visible(x: Tensor) -> Tensor:
    loudness = x.float().square().mean((1, 2, 3), keepdim=True).sqrt()
    return to_uint8(torch.where(loudness > LOUD, x / loudness, x))


def moments(frames: int, most: int) -> list[int]:
    """Frame numbers, at most ``most``, evenly spaced, including the first and the last."""
    return sorted({round(number) for number in np.linspace(0, frames - 1, min(most, frames))})


def save_strip(frames: NDArray[np.uint8], path: Path, columns: int = STRIP_COLUMNS) -> None:
    """Write a strip of ``frames`` (as :attr:`Recorder.frames`): a row an image, a column a
    moment; the last column is the finished sample. Atomically, in the format of the ending."""
    chosen = frames[moments(len(frames), columns)]
    tiles = chosen.swapaxes(0, 1).reshape(-1, *frames.shape[2:])
    save_picture(grid(tiles, len(chosen), frames.shape[1]), path)


def save_animation(frames: NDArray[np.uint8], path: Path) -> None:
    """Write ``frames`` as a looping animation of a grid, its last frame held; atomically, in the
    format of the ending, a key of :data:`ANIMATIONS`."""
    pictures = [grid(frames[number], GIF_SIDE) for number in moments(len(frames), GIF_FRAMES)]
    with atomic_write(path) as temporary:
        pictures[0].save(
            temporary,
            **ANIMATIONS[path.suffix.lower()],
            save_all=True,
            append_images=pictures[1:],
            duration=[FRAME_MS] * (len(pictures) - 1) + [LAST_FRAME_MS],
            loop=0,
        )
