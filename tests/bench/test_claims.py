"""Rules of verdicts, effects and interpolation, against figures worked by hand."""

from __future__ import annotations

import math

import pytest

from bench.claims.effects import at_energy, effect, propagated
from bench.claims.verdict import RULES, judge, lead


@pytest.mark.parametrize(
    ("mean", "spread", "figure", "verdict"),
    [
        (9.0, 0.5, 8.0, "holds"),
        (7.6, 0.5, 8.0, "holds"),  # 8.1 with the spread
        (7.4, 0.5, 8.0, "holds in direction"),  # 7.9
        (1.6, 0.5, 8.0, "holds in direction"),  # 1.1 without the spread: still above 1
        (1.4, 0.5, 8.0, "not seen"),
        (0.6, 0.5, 8.0, "not seen"),
        (0.4, 0.5, 8.0, "contradicted"),
        (1.6, 0.5, None, "holds"),
        (1.4, 0.5, None, "not seen"),
        (1.0, 0.0, None, "not seen"),
    ],
)
def test_so_many_times_better(
    mean: float, spread: float, figure: float | None, verdict: str
) -> None:
    assert judge("times", "better", mean, spread, figure) == verdict
    # The same claim the other way round: a ratio, of which less is better.
    if spread == 0:
        inverse = None if figure is None else 1 / figure
        assert judge("ratio", "better", 1 / mean, 0, inverse) == verdict


@pytest.mark.parametrize(
    ("mean", "spread", "figure", "verdict"),
    [
        (0.33, 0.01, 0.375, "holds"),
        (0.38, 0.01, 0.375, "holds"),
        (0.40, 0.01, 0.375, "holds in direction"),
        (0.995, 0.01, 0.375, "not seen"),
        (1.02, 0.01, 0.375, "contradicted"),
    ],
)
def test_a_share_at_most(mean: float, spread: float, figure: float, verdict: str) -> None:
    assert judge("ratio", "better", mean, spread, figure) == verdict
    assert judge("share", "better", 100 * mean, 100 * spread, 100 * figure) == verdict


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [
        (0.8, 0.01, "holds"),
        (1.03, 0.0, "holds"),
        (1.06, 0.03, "holds"),  # 1.03
        (1.10, 0.05, "contradicted"),  # 1.05
    ],
)
def test_as_good_up_to_four_percent(mean: float, spread: float, verdict: str) -> None:
    assert judge("ratio", "comparable", mean, spread, 1.04) == verdict


def test_signed_figures_are_compared_by_their_difference() -> None:
    assert judge("difference", "better", -0.3, 0.2) == "holds"
    assert judge("difference", "better", 0.3, 0.2) == "contradicted"
    assert judge("difference", "comparable", 0.1, 0.2) == "holds"
    assert judge("value", "better", -4.5, 0.2, -4.9) == "contradicted"
    assert judge("value", "better", -4.5, 0.5, -4.9) == "holds"


def test_a_rival_of_other_energy_decides_only_what_it_must() -> None:
    """Better than dearer rivals is better than an equal one; worse than cheaper ones is worse."""
    better, worse = (0.8, 0.1), (1.3, 0.1)
    assert judge("ratio", "better", *better, bound="dearer") == "holds"
    assert judge("ratio", "better", *worse, bound="dearer") == "not seen"
    assert judge("ratio", "better", *better, bound="cheaper") == "not seen"
    assert judge("ratio", "better", *worse, bound="cheaper") == "contradicted"


def test_every_verdict_is_explained_and_few_seeds_are_marked() -> None:
    assert list(RULES) == [
        "holds", "holds in direction", "not seen", "contradicted", "not tested here",
    ]  # fmt: skip
    assert lead(1) == "one seed: a lead"
    assert lead(2) == "2 seeds: a lead"
    assert lead(3) is None


def test_effects_and_their_errors() -> None:
    assert effect("ratio", 3, 6) == 0.5
    assert effect("share", 3, 6) == 50
    assert effect("times", 3, 6) == 2
    assert effect("less", 3, 6) == 50
    assert effect("difference", 3, 6) == -3
    assert effect("value", 3, 6) == 3
    # Relative errors of 3 % and 4 % make 5 %.
    assert propagated("ratio", 3, 6, 0.09, 0.24) == pytest.approx(0.025)
    assert propagated("times", 3, 6, 0.09, 0.24) == pytest.approx(0.1)
    assert propagated("share", 3, 6, 0.09, 0.24) == pytest.approx(2.5)
    assert propagated("less", 3, 6, 0.09, 0.24) == pytest.approx(2.5)
    assert propagated("difference", -3, 6, 0.3, 0.4) == pytest.approx(0.5)
    assert propagated("value", -3, 6, 0.3, 0.4) == 0.3


def test_interpolation_is_linear_in_logarithms() -> None:
    # From (1, 16) to (4, 4) the distance falls as 1 / energy.
    curve = [(4.0, 4.0), (1.0, 16.0), (16.0, 3.0)]
    assert at_energy(2, curve) == pytest.approx(8)
    assert at_energy(4, curve) == pytest.approx(4)
    # Half-way in the logarithm from 4 to 16, between 4 and 3.
    assert at_energy(8, curve) == pytest.approx(math.sqrt(4 * 3))
    assert at_energy(0.5, curve) == pytest.approx(16), "nothing is extrapolated"
    assert at_energy(99, curve) == pytest.approx(3)


def test_a_power_law_is_interpolated_exactly() -> None:
    law = [(energy, 20 * energy**-0.7) for energy in (0.3, 1.1, 5.0)]
    for energy in (0.31, 0.7, 1.1, 3.3, 4.9):
        assert at_energy(energy, law) == pytest.approx(20 * energy**-0.7)
