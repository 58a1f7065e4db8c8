"""Power laws: those that made the points are found again, within intervals that hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.report.powerlaw import Estimate, fit

N = [8_000, 16_000, 32_000, 64_000, 128_000]


def test_a_law_without_noise_is_found_exactly() -> None:
    law = fit(N, [300 * n**-0.4 for n in N])
    assert law.exponent.value == pytest.approx(0.4)
    assert not law.has_floor
    further = law.log_distance(64_000_000).interval(math.exp)
    assert further.value == pytest.approx(300 * 64_000_000**-0.4)


def test_a_floor_is_kept_where_the_points_show_it() -> None:
    many = [*N, 256_000, 512_000]
    law = fit(many, [300 * n**-0.8 + 2.0 for n in many])
    assert law.floor is not None
    assert law.floor.value == pytest.approx(2.0, rel=1e-4)
    assert law.exponent.value == pytest.approx(0.8, rel=1e-4)
    # The slope is the derivative of the law that was put in.
    n, step = 50_000, 1e-4
    ends = [math.log(300 * (n * math.exp(d)) ** -0.8 + 2.0) for d in (-step, step)]
    assert law.slope(n).value == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)
    # Five points cannot tell a floor from a small exponent.
    assert not fit(N, [300 * n**-0.8 + 2.0 for n in N]).has_floor


def test_noise_is_seldom_taken_for_a_floor() -> None:
    random = np.random.default_rng(2)
    many = [8_000 * 2**k for k in range(8)]
    laws = [
        fit(many, [300 * n**-0.4 * math.exp(random.normal(0, 0.05)) for n in many])
        for _ in range(100)
    ]
    assert sum(law.has_floor for law in laws) <= 10


def test_intervals_are_those_of_a_straight_line_through_the_logarithms() -> None:
    noise = np.random.default_rng(3).normal(0, 0.1, len(N))
    distances = [300 * n**-0.4 * math.exp(e) for n, e in zip(N, noise, strict=True)]
    law = fit(N, distances)
    line = stats.linregress(np.log(N), np.log(distances))
    reach = stats.t.ppf(0.975, 3) * line.stderr
    exponent = law.exponent.interval()
    assert exponent.value == pytest.approx(-line.slope)
    assert exponent.high - exponent.value == pytest.approx(reach)
    # Prediction of one more point, by the textbook's formula.
    x = np.log(N)
    at = math.log(1_280_000)
    rest = np.log(distances) - line.intercept - line.slope * x
    variance = (rest**2).sum() / 3
    spread = variance * (1 + 1 / 5 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    assert law.log_distance(1_280_000).variance == pytest.approx(spread)


def test_nineteen_of_twenty_intervals_hold_the_exponent() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        law = fit(N[:4], [300 * n**-0.4 * math.exp(random.normal(0, 0.1)) for n in N[:4]])
        ends = law.exponent.interval()
        held += ends.low < 0.4 < ends.high
    assert 180 <= held <= 199


def test_a_difference_has_the_degrees_of_freedom_of_welch() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(0, 1, 6), random.normal(0, 3, 9)
    means = [Estimate(x.mean(), x.var(ddof=1) / len(x), len(x) - 1) for x in (a, b)]
    ours = (means[0] - means[1]).interval()
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize(
    ("n", "distances", "why"),
    [
        ([8_000], [5.0], "no law through 1 point: at least 3 are needed"),
        ([8_000, 16_000], [5.0, 4.0], "no law through 2 points: at least 3 are needed"),
        ([1, 2, 4], [5.0, 5.0, 5.0], "no law: all distances are equal"),
        ([1, 2, 4], [5.0, 0.0, 5.0], "no law: a value is not above 0"),
    ],
)
def test_points_without_a_law_say_why(n: list[float], distances: list[float], why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        fit(n, distances)


@pytest.mark.parametrize("distances", [[10, 20, 20, 10], [10, 10 + 1e-9, 10, 10]])
def test_points_that_neither_rise_nor_fall_have_the_exponent_0(distances: list[float]) -> None:
    law = fit([1_000, 2_000, 4_000, 8_000], distances)
    interval = law.exponent.interval()
    assert interval.value == pytest.approx(0, abs=1e-9)
    assert interval.low < 0 < interval.high
