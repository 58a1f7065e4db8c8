"""Pictures of points in a report: the density on a map that a run draws of each row, and the figure
that compares them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.maps import MAPPED
from bench.report.boards import Board, Row
from bench.report.samples import SHOWN_ROWS, read_picture
from bench.report.style import WIDTH, Drawing, figure_of, name_of, plain

ACROSS = 2
"""Pictures side by side in the figure."""
TITLE_INCHES = 0.3


@dataclass(frozen=True)
class Density:
    """One row's picture."""

    row: Row
    pixels: NDArray[np.uint8]
    """``[height, width, 3]``, or ``[height, width]`` of a grey picture."""

    @property
    def height(self) -> int:
        """Height of :meth:`png` in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Width of :meth:`png` in pixels."""
        return int(self.pixels.shape[1])

    def png(self, share: float = 1.0) -> bytes:
        """The picture in at most 256 colours, without what else its file holds.

        Colours make up most of a file. A map has few, and 256 of them show no difference.

        Args:
            share: of the pixels, above 0 and at most 1.
        """
        size = (max(1, round(length * share**0.5)) for length in (self.width, self.height))
        picture = Image.fromarray(self.pixels)
        file = io.BytesIO()
        picture = picture if share == 1 else picture.resize(tuple(size))
        if picture.mode == "RGB":
            picture = picture.quantize()
        picture.save(file, "PNG", optimize=True)
        return file.getvalue()


def read_densities(board: Board) -> list[Density]:
    """The pictures of the rows that have one, best row first.

    Raises:
        ValueError: a file is no picture.
    """
    return [Density(row, read_picture(row.grid)) for row in board.rows if row.grid]


def draw_densities(board: Board, densities: Sequence[Density]) -> Drawing:
    """The pictures of the best rows, each below its name."""
    shown = densities[:SHOWN_ROWS]
    several = len({entry.row.solver for entry in densities}) > 1
    names = [name_of(entry.row, several) for entry in shown]
    down = -(-len(shown) // ACROSS)
    tallest = max(entry.height / entry.width for entry in shown)
    layout: dict[str, Any] = {"ncols": ACROSS}
    with figure_of(down * (WIDTH / ACROSS * tallest + TITLE_INCHES), down, **layout) as (
        figure,
        axes,
    ):
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, entry, name in zip(axes.flat, shown, names, strict=False):
            ax.imshow(entry.pixels, cmap="grey", vmin=0, vmax=255, interpolation="antialiased")
            ax.set_title(plain(name), fontsize=8)
    more = (
        f" The {SHOWN_ROWS} best of {len(densities)} rows." if len(densities) > len(shown) else ""
    )
    what = (
        "Density of the samples on Mollweide's map, its logarithm as the colour"
        if (board.manifold, board.image_size) == MAPPED
        else "Samples along their two main components"
    )
    return Drawing(
        f"samples-{board.name}",
        "Samples",
        f"{what}; of each row's first seed.{more}",
        f"{what}, of {board.dataset}, for each of {', '.join(names)}.",
        figure,
    )
