"""Sample grids as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sddpm.replacing import atomic_write

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
    tiles = images.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    step = tiles.shape[1] + GAP_PIXELS
    rows, columns = -(-len(tiles) // side), min(side, len(tiles))
    shape = (rows * step + GAP_PIXELS, columns * step + GAP_PIXELS, tiles.shape[3])
    canvas = np.full(shape, 255, np.uint8)
    for index, tile in enumerate(tiles):
        top = index // side * step + GAP_PIXELS
        left = index % side * step + GAP_PIXELS
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return Image.fromarray(canvas[..., 0] if canvas.shape[2] == 1 else canvas)


def save_grid(images: NDArray[np.uint8], path: Path, side: int = SIDE) -> None:
    """Write :func:`grid` to ``path`` as PNG, atomically."""
    picture = grid(images, side)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
