"""Metrics of points on a manifold: distances of two sets, and what a system says of itself.

The distances are of the coordinates of the space around the manifold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from bench.data.points import Points
from bench.quality.fidelity import MIN_IMAGES, evaluate, reference_hash
from bench.quality.formulas import MetricValue
from bench.quality.metrics import METRICS, metric_of
from bench.quality.registry import POINTS

MOST_POINTS = 5_000
"""Points of a set whose distances to each other are computed."""
DIRECTIONS, DIRECTIONS_SEED = 200, 0
"""Directions of the sliced distance, and the seed that they are drawn with."""


@dataclass(frozen=True)
class PointSamples:
    """Samples and references, as every formula of points is given them; float64 ``[n, d]``."""

    samples: Tensor
    reference: Tensor


def kernel_discrepancy(sets: PointSamples) -> MetricValue:
    """Squared maximum mean discrepancy, estimated without bias, so it may be below 0. The kernel is
    Gaussian, as wide as the median distance of two references (Gretton et al. 2012)."""
    samples, real = sets.samples[:MOST_POINTS], sets.reference[:MOST_POINTS]
    own, theirs = torch.cdist(samples, samples), torch.cdist(real, real)
    across = torch.cdist(samples, real)
    off = ~torch.eye(len(real), dtype=torch.bool)
    width = theirs[off].median()
    if not width > 0:
        raise ValueError("most references are one point")

    def kernel(distances: Tensor) -> Tensor:
        return (-distances.square() / (2 * width**2)).exp()

    def mean(distances: Tensor) -> Tensor:
        count = len(distances)
        return (kernel(distances).sum() - count) / (count * (count - 1))

    return MetricValue(float(mean(own) + mean(theirs) - 2 * kernel(across).mean()))


def sliced_distance(sets: PointSamples) -> MetricValue:
    """Mean over random directions of the Wasserstein-1 distance of the projections (Rabin et al.
    2012)."""
    generator = torch.Generator().manual_seed(DIRECTIONS_SEED)
    size = (sets.samples.shape[1], DIRECTIONS)
    directions = torch.randn(size, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    pairs = zip((sets.samples @ directions).T, (sets.reference @ directions).T, strict=True)
    each = [wasserstein_distance(a.numpy(), b.numpy()) for a, b in pairs]
    return MetricValue(float(np.mean(each)))


def score_points(
    samples: Tensor, reference: Points, figures: Callable[[Tensor], dict[str, float]]
) -> dict[str, float | int | str]:
    """Every metric of points of ``samples`` (float64 ``[n, coordinates]``).

    Args:
        figures: gives the system's own figures on held-out points
            (:meth:`sddpm.protocol.System.figures`).

    Returns:
        Columns and facts, as :func:`bench.quality.fidelity.score` gives them.

    Raises:
        ValueError: samples of another shape than the references', fewer than 10 points, or a figure
            that is not finite; the message names it.
    """
    if samples.dim() != 2 or samples.shape[1] != reference.shape.coordinates:
        raise ValueError(
            f"samples are {list(samples.shape)}; {reference.label} wants "
            f"[n, {reference.shape.coordinates}]"
        )
    for what, count in (("samples", len(samples)), ("references", len(reference))):
        if count < MIN_IMAGES:
            raise ValueError(f"{count} {what} are too few to score; at least {MIN_IMAGES}")
    against = f"for {len(samples)} samples against {len(reference)} references"
    chosen = [metric for metric in METRICS.values() if metric.reads == "points"]
    metrics = evaluate(chosen, (PointSamples(samples, reference.points),), against)
    for name, value in figures(reference.points).items():
        metric = metric_of(name.replace("_std", ""))
        if metric is None or metric.reads != "system":
            raise ValueError(f"the system's figure {name} is no metric that reads the system")
        if not math.isfinite(value):
            raise ValueError(f"metric {name} came out as {value} {against}")
        metrics[name] = value
    return {
        **metrics,
        "extractor": POINTS.key,
        "samples": len(samples),
        "references": len(reference),
        "reference": reference.label,
        "reference_hash": reference_hash(reference, POINTS),
    }
