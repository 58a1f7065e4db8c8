"""Data sets of points on a manifold: places on the earth, and distributions that are known.

The places are read from ``<data root>/earth/*.csv`` (latitude and longitude in degrees, one place a
line; lines that begin with # and the names of the columns are skipped). They are the sets that
RSGM (arXiv 2202.02763) and the work after it compare on. The others are drawn here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bench.data.listing import printable
from bench.data.splits import random_order
from sddpm.manifolds import make_manifold
from sddpm.protocol import PointShape

HOLD_OUT = 10
"""Share of the points that test: one of so many. As many more are kept from both splits, to choose
settings on."""
MOST_FILE_BYTES = 2**26
"""Size of a file of places that is read at all."""
FOLDER = "earth"


@dataclass(frozen=True)
class PointSet:
    """A data set of points."""

    name: str
    shape: PointShape
    file: str | None = None
    """File below ``earth/`` in the data root; None where the points are drawn."""
    draw: Callable[[], NDArray[np.float64]] | None = None
    """Function that draws the points ``[n, coordinates]``."""
    version: int = 1
    """Number that is raised when other points are drawn."""


class Points(Dataset[Tensor]):
    """Points of one split, float64 ``[n, coordinates]``, in a fixed order.

    Args:
        fingerprint: 32 hex digits of the points, the same on any machine.
    """

    horizontal_flip = False
    notes: tuple[str, ...] = ()

    def __init__(
        self, points: NDArray[np.float64], shape: PointShape, label: str, fingerprint: str
    ) -> None:
        self.points, self.shape = torch.from_numpy(points), shape
        self.label, self.fingerprint = label, fingerprint

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Tensor:
        """Float64 ``[coordinates]``."""
        return self.points[index]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """Float64 ``[len(indices), coordinates]``."""
        return self.points[torch.as_tensor(indices)]


def load_points(
    point_set: PointSet, split: str, data_root: str | Path | None, limit: int | None = None
) -> Points:
    """The ``split`` ("train" or "test") of a set of points, at most ``limit`` of them.

    The points are mixed, the same at every call: the first 80 % train, the last 10 % test.

    Raises:
        FileNotFoundError: the file is not in the data root, or there is no data root.
        ValueError: a line of the file is no place; the message names it.
    """
    if point_set.file is None:
        assert point_set.draw is not None
        points = point_set.draw()
        content = f"{point_set.name} {point_set.version} {len(points)}".encode()
    else:
        degrees = read_places(_place(point_set, data_root))
        points, content = unit_vectors(degrees), degrees.tobytes()
    order = random_order(len(points))
    test = max(1, len(points) // HOLD_OUT)
    chosen = {"train": order[: -2 * test], "test": order[-test:]}[split][:limit]
    text = hashlib.sha256(content).hexdigest() + f" {split} {len(chosen)}"
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Points(points[chosen], point_set.shape, point_set.name, fingerprint)


def read_places(path: Path) -> NDArray[np.float64]:
    """Latitude and longitude in degrees, ``[n, 2]``.

    Raises:
        ValueError: a line is no place, or there are too few; the message names file and line.
    """
    if path.stat().st_size > MOST_FILE_BYTES:
        raise ValueError(f"{printable(str(path))}: larger than {MOST_FILE_BYTES:,} bytes")
    rows: list[tuple[float, float]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(str(path))}: not a text in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        words = line.split(",")
        heading = not rows and len(words) == 2 and all(w.strip().isalpha() for w in words)
        if not line.strip() or line.startswith("#") or heading:
            continue
        try:
            latitude, longitude = map(float, words)
        except ValueError:
            latitude = longitude = math.nan
        if not (abs(latitude) <= 90 and abs(longitude) <= 360):
            raise ValueError(
                f"{printable(str(path))}, line {number}: {line[:40]!r}: expected latitude and "
                "longitude in degrees"
            )
        rows.append((latitude, longitude))
    if len(rows) < HOLD_OUT:
        raise ValueError(f"{printable(str(path))}: {len(rows)} places, at least {HOLD_OUT}")
    return np.array(rows)


def unit_vectors(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of the unit sphere ``[n, 3]`` of latitude and longitude ``[n, 2]``: the north pole is
    (0, 0, 1), and longitude 0 on the equator (1, 0, 0)."""
    latitude, longitude = np.radians(degrees).T
    flat = np.cos(latitude)
    return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], 1)


def _place(point_set: PointSet, data_root: str | Path | None) -> Path:
    assert point_set.file is not None
    if data_root is None:
        raise FileNotFoundError(
            f"{point_set.name} is in no package and not on the Hub: give --data-root with "
            f"{FOLDER}/{point_set.file} in it"
        )
    path = Path(data_root).expanduser() / FOLDER / point_set.file
    if not path.is_file():
        raise FileNotFoundError(f"no points of {point_set.name} at {printable(str(path))}")
    return path


MIXTURE_POINTS, MIXTURE_SEED = 10_000, 0
MIXTURE_CENTRES = ((1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (-0.6, -0.8, 0.0))
MIXTURE_CONCENTRATIONS = (10.0, 25.0, 50.0)
MIXTURE_SHARES = (0.5, 0.3, 0.2)
"""A mixture of von Mises-Fisher distributions on the sphere, whose density is known."""


def vmf_mixture() -> NDArray[np.float64]:
    """Points of the mixture, ``[10000, 3]``."""
    from scipy.stats import vonmises_fisher

    rng = np.random.default_rng(MIXTURE_SEED)
    counts = rng.multinomial(MIXTURE_POINTS, MIXTURE_SHARES)
    parts = [
        vonmises_fisher(centre, kappa).rvs(count, random_state=rng)
        for centre, kappa, count in zip(
            MIXTURE_CENTRES, MIXTURE_CONCENTRATIONS, counts, strict=True
        )
    ]
    return np.concatenate(parts)


def vmf_mixture_log_density(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the mixture's density at ``points`` ``[n, 3]``, in nats."""
    from scipy.special import logsumexp
    from scipy.stats import vonmises_fisher

    terms = [
        math.log(share) + vonmises_fisher(centre, kappa).logpdf(points)
        for centre, kappa, share in zip(
            MIXTURE_CENTRES, MIXTURE_CONCENTRATIONS, MIXTURE_SHARES, strict=True
        )
    ]
    found: NDArray[np.float64] = logsumexp(terms, axis=0)
    return found


ROTATION_SIZE, ROTATION_POINTS, ROTATION_CENTRES = 10, 2_000, 3
ROTATION_SPREAD = 0.2
"""Standard deviation, in radians, of the angles of a point of :func:`rotation_mixture` against its
centre, in each plane of two axes."""


def rotation_mixture() -> NDArray[np.float64]:
    """Rotations in ten dimensions near one of three, ``[2000, 100]``: a centre times the
    exponential of a Gaussian antisymmetric matrix."""
    generator = torch.Generator().manual_seed(MIXTURE_SEED)

    def normals(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    space = make_manifold("rotations", ROTATION_SIZE)
    centres = space.uniform(normals(ROTATION_CENTRES, space.coordinates))
    chosen = torch.arange(ROTATION_POINTS) % ROTATION_CENTRES
    upper = normals(ROTATION_POINTS, ROTATION_SIZE, ROTATION_SIZE).triu(1) * ROTATION_SPREAD
    turns = torch.linalg.matrix_exp(upper - upper.mT)
    found = centres.unflatten(1, (ROTATION_SIZE, ROTATION_SIZE))[chosen] @ turns
    return found.flatten(1).numpy()


_SPHERE = PointShape("sphere", 3)
POINT_SETS: dict[str, PointSet] = {
    found.name: found
    for found in (
        PointSet("volcano", _SPHERE, "volerup.csv"),
        PointSet("earthquake", _SPHERE, "quakes_all.csv"),
        PointSet("flood", _SPHERE, "flood.csv"),
        PointSet("fire", _SPHERE, "fire.csv"),
        PointSet("vmf_mixture", _SPHERE, draw=vmf_mixture),
        PointSet("so10", PointShape("rotations", ROTATION_SIZE), draw=rotation_mixture),
    )
}
"""Data sets of points by name."""
