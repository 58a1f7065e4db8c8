"""Comparisons of two figures of which smaller is better: how large the effect is, and how far the
seeds spread it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot
from typing import Literal

import numpy as np

Compare = Literal["ratio", "share", "times", "less", "difference", "value"]
"""``ratio``: a / b. ``share``: a in percent of b. ``times``: b / a. ``less``: by how many percent a
is below b. ``difference``: a - b. ``value``: a alone."""
NOTHING: dict[Compare, float | None] = {
    "ratio": 1.0, "share": 100.0, "times": 1.0, "less": 0.0, "difference": 0.0, "value": None,
}  # fmt: skip
"""Effect of two equal figures."""
LARGER_IS_BETTER = frozenset[Compare]({"times", "less"})
"""Comparisons whose effect grows as a gets better."""


def effect(compare: Compare, a: float, b: float) -> float:
    """The effect of ``a`` against ``b``."""
    match compare:
        case "ratio":
            return a / b
        case "share":
            return 100 * a / b
        case "times":
            return b / a
        case "less":
            return 100 * (1 - a / b)
        case "difference":
            return a - b
        case "value":
            return a


def propagated(compare: Compare, a: float, b: float, error_a: float, error_b: float) -> float:
    """Standard deviation of the effect, if ``a`` and ``b`` vary independently by these standard
    deviations, to first order."""
    if compare == "value":
        return error_a
    if compare == "difference":
        return hypot(error_a, error_b)
    size = effect("share", a, b) if compare == "less" else effect(compare, a, b)
    return abs(size) * hypot(error_a / a, error_b / b)


def at_energy(energy: float, curve: Sequence[tuple[float, float]]) -> float:
    """Distance that the networks of ``curve`` reach at ``energy``.

    The logarithm of the distance is interpolated linearly over the logarithm of the energy. Beyond
    its ends the curve is its last point: nothing is extrapolated.

    Args:
        curve: (energy, distance), both above 0, in any order.
    """
    energies, distances = zip(*sorted(curve), strict=True)
    return float(np.exp(np.interp(np.log(energy), np.log(energies), np.log(distances))))
