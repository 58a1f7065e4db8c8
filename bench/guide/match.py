"""The gain at which a few samples look like the data: as much contrast, and as little noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GAINS = (0.96, 0.98, 1.04, 1.08, 1.16, 1.25)
"""Default gains beside 1, as trained."""
MATCH_IMAGES = 64
"""Images drawn at each gain to measure its pixels."""
FINENESS = 0.001
"""Step between the gains that are compared on the line through the measured ones."""


@dataclass(frozen=True)
class GainChoice:
    """A gain, and the measurements that chose it."""

    gain: float
    curve: list[dict[str, float]]
    """Per measured gain: ``gain``, ``contrast``, ``saturation``, ``noise`` and ``mismatch``."""
    network_evaluations: int
    """Evaluations of one image that the choice cost."""
    method: str = "match"


def choose_by_match(
    ratios: Callable[[float], Mapping[str, float]],
    gains: Sequence[float],
    evaluations_per_gain: int,
) -> GainChoice:
    """The gain with the least ``mismatch = (ln contrast)^2 + (ln noise)^2``.

    Contrast and noise are the ratios of :mod:`bench.quality.pixels`, 1 where samples are like the
    data. Their logarithms are interpolated linearly in the logarithm of the gain, so the choice may
    lie between two measured gains, on a grid of :data:`FINENESS`.

    Args:
        ratios: gain -> ``contrast``, ``noise`` and perhaps other ratios of samples drawn at it.
        gains: to be measured.
        evaluations_per_gain: network evaluations of one image behind a measurement.

    Raises:
        ValueError: the images, or the data, are of one grey level, so that nothing can be matched.
    """
    measured = sorted(set(gains))
    curve = []
    for gain in measured:
        found = ratios(gain)
        if not (found.get("contrast") and found.get("noise")):
            raise ValueError(
                f"gain {gain:g}: samples or training images are of one grey level, so contrast and "
                "noise cannot be matched; choose by --method grid"
            )
        mismatch = float(_mismatch(np.log(found["contrast"]), np.log(found["noise"])))
        curve.append({"gain": gain, **found, "mismatch": mismatch})
    where = np.log(measured)
    steps = round((measured[-1] - measured[0]) / FINENESS)
    fine = np.append(measured, measured[0] + FINENESS * np.arange(steps + 1))
    logs = (
        np.interp(np.log(fine), where, np.log([row[name] for row in curve]))
        for name in ("contrast", "noise")
    )
    best = fine[int(np.argmin(_mismatch(*logs)))]
    return GainChoice(round(float(best), 6), curve, len(measured) * evaluations_per_gain)


def _mismatch(contrast: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.square(contrast) + np.square(noise)
