"""Every metric of sample quality, one entry each, in the order of the tables. Imports no torch.

Tables, reports, ``check`` and LaTeX read everything about a metric here. To add one, write its
formula and add its entry. A record's column is the entry's key and the extractor's suffix, as
``fd_efflite0``; the spread of an estimate stands beside it, as ``kid_std_efflite0``. The column of
a metric that reads pixels or points is its key alone. A metric that reads the system names in the
suffix how the system estimated it, as ``nll_paths``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

Better = Literal["lower", "higher"] | float
"""Direction of better figures, or the figure that the best one is nearest to."""


def shortfall(better: Better, value: float) -> float:
    """A number that is the smaller the better ``value`` is."""
    if better == "lower":
        return value
    return -value if better == "higher" else abs(value - better)


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
    better: Better
    decimals: int
    """Digits after the point in tables for people."""
    tolerance: Tolerance
    """The default of ``check``."""
    formula: str | None
    """Formula, as ``module:function`` of what the metric ``reads``. None for the name that another
    entry's formula has with features that are not Inception's, and for a figure of the system."""
    reads: Literal["features", "pixels", "points", "system"] = "features"
    """``features``: the formula gets the :class:`bench.quality.formulas.ImageSets` of one
    extractor. ``pixels``: it gets the :class:`bench.quality.pixels.PixelStatistics` of samples and
    of references, and the column names no extractor. ``points``: it gets the
    :class:`bench.quality.points.PointSamples`. ``system``: there is no formula; the system tells
    the figure (:meth:`sddpm.protocol.System.figures`)."""
    ranks: bool = False
    """Whether rows are ordered by it."""
    reads_classes: bool = False
    """Whether it reads class probabilities, which not every extractor has."""
    mark_beyond: float | None = None
    """Distance from the best figure beyond which reports mark a row; None: no row is marked."""
    signed: bool = False
    """Whether figures may be below 0, so that two are compared by their difference."""
    resampled: bool = False
    """Whether its spread is the standard deviation over sets of new samples, estimated by
    resampling, so that two sets of samples can be compared by it."""
    least_tolerance: float | None = None
    """Least tolerance in percent mode, for a metric whose figures may be 0, if the baseline states
    no spread. A percentage of a small figure is less than its noise."""

    @property
    def arrow(self) -> str:
        """Arrow in the better direction, or to the best figure."""
        if isinstance(self.better, float):
            return f"→ {self.better:g}"
        return "↓" if self.better == "lower" else "↑"

    @property
    def direction(self) -> str:
        """The same in words."""
        if isinstance(self.better, float):
            return f"nearest to {self.better:g} is better"
        return f"{self.better} is better"

    def load(self) -> Callable[..., Any]:
        """The formula; ValueError for an entry without."""
        if self.formula is None:
            raise ValueError(f"metric {self.key}: has no formula of its own")
        module, _, function = self.formula.partition(":")
        formula: Callable[..., Any] = getattr(import_module(module), function)
        return formula


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            key="fid",
            title="FID",
            better="lower",
            decimals=2,
            tolerance=Tolerance(5, percent=True),
            formula="bench.quality.formulas:frechet_distance",
            ranks=True,
            resampled=True,
        ),
        Metric(
            key="fd",
            title="FD",
            better="lower",
            decimals=2,
            tolerance=Tolerance(5, percent=True),
            formula=None,
            ranks=True,
            resampled=True,
        ),
        Metric(
            key="kid",
            title="KID",
            better="lower",
            decimals=4,
            tolerance=Tolerance(10, percent=True),
            formula="bench.quality.formulas:kernel_distance",
            least_tolerance=0.0005,
        ),
        Metric(
            key="is",
            title="IS",
            better="higher",
            decimals=2,
            tolerance=Tolerance(2, percent=True),
            formula="bench.quality.formulas:inception_score",
            reads_classes=True,
        ),
        Metric(
            key="precision",
            title="Precision",
            better="higher",
            decimals=3,
            tolerance=Tolerance(0.02),
            formula="bench.quality.formulas:precision",
        ),
        Metric(
            key="recall",
            title="Recall",
            better="higher",
            decimals=3,
            tolerance=Tolerance(0.02),
            formula="bench.quality.formulas:recall",
        ),
        Metric(
            key="density",
            title="Density",
            better="higher",
            decimals=3,
            tolerance=Tolerance(0.05),
            formula="bench.quality.formulas:density",
        ),
        Metric(
            key="coverage",
            title="Coverage",
            better="higher",
            decimals=3,
            tolerance=Tolerance(0.02),
            formula="bench.quality.formulas:coverage",
        ),
        Metric(
            key="contrast",
            title="Contrast",
            better=1.0,
            decimals=2,
            tolerance=Tolerance(0.05),
            formula="bench.quality.pixels:contrast",
            reads="pixels",
            mark_beyond=0.2,
        ),
        Metric(
            key="saturation",
            title="Saturation",
            better=1.0,
            decimals=2,
            tolerance=Tolerance(0.1),
            formula="bench.quality.pixels:saturation",
            reads="pixels",
            mark_beyond=0.2,
        ),
        Metric(
            key="noise",
            title="Noise",
            better=1.0,
            decimals=2,
            tolerance=Tolerance(0.05),
            formula="bench.quality.pixels:noise",
            reads="pixels",
            mark_beyond=0.2,
        ),
        Metric(
            key="spectrum",
            title="Spectrum (dB)",
            better="lower",
            decimals=2,
            tolerance=Tolerance(0.5),
            formula="bench.quality.pixels:spectral_distance",
            reads="pixels",
        ),
        Metric(
            key="nll",
            title="NLL, nats",
            better="lower",
            decimals=2,
            tolerance=Tolerance(0.1),
            formula=None,
            reads="system",
            ranks=True,
            signed=True,
        ),
        Metric(
            key="mmd",
            title="MMD²",
            better="lower",
            decimals=4,
            tolerance=Tolerance(0.005),
            formula="bench.quality.points:kernel_discrepancy",
            reads="points",
            signed=True,
        ),
        Metric(
            key="sliced",
            title="Sliced W1",
            better="lower",
            decimals=3,
            tolerance=Tolerance(0.01),
            formula="bench.quality.points:sliced_distance",
            reads="points",
        ),
        Metric(
            key="failures",
            title="Failed projections",
            better="lower",
            decimals=6,
            tolerance=Tolerance(1e-4),
            formula=None,
            reads="system",
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
    """Whether a smaller figure of this metric's column is always the better one."""
    return _metric(column).better == "lower"


def is_signed(column: str) -> bool:
    """Whether figures of this metric's column may be below 0."""
    return _metric(column).signed


def is_resampled(column: str) -> bool:
    """Whether the spread of this metric's column is one over sets of new samples."""
    return _metric(column).resampled


def sort_key(column: str, value: float) -> float:
    """A number that orders the figures of a metric's column, best first."""
    return shortfall(_metric(column).better, value)


OFF = "†"
"""Mark of a figure of pixels that is far from the real images'."""


def is_off(column: str, value: float) -> bool:
    """Whether reports mark this figure of a metric's column."""
    metric = _metric(column)
    limit = metric.mark_beyond
    # A figure at the limit must not be beyond it by its last bit.
    return limit is not None and shortfall(metric.better, value) > limit * (1 + 1e-9)


def heading(column: str) -> str:
    """A metric's name with its extractor and its arrow, as ``FD (efflite0) ↓`` or
    ``Contrast → 1``."""
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
