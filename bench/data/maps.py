"""Pictures of points on a manifold: a density on a map of the sphere, a projection of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sddpm.protocol import PointShape
from sddpm.replacing import atomic_write

DENSITY = "density.png"
"""Name of the picture of a cell's samples."""
MAPPED = ("sphere", 3)
"""Manifold and size of the points that are drawn on a map."""
CONCENTRATION = 200.0
"""Concentration of the von Mises-Fisher kernel that smooths the points; it is 4 degrees wide."""
DEGREES_A_CELL = 2
MOST_POINTS = 5_000
"""Points that a picture is made of."""


def save_points(points: NDArray[np.float64], shape: PointShape, path: Path) -> None:
    """Draw ``points`` ``[n, coordinates]`` as a PNG: on the sphere in three dimensions their
    density in Mollweide's projection, elsewhere their two main components."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = points[:MOST_POINTS]
    on_map = (shape.manifold, shape.size) == MAPPED
    figure = Figure(figsize=(6, 3.2) if on_map else (4, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(projection="mollweide" if on_map else None)
    if on_map:
        longitude, latitude, density = density_map(points)
        axes.pcolormesh(longitude, latitude, density, cmap="magma", rasterized=True)
        axes.grid(alpha=0.2)
        axes.tick_params(labelsize=5, colors="grey")
    else:
        centred = points - points.mean(0)
        main = np.linalg.svd(centred, full_matrices=False)[2][:2]
        across, up = (centred @ main.T).T
        axes.scatter(across, up, s=3)
        axes.set_xlabel("first main component")
        axes.set_ylabel("second main component")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def density_map(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Longitudes and latitudes in radians of the corners of a map's cells, and the logarithm of the
    density of ``points`` ``[n, 3]`` in each cell, at least that of the uniform distribution over
    100."""
    longitude = np.radians(np.arange(-180, 181, DEGREES_A_CELL, dtype=np.float64))
    latitude = np.radians(np.arange(-90, 91, DEGREES_A_CELL, dtype=np.float64))
    across, up = np.meshgrid(
        (longitude[1:] + longitude[:-1]) / 2, (latitude[1:] + latitude[:-1]) / 2
    )
    flat = np.cos(up)
    cells = np.stack([flat * np.cos(across), flat * np.sin(across), np.sin(up)], -1)
    scale = CONCENTRATION / (2 * np.pi)  # of the kernel, whose far side is nothing
    total = np.zeros(up.shape)
    for part in np.array_split(points, max(1, len(points) // 500)):
        total += np.exp(CONCENTRATION * (cells @ part.T - 1)).sum(-1)
    density = scale * total / len(points)
    return longitude, latitude, np.log(np.maximum(density, 0.01 / (4 * np.pi)))
