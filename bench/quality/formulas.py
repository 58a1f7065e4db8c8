"""The formulas of :data:`bench.quality.metrics.METRICS`.

The numbers are torch-fidelity's own, except density and coverage, which it does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from bench.quality.resampling import distance_spread

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
PRECISION_RAM_IMAGES = 10_000
"""Number of images from which on distances for precision and recall are computed in blocks."""
DENSITY_NEIGHBOURS = 5
"""Nearest neighbours that set the radius of a reference for density and coverage, as in the paper
(Naeem et al., 2020)."""
DENSITY_ROWS = 1_000
"""References whose distances are in memory at a time."""


@dataclass(frozen=True)
class Statistics:
    """A set of images as the metrics see it."""

    features: Tensor
    """float32 ``[n, d]``."""
    mean: Tensor
    """float32 ``[d]``."""
    covariance: Tensor
    """float64 ``[d, d]``."""


def summarise(features: Tensor) -> Statistics:
    """Mean and covariance of float32 features ``[n, d]``, kept beside them."""
    moments = fid_features_to_statistics(features)
    mean, covariance = (torch.from_numpy(moments[key]) for key in ("mu", "sigma"))
    return Statistics(features, mean, covariance)


@dataclass(frozen=True)
class MetricValue:
    """A metric's figure."""

    value: float
    spread: float | None = None
    """Standard deviation over its parts (splits of the Inception score, subsets of KID), or over
    sets of new samples (Frechet distance)."""


@dataclass(frozen=True)
class ImageSets:
    """Samples and references, as every formula is given them."""

    samples: Statistics
    reference: Statistics
    logits: Tensor | None
    """``[n, classes]`` of the samples; None of an extractor without classes."""
    kid_subset_size: int = KID_SUBSET_SIZE
    kid_subsets: int = KID_SUBSETS
    with_spread: bool = True
    """Whether the spread of the Frechet distance is wanted, which takes seconds."""

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of samples and of references."""
        return len(self.samples.features), len(self.reference.features)

    @cached_property
    def neighbours(self) -> dict[str, float]:
        """Precision and recall, which share their distances."""
        found: dict[str, float] = prc_features_to_metric(
            self.samples.features,
            self.reference.features,
            save_cpu_ram=max(self.counts) > PRECISION_RAM_IMAGES,
            verbose=False,
        )
        return found

    @cached_property
    def balls(self) -> tuple[Tensor, Tensor]:
        """For each reference, the number of samples inside its ball, and whether there is any.

        The ball of a reference reaches to its fifth nearest neighbour among the references.
        """
        samples, real = self.samples.features, self.reference.features
        nearest = min(DENSITY_NEIGHBOURS, len(real) - 1) + 1  # itself is the first
        inside = []
        for rows in real.split(DENSITY_ROWS):
            radius = torch.cdist(rows, real).kthvalue(nearest).values
            inside.append((torch.cdist(rows, samples) < radius[:, None]).sum(1))
        found = torch.cat(inside)
        return found, found > 0


def frechet_distance(sets: ImageSets) -> MetricValue:
    """Frechet distance of the normal distributions fitted to both sets' features, with its spread
    over sets of new samples."""
    moments = (
        {"mu": one.mean.numpy(), "sigma": one.covariance.numpy()}
        for one in (sets.samples, sets.reference)
    )
    value = fid_statistics_to_metric(*moments, False)["frechet_inception_distance"]
    if not sets.with_spread:
        return MetricValue(value)
    spread = distance_spread(sets.samples.features, sets.reference.mean, sets.reference.covariance)
    return MetricValue(value, spread)


def inception_score(sets: ImageSets) -> MetricValue:
    """Inception score of the samples' class probabilities, a mean over ten splits."""
    assert sets.logits is not None
    found = isc_features_to_metric(sets.logits)
    return MetricValue(found["inception_score_mean"], found["inception_score_std"])


def kernel_distance(sets: ImageSets) -> MetricValue:
    """Squared maximum mean discrepancy with a cubic kernel, a mean over subsets.

    A subset holds at most the smaller of the two sets. Where one subset is both sets entire, all
    subsets are the same, so there is one estimate and no spread.
    """
    size = min(sets.kid_subset_size, *sets.counts)
    subsets = 1 if sets.counts == (size, size) else sets.kid_subsets
    found = kid_features_to_metric(
        sets.samples.features,
        sets.reference.features,
        kid_subset_size=size,
        kid_subsets=subsets,
        verbose=False,
    )
    spread = found["kernel_inception_distance_std"] if subsets > 1 else None
    return MetricValue(found["kernel_inception_distance_mean"], spread)


def precision(sets: ImageSets) -> MetricValue:
    """Share of the samples that lie among the references' nearest neighbours."""
    return MetricValue(sets.neighbours["precision"])


def recall(sets: ImageSets) -> MetricValue:
    """Share of the references that lie among the samples' nearest neighbours."""
    return MetricValue(sets.neighbours["recall"])


def density(sets: ImageSets) -> MetricValue:
    """Number of references' balls that hold a sample, over the number expected: a mean over the
    samples. It may exceed 1."""
    inside, _ = sets.balls
    return MetricValue(float(inside.sum()) / (DENSITY_NEIGHBOURS * sets.counts[0]))


def coverage(sets: ImageSets) -> MetricValue:
    """Share of the references whose ball holds a sample."""
    _, covered = sets.balls
    return MetricValue(float(covered.float().mean()))
