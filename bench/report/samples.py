"""Sample grids of a report: their pictures at their own size, and the figure that compares them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bench.data.grids import GAP_PIXELS, SIDE, SMALLEST_TILE_PIXELS, tiled
from bench.report.boards import Board, Row
from bench.report.style import WIDTH, Drawing, figure_of, name_of, plain

LABEL_CHARACTERS = 20
"""Characters in a line of a row's name, which has a fifth of the width."""
SHOWN_ROWS = 12
"""Rows of the figure; the page shows all."""
LARGEST_PIXELS = 4096
"""Side of a picture that is opened at all."""


@dataclass(frozen=True)
class Samples:
    """One row's pictures."""

    row: Row
    tiles: NDArray[np.uint8]
    """``[images, size, size]`` or ``[images, size, size, 3]``, by seed."""

    @property
    def size(self) -> int:
        """Height and width of an image, in pixels."""
        return int(self.tiles.shape[1])

    @property
    def height(self) -> int:
        """Height of the first line of :meth:`png` in pixels."""
        return self.size + 1

    @property
    def width(self) -> int:
        """Width of :meth:`png` in pixels."""
        return min(SIDE, len(self.tiles)) * (self.size + 1) + 1

    def png(self, share: float = 1.0) -> bytes:
        """The images, 8 a line, a white pixel between them.

        Args:
            share: of the lines, above 0 and at most 1. The first line is always there.
        """
        lines = -(-len(self.tiles) // SIDE)
        tiles = self.tiles[: SIDE * max(1, int(share * lines))]
        images = np.moveaxis(tiles.reshape(*tiles.shape[:3], -1), 3, 1)
        file = io.BytesIO()
        tiled(images, SIDE, 1).save(file, "PNG", optimize=True)
        return file.getvalue()


def read_samples(board: Board) -> list[Samples]:
    """The pictures of the rows that have a grid, best row first.

    Raises:
        ValueError: a grid is no picture, or not laid out as :func:`bench.data.grids.grid` does.
    """
    return [Samples(row, read_tiles(row.grid, board.image_size)) for row in board.rows if row.grid]


def read_tiles(path: Path, image_size: int) -> NDArray[np.uint8]:
    """The images of a grid that ``save_grid`` wrote, at their own size."""
    canvas = read_picture(path)
    factor = max(1, round(SMALLEST_TILE_PIXELS / image_size))
    side = image_size * factor
    step = side + GAP_PIXELS
    height, width = (length - GAP_PIXELS for length in canvas.shape[:2])
    if height % step or width % step or not 0 < width // step <= SIDE:
        raise ValueError(f"{path}: not a grid of images of {image_size} pixels")
    tiles = [
        canvas[top : top + side : factor, left : left + side : factor]
        for top in range(GAP_PIXELS, height, step)
        for left in range(GAP_PIXELS, width, step)
    ]
    # Places that no image took are white.
    while len(tiles) > 1 and (tiles[-1] == 255).all():
        tiles.pop()
    return np.stack(tiles)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture file: ``[height, width]`` where it is grey, else ``[height, width, 3]``.

    Raises:
        ValueError: it is no picture, or larger than any that a run draws.
    """
    try:
        with Image.open(path) as picture:
            if max(picture.size) > LARGEST_PIXELS:
                raise ValueError(f"{path}: {picture.size} pixels: larger than any sample grid")
            return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a picture that can be read") from error


def _wrapped(name: str) -> str:
    """A row's name in lines that break between its parts, inside one only if it is too long."""
    parts = name.split(", ")
    whole = [
        p.replace(" ", "\N{NO-BREAK SPACE}") if len(p) < LABEL_CHARACTERS else p for p in parts
    ]
    return fill(", ".join(whole), LABEL_CHARACTERS)


def draw_samples(board: Board, samples: Sequence[Samples]) -> Drawing:
    """A line a row, a column a seed: images of one column started from the same noise."""
    shown = samples[:SHOWN_ROWS]
    several = len({s.row.solver for s in samples}) > 1
    names = [name_of(s.row, several) for s in shown]
    columns = min(SIDE, *(len(s.tiles) for s in shown))
    label = 0.2  # share of the width
    side = WIDTH * (1 - label) / columns
    layout: dict[str, Any] = {
        "constrained": False,
        "ncols": columns,
        "gridspec_kw": {"wspace": 0.06, "hspace": 0.06},
    }
    with figure_of(side * len(shown) + 0.1, len(shown), **layout) as (figure, axes):
        figure.subplots_adjust(label, 0.01, 0.995, 0.99)
        for line, entry in enumerate(shown):
            for column in range(columns):
                ax = axes[line, column]
                ax.imshow(
                    entry.tiles[column], cmap="grey", vmin=0, vmax=255, interpolation="nearest"
                )
                ax.set_axis_off()
            axes[line, 0].text(
                -0.12, 0.5, plain(_wrapped(names[line])), fontsize=7, ha="right",
                va="center", transform=axes[line, 0].transAxes,
            )  # fmt: skip
    more = f" The {SHOWN_ROWS} best of {len(samples)} rows." if len(samples) > SHOWN_ROWS else ""
    return Drawing(
        f"samples-{board.name}",
        "Samples",
        "The first images of each row's first seed, not chosen; images of one column started from "
        f"the same random stream.{more}",
        f"Generated images of {board.dataset}, one line for each of {', '.join(names)}.",
        figure,
    )
