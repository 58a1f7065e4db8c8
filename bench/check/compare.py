"""Regressions: two metric tables compared cell by cell, with a tolerance per metric.

A table is the ``table.csv`` or the ``records.jsonl`` that a run writes. Runs of one seed on one
machine give the same figures; elsewhere rounding moves them a little, and a tolerance says how
much is no regression. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.check.rows import Row, label, number, plain, value_of
from bench.quality.metrics import METRICS, Better, Tolerance, metric_of, shortfall, spread_column
from bench.records.identity import MADE_BY, MATCHED, MEASURED_ON, SCORED, WHERE_SET
from bench.registry import choose

Verdict = Literal["same", "improved", "regressed", "lost", "new"]

NOT_THERE = "not in the candidate"


@dataclass(frozen=True)
class Rule:
    """Better figures of a kind of metric, and the default limit on how much worse it may get."""

    better: Better
    tolerance: Tolerance | None
    """None: compared only where the user gives a tolerance."""


COST_RULES: dict[str, Rule] = {
    "energy": Rule("lower", Tolerance(5, percent=True)),
    "firing_rate": Rule("lower", None),
    "params_millions": Rule("lower", None),
    "evaluations_per_image": Rule("lower", None),
    "seconds": Rule("lower", None),
}
"""Kind of figure -> its rule, for the figures that are no sample quality: ``energy`` covers every
column of millijoules an image, ``seconds`` every wall time."""


def default_rules() -> dict[str, Rule]:
    """Kind of figure -> its rule: every metric's by its key, ``fd`` for ``fd_efflite0``, and
    :data:`COST_RULES`."""
    metrics = {m.key: Rule(m.better, m.tolerance) for m in METRICS.values()}
    return metrics | COST_RULES


@dataclass(frozen=True)
class Change:
    """One figure of one cell in both tables."""

    cell: str
    metric: str
    """Column of the table."""
    baseline: float | None
    candidate: float | None
    tolerance: Tolerance
    verdict: Verdict
    """``same``: within the tolerance; ``lost`` and ``new``: only one table has the figure."""


@dataclass(frozen=True)
class Comparison:
    """Result of the comparison of two tables."""

    changes: list[Change] = field(default_factory=list)
    """Changes of the cells in both tables, in the baseline's order."""
    missing: list[tuple[str, str]] = field(default_factory=list)
    """Cells of the baseline that have no comparable figures, each with the reason."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Cells that are worth a look, each with the reason; no failure."""
    cells: int = 0
    """Cells that the baseline has figures of."""

    def having(self, *verdicts: Verdict) -> list[Change]:
        return [change for change in self.changes if change.verdict in verdicts]

    @property
    def failed(self) -> bool:
        """Whether a figure regressed or was lost, or a cell is missing."""
        return bool(self.missing or self.having("regressed", "lost"))


def compare(
    baseline: Sequence[Row], candidate: Sequence[Row], tolerances: Mapping[str, Tolerance]
) -> Comparison:
    """Compare two tables' rows cell by cell.

    Args:
        tolerances: kind or column -> tolerance, in place of the :func:`default_rules`; a
            column goes before its kind.

    Raises:
        ValueError: a tolerance for a metric that neither table has, no extractor in common, no
            figure to compare with, or two rows of one cell.
    """
    keys = [
        name
        for name in MATCHED
        if (_has(baseline, name) and (_has(candidate, name) or not candidate))
        # A table has these columns only where a row sets one.
        or (name in WHERE_SET and (_has(baseline, name) or _has(candidate, name)))
    ]
    _check_extractors(baseline, candidate)
    promised = [row for row in baseline if _finished(row)]
    if not promised:
        raise ValueError("the baseline holds no finished cell, so there is nothing to compare with")
    rules = _rules([*baseline, *candidate], tolerances)
    there = _by_cell(candidate, keys, "candidate")
    _by_cell(baseline, keys, "baseline")

    result = Comparison(cells=len(promised))
    for row in promised:
        cell = label(row)
        other = there.get(_identity(row, keys))
        reason = _why_missing(row, other, candidate, keys)
        if reason is not None or other is None:
            result.missing.append((cell, reason or NOT_THERE))
            continue
        result.changes.extend(_compare_cell(cell, row, other, rules))
        changed = _differing(row, other, MADE_BY)
        if changed:
            result.notes.append((cell, f"not made alike: {changed}"))
    known = {_identity(row, keys) for row in promised}
    for row in candidate:
        if _identity(row, keys) not in known and _finished(row):
            result.notes.append((label(row), "the baseline has no figures of it"))
    return result


def parse_tolerance(text: str) -> tuple[str, Tolerance]:
    """``METRIC=5%`` or ``METRIC=0.002`` as the metric's name and its tolerance."""
    name, _, amount = (part.strip() for part in text.partition("="))
    percent = amount.endswith("%")
    try:
        number = float(amount.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not name or not (number >= 0 and math.isfinite(number)):
        raise ValueError(
            f"--tolerance {text}: expected METRIC=PERCENT% or METRIC=AMOUNT, as fid=5% or kid=0.002"
        )
    return name, Tolerance(number, percent)


def kind_of(column: str) -> str | None:
    """Kind of metric in a column; None if it holds none (a key, a hash, a spread)."""
    # Which rivals an ANN's row has depends on the table's other rows, so one may go without harm.
    if column.startswith("activations_"):
        return None
    if column.endswith("_mj_per_image"):  # per evaluation would say the same twice
        return "energy"
    if column.endswith("_seconds"):
        return "seconds"
    if column in COST_RULES:
        return column
    metric = metric_of(column)
    return metric.key if metric else None


def _rules(rows: Sequence[Row], tolerances: Mapping[str, Tolerance]) -> dict[str, Rule]:
    """Column -> rule with a tolerance, for the columns that are compared."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    metrics = {column: kind for column in columns if (kind := kind_of(column)) is not None}
    legal = list(dict.fromkeys([*metrics.values(), *metrics]))
    for name in tolerances:
        choose("metric", name, legal)
    rules, defaults = {}, default_rules()
    for column, kind in metrics.items():
        default = defaults[kind]
        tolerance = tolerances.get(column) or tolerances.get(kind) or default.tolerance
        if tolerance is not None:
            rules[column] = Rule(default.better, tolerance)
    return rules


def _compare_cell(cell: str, row: Row, other: Row, rules: Mapping[str, Rule]) -> Iterable[Change]:
    for metric, rule in rules.items():
        before, after = number(row, metric), number(other, metric)
        if before is not None or after is not None:
            assert rule.tolerance is not None
            tolerance = _above_noise(row, metric, rule.tolerance)
            verdict = _verdict(before, after, rule.better, tolerance)
            yield Change(cell, metric, before, after, tolerance, verdict)


def _above_noise(row: Row, column: str, tolerance: Tolerance) -> Tolerance:
    """``tolerance``; in percent of a metric that may be 0, no less than its spread."""
    before, metric = number(row, column), metric_of(column)
    least = metric.least_tolerance if metric else None
    if least is None or not tolerance.percent or before is None:
        return tolerance
    spread = number(row, spread_column(column))
    floor = spread if spread is not None and math.isfinite(spread) else least
    return tolerance if tolerance.allows(floor, before) else Tolerance(floor)


def _verdict(
    before: float | None, after: float | None, better: Better, tolerance: Tolerance
) -> Verdict:
    # A figure that is no number is no figure: its loss must not pass for a match.
    if before is None or not math.isfinite(before):
        return "new" if after is not None and math.isfinite(after) else "same"
    if after is None or not math.isfinite(after):
        return "lost"
    worse = shortfall(better, after) - shortfall(better, before)
    if not tolerance.allows(worse, before):
        return "regressed"
    return "same" if tolerance.allows(-worse, before) else "improved"


def _why_missing(
    row: Row, other: Row | None, candidate: Sequence[Row], keys: Sequence[str]
) -> str | None:
    """Reason for which a cell of the baseline has no comparable figures; None if it has some."""
    measured_on: tuple[str, ...] = MEASURED_ON
    if other is None:  # the same model, perhaps, with other samples or scored otherwise
        loose = [name for name in keys if name not in SCORED]
        same = (near for near in candidate if _identity(near, loose) == _identity(row, loose))
        other, measured_on = next(same, None), (*SCORED, *MEASURED_ON)
    if other is None:
        return NOT_THERE
    if not _finished(other):
        return f"{other['status']} in the candidate"
    differing = _differing(row, other, measured_on)
    return f"not comparable: {differing}" if differing else None


def _finished(row: Row) -> bool:
    return row.get("status") in (None, "ok")


def _differing(row: Row, other: Row, names: Iterable[str]) -> str:
    """``samples 1000 and 100`` for each of ``names`` in which two rows differ."""
    found = []
    for name in names:
        one, two = row.get(name), other.get(name)
        # Of a hash, the text: as numbers, 1e999... and 2e999... are the same.
        alike = one == two if name.endswith("_hash") else value_of(one) == value_of(two)
        if one is not None and two is not None and not alike:
            found.append(f"{name} {plain(one)} and {plain(two)}")
    return ", ".join(found)


def _check_extractors(baseline: Sequence[Row], candidate: Sequence[Row]) -> None:
    one, two = ({row["extractor"] for row in t if row["extractor"]} for t in (baseline, candidate))
    if one and two and not one & two:
        raise ValueError(
            f"no shared extractor: the baseline was scored with {', '.join(sorted(map(str, one)))}"
            f", the candidate with {', '.join(sorted(map(str, two)))}"
        )


def _by_cell(rows: Sequence[Row], keys: Sequence[str], table: str) -> dict[tuple[Any, ...], Row]:
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if _identity(row, keys) in found:
            raise ValueError(
                f"the {table} holds two rows of one cell ({label(row)}); give tables of one suite"
            )
        found[_identity(row, keys)] = row
    return found


def _has(rows: Sequence[Row], name: str) -> bool:
    return any(name in row for row in rows)


def _identity(row: Row, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(value_of(row.get(name)) for name in keys)
