"""Every metric of sample quality, one entry each, in the order of the tables. Imports no torch.

Tables, reports, ``check`` and LaTeX read everything about a metric here. To add one, write its
formula and add its entry. A record's column is the entry's key and the extractor's suffix, as
``fd_efflite0``; the spread of an estimate stands beside it, as ``kid_std_efflite0``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.quality.formulas import ImageSets, MetricValue


@dataclass(frozen=True)
class Tolerance:
    """Largest change of a figure for the worse that ``check`` accepts."""

    amount: float
    percent: bool = False
    """Whether the amount is a percentage of the baseline's figure; else it is in the metric's own
    unit."""

    def allows(self, worse: float, baseline: float) -> bool:
        """Whether a figure that got worse by ``worse`` is within it."""
        allowed = self.amount / 100 * abs(baseline) if self.percent else self.amount
        # A figure read back from text must not fail by its last bit.
        return worse <= allowed * (1 + 1e-9)

    def __str__(self) -> str:
        return f"{self.amount:g} %" if self.percent else f"{self.amount:g}"


@dataclass(frozen=True)
class Metric:
    """One metric of sample quality."""

    key: str
    """Beginning of its columns: small letters and digits, without an underscore."""
    title: str
    """Name in headings."""
    lower_is_better: bool
    decimals: int
    """Digits after the point in tables for people."""
    tolerance: Tolerance
    """The default of ``check``."""
    formula: str | None
    """Formula, as ``module:function`` of two :class:`ImageSets`. None for the name that another
    entry's formula has with features that are not Inception's."""
    ranks: bool = False
    """Whether rows are ordered by it."""
    reads_classes: bool = False
    """Whether it reads class probabilities, which not every extractor has."""
    least_tolerance: float | None = None
    """Least tolerance in percent mode, for a metric whose figures may be 0, if the baseline states
    no spread. A percentage of a small figure is less than its noise."""

    @property
    def arrow(self) -> str:
        """Arrow in the better direction."""
        return "↓" if self.lower_is_better else "↑"

    def load(self) -> Callable[[ImageSets], MetricValue]:
        """The formula; ValueError for an entry without."""
        if self.formula is None:
            raise ValueError(f"metric {self.key}: has no formula of its own")
        module, _, function = self.formula.partition(":")
        formula: Callable[[ImageSets], MetricValue] = getattr(import_module(module), function)
        return formula


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            key="fid",
            title="FID",
            lower_is_better=True,
            decimals=2,
            tolerance=Tolerance(5, percent=True),
            formula="bench.quality.formulas:frechet_distance",
            ranks=True,
        ),
        Metric(
            key="fd",
            title="FD",
            lower_is_better=True,
            decimals=2,
            tolerance=Tolerance(5, percent=True),
            formula=None,
            ranks=True,
        ),
        Metric(
            key="kid",
            title="KID",
            lower_is_better=True,
            decimals=4,
            tolerance=Tolerance(10, percent=True),
            formula="bench.quality.formulas:kernel_distance",
            least_tolerance=0.0005,
        ),
        Metric(
            key="is",
            title="IS",
            lower_is_better=False,
            decimals=2,
            tolerance=Tolerance(2, percent=True),
            formula="bench.quality.formulas:inception_score",
            reads_classes=True,
        ),
        Metric(
            key="precision",
            title="Precision",
            lower_is_better=False,
            decimals=3,
            tolerance=Tolerance(0.02),
            formula="bench.quality.formulas:precision",
        ),
        Metric(
            key="recall",
            title="Recall",
            lower_is_better=False,
            decimals=3,
            tolerance=Tolerance(0.02),
            formula="bench.quality.formulas:recall",
        ),
        Metric(
            key="density",
            title="Density",
            lower_is_better=False,
            decimals=3,
            tolerance=Tolerance(0.05),
            formula="bench.quality.formulas:density",
        ),
        Metric(
            key="coverage",
            title="Coverage",
            lower_is_better=False,
            decimals=3,
            tolerance=Tolerance(0.02),
            formula="bench.quality.formulas:coverage",
        ),
    )
}


def metric_of(column: str) -> Metric | None:
    """The metric of a column; None for a spread and for other columns."""
    key, _, suffix = column.partition("_")
    return None if _is_spread(suffix) else METRICS.get(key)


def is_column(column: str) -> bool:
    """Whether a column holds a metric or the spread of one."""
    return column.partition("_")[0] in METRICS


def spread_column(column: str) -> str:
    """The column of a metric's spread: ``kid_std_efflite0`` for ``kid_efflite0``."""
    key, mark, suffix = column.partition("_")
    return f"{key}_std{mark}{suffix}"


def columns_of(names: Iterable[str]) -> list[str]:
    """The metrics' columns among ``names``, in the order of the tables."""
    order = list(METRICS)
    found = [(order.index(m.key), name) for name in names if (m := metric_of(name)) is not None]
    return [name for _, name in sorted(found, key=lambda pair: pair[0])]


def ranking_column(names: Iterable[str]) -> str | None:
    """The first column by which rows are ordered; None where there is none."""
    return next((name for name in names if (m := metric_of(name)) and m.ranks), None)


def lower_is_better(column: str) -> bool:
    """Whether a smaller figure of this metric's column is the better one."""
    return _metric(column).lower_is_better


def heading(column: str) -> str:
    """A metric's name with its extractor and its arrow, as ``FD (efflite0) ↓``."""
    metric, suffix = _metric(column), column.partition("_")[2]
    return " ".join([metric.title, *([f"({suffix})"] if suffix else []), metric.arrow])


def shown(column: str, value: float) -> str:
    """A metric's figure as tables for people show it."""
    return f"{value:.{_metric(column).decimals}f}"


def _metric(column: str) -> Metric:
    metric = metric_of(column)
    if metric is None:
        raise ValueError(f"column {column!r} holds no metric; known are {', '.join(METRICS)}")
    return metric


def _is_spread(suffix: str) -> bool:
    return suffix.partition("_")[0] == "std"
