"""Frechet distances of resampled samples, and their spread.

The spread is that of the delete-d jackknife (Shao and Wu 1989): the distances of random subsets
scatter as those of new sets do, up to a known factor. A bootstrap draws with replacement, so the
number of distinct samples changes from one resample to the next. The distance's bias depends on
this number, so a bootstrap finds too large a spread where there are fewer samples than features.
The references stay as they are, since all rows of a table share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sddpm.progress import progress_bar

SEED = 0
"""Seed of the subsets. It is the same for every set, so that equal samples have equal spreads
whichever command scores them."""
KEPT = 0.75
"""Share of the samples in a subset."""
SUBSETS, FEWER_SUBSETS = 100, 25
"""Subsets of a set, and of one larger than :data:`LARGE`. A standard deviation over 100 is known
to 7 %, one over 25 to 14 %."""
LARGE = 10_000
"""Samples up to which :data:`SUBSETS` are drawn; each then takes about a second."""
BLOCK = 4_096
"""Samples whose features are weighted in memory at a time."""

Array = NDArray[np.float64]


def distance_spread(features: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Estimated standard deviation of the Frechet distance over sets of as many new samples.

    Args:
        features: of the samples, ``[n, d]``, n of 3 or more.
        mean: of the references, ``[d]``.
        covariance: of the references, ``[d, d]``.
    """
    count = len(features)
    kept = min(round(KEPT * count), count - 1)
    times = SUBSETS if count <= LARGE else FEWER_SUBSETS
    rng = np.random.default_rng(SEED)
    subsets = (rng.choice(count, kept, replace=False) for _ in range(times))
    found = []
    with progress_bar("spread of the distance", times, "subsets", passing=True) as bar:
        for distance in resampled_distances(features, mean, covariance, subsets):
            found.append(distance)
            bar.advance()
    # Variances: that of subsets is to that of new sets as what is left out to what is kept.
    return float(np.std(found) * np.sqrt(kept / (count - kept)))


def resampled_distances(
    features: Tensor, mean: Tensor, covariance: Tensor, resamples: Iterable[Any]
) -> Iterator[float]:
    """Frechet distance of each resample of ``features`` ``[n, d]``.

    tr sqrt(A B) is the sum of the roots of AB's eigenvalues, in one of two forms, whichever is the
    smaller matrix. Both weigh a sample by how often the resample holds it.

    Args:
        features: of the samples.
        mean: of the references, ``[d]``.
        covariance: of the references, ``[d, d]``.
        resamples: the numbers of each one's samples, from 0, with or without repeats.
    """
    x = features.double().numpy()
    theirs = covariance.double().numpy()
    # About their own mean, so that no large numbers cancel.
    middle = x.mean(0)
    x = x - middle
    offset = middle - mean.double().numpy()
    squares = np.einsum("nd,nd->n", x, x)
    few = KEPT * len(x) < len(theirs)
    eigenvalues = _by_samples(x, theirs) if few else _by_features(x, theirs)
    for index in resamples:
        counts = np.bincount(np.asarray(index), minlength=len(x)).astype(np.float64)
        total = counts.sum()
        shift = counts @ x / total
        trace = (counts @ squares - total * (shift @ shift)) / (total - 1)
        cross = np.sqrt(eigenvalues(counts).clip(min=0)).sum()
        yield float(((offset + shift) ** 2).sum() + trace + theirs.trace() - 2 * cross)


def _by_samples(x: Array, theirs: Array) -> Callable[[Array], Array]:
    """Eigenvalues of A B as those of X B X', a row a distinct sample: one product with B serves
    every resample, and samples that a resample holds twice enter once."""
    gram = x @ theirs @ x.T

    def eigenvalues(counts: Array) -> Array:
        rows = np.flatnonzero(counts)
        weights, total = counts[rows], counts.sum()
        g = gram[np.ix_(rows, rows)]
        # Centre with the weighted mean on either side.
        g -= (weights @ g / total)[None]
        g -= (g @ weights / total)[:, None]
        root = np.sqrt(weights / (total - 1))
        return np.linalg.eigvalsh(root[:, None] * g * root)

    return eigenvalues


def _by_features(x: Array, theirs: Array) -> Callable[[Array], Array]:
    """Eigenvalues of A B as those of L' A L with B = L L', a row a feature."""
    values, vectors = np.linalg.eigh(theirs)
    projected = x @ (vectors * np.sqrt(values.clip(min=0)))

    def eigenvalues(counts: Array) -> Array:
        rows, total = np.flatnonzero(counts), counts.sum()
        centre = counts @ projected / total
        moments = -total * np.outer(centre, centre)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            weighted = np.sqrt(counts[block])[:, None] * projected[block]
            moments += weighted.T @ weighted
        return np.linalg.eigvalsh(moments / (total - 1))

    return eigenvalues
