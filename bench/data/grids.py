"""Grids of samples, and the picture files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sddpm.replacing import atomic_write

GRID = "grid.png"
"""Name of the grid of a cell's samples."""
JPEG = {"format": "JPEG", "quality": 95}
PICTURES: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".webp": {"format": "WEBP", "lossless": True},
}
"""Ending of a file's name -> how the picture in it is written."""
SIDE = 8
"""Images across and down."""
GAP_PIXELS = 2
SMALLEST_TILE_PIXELS = 64
"""Small images are magnified to about this, by a whole factor and without smoothing."""


def grid(images: NDArray[np.uint8], side: int = SIDE, down: int | None = None) -> Image.Image:
    """The first ``side * down`` of ``images`` (uint8 ``[n, C, H, W]``, C 1 or 3), row by row;
    ``down`` is ``side`` if not given.

    Fewer images leave the rest white; rows that would be empty are left out.
    """
    images = images[: side * (down or side)]
    factor = max(1, round(SMALLEST_TILE_PIXELS / images.shape[-1]))
    return tiled(images.repeat(factor, axis=2).repeat(factor, axis=3), side, GAP_PIXELS)


def tiled(images: NDArray[np.uint8], side: int, gap: int) -> Image.Image:
    """All ``images`` (uint8 ``[n, C, H, W]``), ``side`` in a row, with ``gap`` white pixels around
    each."""
    tiles = images.transpose(0, 2, 3, 1)
    step = tiles.shape[1] + gap
    rows, columns = -(-len(tiles) // side), min(side, len(tiles))
    canvas = np.full((rows * step + gap, columns * step + gap, tiles.shape[3]), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // side * step + gap, index % side * step + gap
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return Image.fromarray(canvas[..., 0] if canvas.shape[2] == 1 else canvas)


def save_grid(images: NDArray[np.uint8], path: Path, side: int = SIDE) -> None:
    """Write :func:`grid` to ``path``, atomically, in the format of its ending."""
    save_picture(grid(images, side), path)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write ``picture`` to ``path``, atomically, in the format of its ending: a key of
    :data:`PICTURES`."""
    with atomic_write(path) as temporary:
        picture.save(temporary, **PICTURES[path.suffix.lower()])
