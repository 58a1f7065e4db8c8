"""Metrics that read pixels and need no extractor: contrast, saturation, noise and spectrum.

An extractor's distance can fall while pictures saturate or stay noisy. These four figures compare
the statistics of grey levels, so they see it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.quality.formulas import MetricValue

SATURATED_WITHIN = 2
"""Largest distance of a saturated value from 0 or from 255."""
ROUNDING_POWER = 1 / 12
"""Power at every frequency, in squared grey levels, of the error of rounding to whole grey levels.
Less than that is no measurement, so it is added to both spectra before they are compared."""


@dataclass(frozen=True)
class PixelStatistics:
    """A set of images as the metrics of pixels see it. All values are float64."""

    deviation: Tensor
    """Standard deviation of the grey levels over all images, channels and pixels."""
    saturated: Tensor
    """Share of the grey levels within :data:`SATURATED_WITHIN` of 0 or of 255."""
    laplacian_deviation: Tensor
    """Standard deviation of the Laplacian, the sum of a pixel's four neighbours minus four times
    the pixel, over all pixels that have four neighbours."""
    spectrum: Tensor
    """Radially averaged power ``[size // 2]`` at 1, 2, ... cycles per image, in squared grey
    levels; white noise has its variance at every frequency."""


def measure(batches: Iterable[Tensor]) -> PixelStatistics:
    """Statistics of the images in ``batches``: uint8 ``[n, channels, size, size]``, at least one.

    Sums of grey levels are whole numbers, so neither order nor batch size changes a deviation.
    """
    levels, laplacians, saturated = _Moments(), _Moments(), 0
    planes, power = 0, torch.zeros(())
    for batch in batches:
        values = batch.cpu().long()
        levels.add(values)
        laplacians.add(_laplacian(values))
        near_end = (values <= SATURATED_WITHIN) | (values >= 255 - SATURATED_WITHIN)
        saturated += int(near_end.sum())
        planes += values.shape[0] * values.shape[1]
        power = power + _power(values)
    return PixelStatistics(
        deviation=torch.tensor(levels.deviation, dtype=torch.float64),
        saturated=torch.tensor(saturated / levels.count, dtype=torch.float64),
        laplacian_deviation=torch.tensor(laplacians.deviation, dtype=torch.float64),
        spectrum=_radial_mean(power / planes),
    )


def contrast(samples: PixelStatistics, reference: PixelStatistics) -> MetricValue | None:
    """Standard deviation of the samples' grey levels over the references'."""
    return _ratio(samples.deviation, reference.deviation)


def saturation(samples: PixelStatistics, reference: PixelStatistics) -> MetricValue | None:
    """The samples' share of values at black or white over the references'."""
    return _ratio(samples.saturated, reference.saturated)


def noise(samples: PixelStatistics, reference: PixelStatistics) -> MetricValue | None:
    """Standard deviation of the samples' Laplacian over the references'."""
    return _ratio(samples.laplacian_deviation, reference.laplacian_deviation)


def spectral_distance(samples: PixelStatistics, reference: PixelStatistics) -> MetricValue | None:
    """Root mean square difference of the two spectra in decibels, over the frequencies."""
    if not len(reference.spectrum):
        return None
    decibels = [10 * (one.spectrum + ROUNDING_POWER).log10() for one in (samples, reference)]
    return MetricValue(float((decibels[0] - decibels[1]).square().mean().sqrt()))


def _ratio(samples: Tensor, reference: Tensor) -> MetricValue | None:
    """None where the references have none of what is compared."""
    return MetricValue(float(samples / reference)) if reference > 0 else None


class _Moments:
    """Mean and standard deviation of whole numbers, without rounding."""

    def __init__(self) -> None:
        self.count = self._sum = self._squares = 0

    def add(self, values: Tensor) -> None:
        self.count += values.numel()
        self._sum += int(values.sum())
        self._squares += int(values.square().sum())

    @property
    def deviation(self) -> float:
        """Standard deviation (n in the denominator); 0 without any number."""
        if not self.count:
            return 0.0
        return float((self.count * self._squares - self._sum**2) ** 0.5 / self.count)


def _laplacian(values: Tensor) -> Tensor:
    middle = values[..., 1:-1, 1:-1]
    beside = values[..., 1:-1, :-2] + values[..., 1:-1, 2:]
    above = values[..., :-2, 1:-1] + values[..., 2:, 1:-1]
    return beside + above - 4 * middle


def _power(values: Tensor) -> Tensor:
    """Sum of the power ``[size, size]`` at every frequency over images and channels."""
    found = torch.fft.fft2(values.double(), norm="ortho").abs().square()
    return found.sum((0, 1))


def _radial_mean(power: Tensor) -> Tensor:
    """Mean of ``power`` ``[size, size]`` over the frequencies nearest to 1, 2, ... cycles."""
    size = len(power)
    cycles = torch.fft.fftfreq(size, d=1 / size, dtype=torch.float64)
    radius = (cycles[:, None] ** 2 + cycles**2).sqrt().round().long().flatten()
    sums = torch.bincount(radius, power.flatten())
    return (sums / torch.bincount(radius))[1 : size // 2 + 1]
