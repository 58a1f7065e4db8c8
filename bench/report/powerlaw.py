"""Power laws: a distance that falls with images, parameters or spiking time steps.

``distance = a * n ** -b + c`` is fitted to the logarithms of the distances by least squares, a
point each, so that a relative error counts equally at both ends of a curve. Intervals are of 95 %:
Student's t on the covariance of the least squares, with as many degrees of freedom as there are
points above parameters. The scatter of the points about the law, which holds the noise of seeds and
what the law does not describe, is all that they know.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
"""Probability that an interval is made for."""
FEWEST = 3
"""Points of a law without a floor: one more than it has parameters."""
FEWEST_WITH_FLOOR = 6
"""Points of a law with one. Of five, Akaike's corrected criterion takes no third parameter."""

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that it lies in."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A figure with the variance of its error, which follows Student's t."""

    value: float
    variance: float
    freedom: float
    """Degrees of freedom."""

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two independent figures; degrees of freedom by Welch (1947)."""
        variance = self.variance + other.variance
        parts = self.variance**2 / self.freedom + other.variance**2 / other.freedom
        # Without an error there is nothing that degrees of freedom could change.
        freedom = variance**2 / parts if parts > 0 else min(self.freedom, other.freedom)
        return Estimate(self.value - other.value, variance, freedom)

    def interval(self, through: Callable[[float], float] = float) -> Interval:
        """The figure and its interval.

        Args:
            through: increasing function that all three are shown through, as ``math.exp``.
        """
        from scipy.stats import t

        reach = float(t.ppf((1 + LEVEL) / 2, self.freedom)) * math.sqrt(self.variance)
        ends = (self.value - reach, self.value + reach)
        return Interval(through(self.value), *map(through, ends))


@dataclass(frozen=True)
class PowerLaw:
    """A law that was fitted: ``distance = exp(log_scale) * (n / centre) ** -b + c``."""

    centre: float
    """Geometric mean of the points' n, at which scale and exponent are least correlated."""
    parameters: tuple[float, ...]
    """Log scale, exponent b and, if the points determine one, floor c."""
    scatter: float
    """Variance of a point's log distance about the law."""
    freedom: int
    """Points above parameters."""
    covariance: Any = field(repr=False, compare=False)
    """Covariance of the parameters."""

    @property
    def has_floor(self) -> bool:
        return len(self.parameters) > 2

    @property
    def exponent(self) -> Estimate:
        return self._parameter(1)

    @property
    def floor(self) -> Estimate | None:
        """The distance that no n goes below; None: the law has none."""
        return self._parameter(2) if self.has_floor else None

    def log_distance(self, n: float) -> Estimate:
        """Logarithm of the distance that one more point at ``n`` would have."""
        value, gradient = self._log(n)
        return Estimate(value, self._error(gradient) + self.scatter, self.freedom)

    def slope(self, n: float) -> Estimate:
        """Relative fall of the distance with n, at ``n``: ``-d log(distance) / d log(n)``. Without
        a floor it is the exponent everywhere."""
        fall, floor, x = self._parts(n)
        total = fall + floor
        exponent = self.parameters[1]
        gradient = [
            exponent * fall * floor / total**2,
            fall / total - exponent * x * fall * floor / total**2,
            -exponent * fall / total**2,
        ]
        return Estimate(exponent * fall / total, self._error(gradient), self.freedom)

    def _parts(self, n: float) -> tuple[float, float, float]:
        """The part of the distance that falls, the floor, and log(n / centre)."""
        log_scale, exponent, *floor = self.parameters
        x = math.log(n / self.centre)
        return math.exp(log_scale - exponent * x), floor[0] if floor else 0.0, x

    def _log(self, n: float) -> tuple[float, list[float]]:
        """Log distance at ``n``, and its derivatives by the three parameters."""
        fall, floor, x = self._parts(n)
        total = fall + floor
        return math.log(total), [fall / total, -x * fall / total, 1 / total]

    def _parameter(self, index: int) -> Estimate:
        variance = float(self.covariance[index][index])
        return Estimate(self.parameters[index], variance, self.freedom)

    def _error(self, gradient: Sequence[float]) -> float:
        """Variance of a function of the parameters, to first order."""
        g = np.array(gradient[: len(self.parameters)])
        return float(g @ self.covariance @ g)


def fit(n: Sequence[float], distances: Sequence[float]) -> PowerLaw:
    """The power law through points.

    The floor is kept where the points determine it: Akaike's criterion, corrected for few points
    (Hurvich and Tsai 1989), prefers the law with a floor, and the intervals of floor and exponent
    lie above 0.

    Args:
        n: above 0, each once.
        distances: above 0.

    Raises:
        ValueError: why these points have no law.
    """
    if len(n) != len(set(n)) or len(n) != len(distances):
        raise ValueError(f"{len(n)} n and {len(distances)} distances: expected one each")
    if len(n) < FEWEST:
        points = "1 point" if len(n) == 1 else f"{len(n)} points"
        raise ValueError(f"no law through {points}: at least {FEWEST} are needed")
    if min(n) <= 0 or min(distances) <= 0:
        raise ValueError("no law: a value is not above 0")
    y = np.log(np.array(distances, dtype=float))
    if np.ptp(y) == 0:
        raise ValueError("no law: all distances are equal")
    centre = float(np.exp(np.mean(np.log(n))))
    x = np.log(np.array(n, dtype=float) / centre)
    bare = _straight(x, y, centre)
    if len(n) < FEWEST_WITH_FLOOR:
        return bare
    log_scale, exponent = bare.parameters
    half = min(distances) / 2
    start = (math.log(math.exp(log_scale) - half) if math.exp(log_scale) > half else log_scale,
             max(exponent, 0.1), half)  # fmt: skip
    floored = _least_squares(x, y, centre, tuple(map(float, start)))
    if floored is None or not _determined(floored) or _criterion(floored) >= _criterion(bare):
        return bare
    return floored


def _log_law(x: _Floats, log_scale: float, exponent: float, floor: float = 0.0) -> _Floats:
    law: _Floats = np.log(np.exp(log_scale - exponent * x) + floor)
    return law


def _straight(x: _Floats, y: _Floats, centre: float) -> PowerLaw:
    """The law without a floor: a straight line of the logarithms, whose ``x`` have the mean 0."""
    log_scale, exponent = float(y.mean()), -float(x @ y / (x @ x))
    freedom = len(x) - 2
    scatter = float(np.sum((y - _log_law(x, log_scale, exponent)) ** 2)) / freedom
    covariance = np.diag([scatter / len(x), scatter / float(x @ x)])
    return PowerLaw(centre, (log_scale, exponent), scatter, freedom, covariance)


def _least_squares(
    x: _Floats, y: _Floats, centre: float, start: tuple[float, ...]
) -> PowerLaw | None:
    """The law with a floor that is nearest to the points, from ``start`` on; None: it is not
    reached, or the points do not determine its parameters."""
    from scipy.optimize import OptimizeWarning, curve_fit

    lowest = [-np.inf, -np.inf, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", OptimizeWarning)
        try:
            found, covariance = curve_fit(_log_law, x, y, start, bounds=(lowest, np.inf))
        except (OptimizeWarning, RuntimeError):
            return None
    freedom = len(x) - len(start)
    scatter = float(np.sum((y - _log_law(x, *found)) ** 2)) / freedom
    return PowerLaw(centre, tuple(map(float, found)), scatter, freedom, covariance)


def _determined(law: PowerLaw) -> bool:
    floor = law.floor
    ends = [part.interval().low for part in (floor, law.exponent) if part is not None]
    return all(math.isfinite(low) and low > 0 for low in ends)


def _criterion(law: PowerLaw) -> float:
    """Akaike's criterion, corrected for few points; the smaller, the better."""
    points = law.freedom + len(law.parameters)
    k = len(law.parameters) + 1  # the scatter is estimated too
    likelihood = points * math.log(max(law.scatter * law.freedom, 1e-300) / points)
    return likelihood + 2 * k + 2 * k * (k + 1) / (points - k - 1)
