"""Kinds of data, one entry each: how samples are kept, shown and scored.

Stages and runner read everything that differs between images and points here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.grids import GRID, save_grid
from bench.data.maps import DENSITY, save_points
from bench.data.pictures import cache_folder
from bench.machine import Machine
from bench.quality.fidelity import score
from bench.quality.points import score_points
from bench.quality.registry import POINTS, Extractor
from bench.run.image_sets import read_set, write_set
from sddpm.protocol import ImageShape, PointShape, Shape
from sddpm.replacing import atomic_write

Figures = Callable[[torch.Tensor], dict[str, float]]
"""Held-out data -> what the system says of itself (:meth:`sddpm.protocol.System.figures`)."""


@dataclass(frozen=True)
class Kind:
    """A kind of data."""

    noun: str
    """Word for several of them."""
    picture: str
    """Name of the picture of a cell's samples."""
    write: Callable[[NDArray[Any], Path], None]
    """Function that keeps samples in a file."""
    read: Callable[[Path], NDArray[Any]]
    """Function that reads them; it raises ValueError for a damaged file."""
    show: Callable[[NDArray[Any], Any, Path], None]
    """Function that draws samples of a shape as the picture."""
    score: Callable[[torch.Tensor, Any, Extractor, Machine, Figures], Mapping[str, Any]]
    """Function from samples, references, extractor, machine and figures to columns and facts."""
    extractor: Extractor | None = None
    """The only extractor; None where there is a choice."""


def kind_of(shape: Shape) -> Kind:
    """The kind of data of ``shape``."""
    return KINDS[type(shape)]


def no_figures(held_out: torch.Tensor) -> dict[str, float]:
    """No figures: those of samples whose system is not at hand."""
    return {}


def _show_images(images: NDArray[Any], shape: ImageShape, path: Path) -> None:
    save_grid(images, path)


def _score_images(
    images: torch.Tensor, references: Any, extractor: Extractor, machine: Machine, figures: Figures
) -> Mapping[str, Any]:
    cache = cache_folder() / "references"
    return score(images, references, extractor=extractor, cache_dir=cache, device=machine.device)


def _score_points(
    points: torch.Tensor, references: Any, extractor: Extractor, machine: Machine, figures: Figures
) -> Mapping[str, Any]:
    return score_points(points, references, figures)


def _write_points(points: NDArray[Any], path: Path) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, points)


def _read_points(path: Path) -> NDArray[Any]:
    try:
        points = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header can raise nearly anything
        raise ValueError(f"{path}: not a complete .npy file ({error})") from error
    if not isinstance(points, np.ndarray) or points.dtype != np.float64 or points.ndim != 2:
        raise ValueError(f"{path}: expected float64 points [n, coordinates]")
    return points


KINDS: dict[type, Kind] = {
    ImageShape: Kind("images", GRID, write_set, read_set, _show_images, _score_images),
    PointShape: Kind(
        "points", DENSITY, _write_points, _read_points, save_points, _score_points, POINTS
    ),
}
