"""The rows of a ranking that differ by more than chance: tests over seeds, and intervals of means.

With two or more seeds on both sides, Welch's t-test over seeds (Welch 1947) asks whether trainings
differ. With one seed on a side no test of the training exists. Then the metric's spread over
new samples, where records have it, asks whether the samples differ at all. Tests of one
ranking's neighbours are corrected by Holm's method (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.quality.metrics import is_resampled, is_signed, shown, spread_column
from bench.report.boards import Board, Row, Stat
from bench.tables.text import DASH

LEVEL = 0.05
"""Probability of a difference by chance below which two rows differ."""
COVERAGE = 0.95
SEEDS_OF_INTERVAL = 3
"""Fewest seeds of an interval: over two it is 13 times as wide as their standard deviation."""
ALIKE = "≈"
ONE_SEED = "one seed"
NO_TEST = f"{ONE_SEED}: no test of the training"
SEEDS, SAMPLES = "seeds' spread", "samples' spread"

Array = NDArray[np.float64]
Cell = tuple[str, float | None]
"""Text of an entry, and the value that it is sorted by."""


@dataclass(frozen=True)
class Difference:
    """Difference of the means of two rows."""

    tested: Literal["seeds", "samples"] | None
    """Origin of the spread that it is compared with; None: no spread is known."""
    p: float | None
    """Probability of a difference as large by chance, corrected where it is one of several."""

    @property
    def text(self) -> str:
        """Verdict and probability, for an entry of a table."""
        if self.p is None:
            return ONE_SEED
        chance = probability(self.p)
        if self.tested == "samples":
            return f"{ONE_SEED}; samples {ALIKE if self.p >= LEVEL else 'differ'}, {chance}"
        return f"{ALIKE}, {chance}" if self.p >= LEVEL else f"yes, {chance}"

    @property
    def phrase(self) -> str:
        """The same, for the text about a single difference."""
        if self.p is None:
            return NO_TEST
        side = "within" if self.p >= LEVEL else "beyond"
        if self.tested == "seeds":
            return f"{side} the {SEEDS} ({probability(self.p)})"
        return f"{side} the {SAMPLES} ({probability(self.p)}); {NO_TEST}"


def neighbours(board: Board) -> dict[int, Difference]:
    """Difference of each ranked row from the row above it, by its rank, from 2."""
    metric = board.ranked_by
    rows = [row for row in board.done if metric and row.metric(metric)]
    if metric is None or len(rows) < 2:
        return {}
    found = differences(list(pairwise(rows)), metric)
    return dict(enumerate(found, start=2))


def columns(
    board: Board, found: Mapping[int, Difference]
) -> list[tuple[str, Callable[[int, Row], Cell]]]:
    """Columns of a ranking beside the metric that orders it: heading, and function from a row's
    number and the row to text and value.

    Args:
        found: what :func:`neighbours` gives.
    """
    metric = board.ranked_by
    if metric is None:
        return []

    def reach(number: int, row: Row) -> Cell:
        stat = row.metric(metric)
        ends = interval(stat, is_signed(metric)) if stat else None
        return (
            (DASH, None) if ends is None else (" to ".join(shown(metric, e) for e in ends), ends[0])
        )

    def against(number: int, row: Row) -> Cell:
        return (found[number].text, found[number].p) if number in found else (DASH, None)

    seeds = [len(stat.values) for row in board.done if (stat := row.metric(metric))]
    chosen: list[tuple[str, Callable[[int, Row], Cell]]] = []
    if max(seeds, default=0) >= SEEDS_OF_INTERVAL:
        chosen.append((f"{100 * COVERAGE:.0f} % interval", reach))
    if found:
        chosen.append(("Differs from the row above", against))
    return chosen


def differences(pairs: Sequence[tuple[Row, Row]], metric: str) -> list[Difference]:
    """Differences of pairs of rows that have the metric, corrected for their number.

    Figures that are all above 0 are compared by their logarithms: a distance's spread grows with
    the distance.
    """
    values = {id(row): row.metric(metric) for pair in pairs for row in pair}
    known = {key: stat for key, stat in values.items() if stat is not None}
    logs = not is_signed(metric) and all(v > 0 for stat in known.values() for v in stat.values)
    tested: list[Literal["seeds", "samples"] | None] = []
    for pair in pairs:
        if all(len(known[id(row)].values) > 1 for row in pair):
            tested.append("seeds")
        elif all(_samples_error(row, metric) is not None for row in pair):
            tested.append("samples")
        else:
            tested.append(None)
    chances: Array = np.full(len(pairs), np.nan)
    seeds = [n for n, by in enumerate(tested) if by == "seeds"]
    if seeds:
        chances[seeds] = _welch([pairs[n] for n in seeds], known, logs)
    samples = [n for n, by in enumerate(tested) if by == "samples"]
    if samples:
        chances[samples] = _normal([pairs[n] for n in samples], known, metric)
    at = np.flatnonzero(~np.isnan(chances))
    chances[at] = holm(chances[at])
    return [
        Difference(by, None if by is None else float(p))
        for by, p in zip(tested, chances, strict=True)
    ]


def holm(chances: Array) -> Array:
    """Probabilities of several tests, corrected by Holm's method: the smallest of m times m, the
    next times m - 1, and so on, none below the one before it and none above 1."""
    order = np.argsort(chances)
    factors = len(chances) - np.arange(len(chances))
    corrected = np.empty(len(chances))
    corrected[order] = np.maximum.accumulate(factors * chances[order]).clip(max=1)
    return corrected


def interval(stat: Stat, signed: bool) -> tuple[float, float] | None:
    """Interval that holds the mean over all trainings with probability 0.95, by Student's t over
    seeds; None with fewer than three seeds.

    Args:
        signed: whether figures may be below 0; else the interval ends there.
    """
    if len(stat.values) < SEEDS_OF_INTERVAL:
        return None
    spread = stat.spread or 0.0
    reach = spread / len(stat.values) ** 0.5 * stats.t.ppf((1 + COVERAGE) / 2, len(stat.values) - 1)
    low, high = float(stat.mean - reach), float(stat.mean + reach)
    return (low if signed else max(low, 0.0)), high


def probability(p: float) -> str:
    """A probability for people."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.01 else f"p = {p:.2f}"


def note(found: Mapping[int, Difference]) -> str:
    """Sentences that explain the entries of a ranking's column of differences."""
    tested = [one.tested for one in found.values() if one.p is not None]
    parts = []
    if tested:
        ways = {
            "seeds": "Welch's t-test over seeds",
            "samples": "the spread over new samples where a row has one seed",
        }
        how = " or by ".join(words for way, words in ways.items() if way in tested)
        parts.append(
            f"Against the row above: p by {how}, corrected by Holm's method for {len(tested)} "
            f"tested neighbours; {ALIKE}: not told apart (p of {LEVEL} or more)."
        )
    if any(one.tested != "seeds" for one in found.values()):
        parts.append(f"{NO_TEST.capitalize()}.")
    return " ".join(parts)


def _welch(pairs: Sequence[tuple[Row, Row]], known: Mapping[int, Stat], logs: bool) -> Array:
    """Probabilities by Welch's t-test, all pairs at once."""

    def moments(row: Row) -> tuple[float, float, int]:
        values = np.array(known[id(row)].values)
        values = np.log(values) if logs else values
        return float(values.mean()), float(values.std(ddof=1)), len(values)

    one, other = (np.array([moments(pair[side]) for pair in pairs]).T for side in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        chances = stats.ttest_ind_from_stats(*one, *other, equal_var=False).pvalue
    # Without any spread there is no t.
    still = (one[1] == 0) & (other[1] == 0)
    return np.where(still, (one[0] == other[0]).astype(float), chances)


def _normal(pairs: Sequence[tuple[Row, Row]], known: Mapping[int, Stat], metric: str) -> Array:
    """Probabilities by the normal distribution, with the spread over samples of both sides."""
    gaps = np.array([known[id(a)].mean - known[id(b)].mean for a, b in pairs])
    errors = np.array([[_samples_error(row, metric) or 0.0 for row in pair] for pair in pairs])
    width = np.hypot(*errors.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.abs(gaps) / width
    return 2 * stats.norm.sf(np.where(gaps == 0, 0.0, far))


def _samples_error(row: Row, metric: str) -> float | None:
    """Standard deviation of a row's mean over sets of new samples; None where it is not known."""
    stat = row.metric(spread_column(metric)) if is_resampled(metric) else None
    if stat is None:
        return None
    return float(np.sqrt(np.square(stat.values).sum()) / len(stat.values))
