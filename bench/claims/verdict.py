"""Rules from a measured effect to a verdict: the one place that states them. Imports no torch.

With m the mean effect, s its spread, c the claimed figure and n the effect of two equal figures,
all turned so that more is in the claim's favour:

================== ============================================================
verdict            of a claim that something is better
================== ============================================================
holds              m - s > n and m + s >= c (or no figure is claimed)
holds in direction m - s > n and m + s < c
not seen           m - s <= n <= m + s
contradicted       m + s < n
================== ============================================================

A claim that something is as good, at most c worse, holds if m + s >= c, and is contradicted
otherwise.
"""

from __future__ import annotations

from typing import Literal

from bench.claims.effects import LARGER_IS_BETTER, NOTHING, Compare
from bench.records.identity import SEEDS_OF_A_RESULT

Verdict = Literal[
    "holds", "holds in direction", "not seen", "contradicted", "not tested here"
]  # fmt: skip
Expects = Literal["better", "comparable"]
Bound = Literal["cheaper", "dearer"]
"""Rival that is not at the same energy: all are cheaper than the network, or all are dearer."""

RULES: dict[Verdict, str] = {
    "holds": "the claimed figure is reached within the spread of the seeds, and the effect has the "
    "claimed direction by more than that spread. A claim without a figure needs the direction "
    "alone. A claim of equality holds if the network is worse by no more than the claimed figure "
    "and the spread.",
    "holds in direction": "the direction is right by more than the spread, and the claimed figure "
    "is not reached.",
    "not seen": "the effect is within the spread, or the records cannot decide.",
    "contradicted": "the effect has the opposite direction by more than the spread. A claim of "
    "equality is contradicted if the network is worse than the claimed figure by more than the "
    "spread.",
    "not tested here": "no record answers it; the line says why.",
}
"""Every verdict in words."""


def judge(
    compare: Compare,
    expects: Expects,
    mean: float,
    spread: float,
    figure: float | None = None,
    bound: Bound | None = None,
) -> Verdict:
    """The verdict on one measured effect.

    Args:
        mean: of the effect over seeds.
        spread: standard deviation over seeds; 0 where none is known.
        figure: the claimed effect; None: only the direction is claimed.
        bound: that the rival is no equal one. A network that is better than dearer rivals is
            better at equal energy too, and one that is worse than cheaper rivals is worse; the
            other two cases decide nothing.
    """
    sign = 1.0 if compare in LARGER_IS_BETTER else -1.0
    nothing = NOTHING[compare]
    claimed = nothing if figure is None else figure
    assert claimed is not None, "compare: value needs a figure"
    low, high, wanted = sign * mean - spread, sign * mean + spread, sign * claimed
    if expects == "comparable" or nothing is None:
        verdict: Verdict = "holds" if high >= wanted else "contradicted"
    elif high < sign * nothing:
        verdict = "contradicted"
    elif low <= sign * nothing:
        verdict = "not seen"
    else:
        verdict = "holds" if figure is None or high >= wanted else "holds in direction"
    decides = {"cheaper": ("contradicted",), "dearer": ("holds", "holds in direction")}
    return verdict if bound is None or verdict in decides[bound] else "not seen"


def lead(seeds: int) -> str | None:
    """Mark of a figure of too few seeds; None for a result."""
    if seeds >= SEEDS_OF_A_RESULT:
        return None
    return f"{'one seed' if seeds == 1 else f'{seeds} seeds'}: a lead"
