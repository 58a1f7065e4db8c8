"""Tables of a board's curves: the power laws, and whether the gap between spiking networks and
those without spikes closes as training grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bench.quality.metrics import heading
from bench.records.identity import SEEDS_OF_A_RESULT
from bench.report.boards import Board, base_name
from bench.report.curves import AXES, Curve, Gap, curves, gaps
from bench.report.powerlaw import Interval
from bench.report.tables import Column, Entry, Line, TableText
from bench.suites.reading import read_outline, shipped_suites
from bench.tables.text import DASH

FURTHER = 10
"""Factor from the largest measured budget to the nearer of the two that ratios are predicted at."""
CONVERGED = 0.03
"""Relative change of a distance by twice the training, below which a budget has converged."""
LAW_NOTE = (
    "Laws: distance = a n^-b + c by least squares of the log distance, through the means over "
    "seeds. c is 0 unless the points determine it. Brackets: 95 % by Student's t from the "
    "covariance of the fit. They hold the scatter of the points about the law, and not a floor "
    "that these points do not show."
)
DOUBLING_NOTE = (
    "Last doubling: change of the mean distance from half the most images on. A budget has "
    f"converged if twice the training changes the distance by less than {100 * CONVERGED:.0f} %."
)
_VERDICTS = {
    "closes": "falls faster with training: the gap closes",
    "widens": "falls more slowly with training: the gap widens",
    "open": "falls about as fast: these points do not decide whether the gap closes",
}


def scaling_tables(board: Board) -> list[TableText]:
    """The laws of ``board``'s curves, and what they say of the gap; none without curves."""
    found = curves(board)
    if not found:
        return []
    pairs = gaps(found)
    return [_laws(board, found), *([_gaps(board, pairs)] if pairs else [])]


def published_images(board: Board) -> int | None:
    """Images that the paper trains on, by the preset ``paper`` of the data set's own suite; None
    where there is none, or none that is stated in steps."""
    name = base_name(board.dataset)
    if name not in shipped_suites():
        return None
    outline: Mapping[str, Any] = read_outline(name)
    budget = ((outline.get("presets") or {}).get("paper") or {}).get("budget") or {}
    steps, batch = budget.get("train_steps"), budget.get("batch_size")
    return steps * batch if steps and batch else None


def gap_sentence(gap: Gap) -> str:
    """Whether the gap closes, with the exponents' intervals."""
    ours, theirs = (law.slope(gap.n).interval() for law in gap.laws)
    lead = min(gap.spiking.fewest_seeds, gap.other.fewest_seeds) < SEEDS_OF_A_RESULT
    return (
        f"{gap.spiking.label} against {gap.other.label}: its distance {_VERDICTS[gap.verdict]} "
        f"(exponents {interval_text(ours)} and {interval_text(theirs)}; difference "
        f"{interval_text(gap.closing.interval())})."
        + (f" A lead: some points have fewer than {SEEDS_OF_A_RESULT} seeds." if lead else "")
    )


def interval_text(interval: Interval) -> str:
    """A figure and its interval, as ``0.40 [0.31, 0.49]``."""
    return f"{_short(interval.value)} [{_short(interval.low)}, {_short(interval.high)}]"


def _laws(board: Board, found: list[Curve]) -> TableText:
    headings = ["Over", "System", "Points", "From", "To", "Seeds a point", "Exponent b", "Floor c"]
    headings.append("Last doubling (%)")

    def line(curve: Curve) -> Line:
        first, last = curve.points[0].n, curve.points[-1].n
        seeds = sorted({len(point.stat.values) for point in curve.points})
        ends = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        law = curve.law
        exponent = law.exponent.interval() if law else None
        floor = law.floor.interval() if law and law.floor else None
        moved = curve.last_doubling
        return Line(
            [
                Entry(AXES[curve.axis], curve.axis),
                Entry(curve.label, curve.label.casefold()),
                Entry(str(len(curve.points)), len(curve.points)),
                Entry(_number(first), first),
                Entry(_number(last), last),
                Entry(ends, seeds[0]),
                Entry(interval_text(exponent), exponent.value) if exponent else Entry(DASH),
                Entry(interval_text(floor), floor.value) if floor else Entry("0" if law else DASH),
                Entry(DASH) if moved is None else Entry(f"{100 * moved:+.1f}", moved),
            ]
        )

    notes = [LAW_NOTE]
    if any(curve.last_doubling is not None for curve in found):
        notes.append(DOUBLING_NOTE)
    notes += [f"{c.label}, {AXES[c.axis]}: {c.reason}." for c in found if c.reason]
    return TableText(
        name=f"laws-{board.name}",
        caption=f"Power laws of {heading(board.ranked_by or '')}: {board.protocol}. The larger b, "
        "the faster the distance falls.",
        columns=[Column(text, text not in ("Over", "System")) for text in headings],
        lines=[line(curve) for curve in found],
        notes=notes,
    )


def _gaps(board: Board, pairs: list[Gap]) -> TableText:
    most = max(gap.n for gap in pairs)
    further = [round(FURTHER * most)]
    paper = published_images(board)
    if paper is not None and paper > most:
        further.append(paper)
    columns = [Column("System", figures=False), Column("Against", figures=False)]
    columns += [Column("Images"), Column("Ratio measured"), Column("Exponents' difference")]
    columns += [Column(f"Ratio predicted at {_number(n)} images") for n in further]

    def line(gap: Gap) -> Line:
        closing = gap.closing.interval()
        entries = [
            Entry(gap.spiking.label, gap.spiking.label.casefold()),
            Entry(gap.other.label, gap.other.label.casefold()),
            Entry(_number(gap.n), gap.n),
            Entry(f"{gap.ratio:.2f}", gap.ratio),
            Entry(interval_text(closing), closing.value),
        ]
        for n in further:
            ratio = gap.log_ratio(n).interval(_exp)
            entries.append(Entry(interval_text(ratio), ratio.value))
        return Line(entries)

    notes = [gap_sentence(gap) for gap in pairs]
    if paper in further:
        notes.append(
            f"{_number(paper)} images are the paper's training, {paper / most:,.0f} times the "
            "largest here: that column is an extrapolation, not a measurement."
        )
    return TableText(
        name=f"gaps-{board.name}",
        caption="Does the gap close? Distance of a spiking network over that of the network "
        "without spikes that is nearest to it in parameters; below 1 the spiking one is better. "
        "Brackets: 95 % of one more point of each, which is a mean over as many seeds.",
        columns=columns,
        lines=[line(gap) for gap in pairs],
        notes=notes,
    )


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _short(value: float) -> str:
    """Two decimals, or two digits of what those would not show."""
    return f"{value:.2f}" if 0.1 <= abs(value) < 1000 or value == 0 else f"{value:.2g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
