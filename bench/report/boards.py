"""Content of a report: boards of comparable rows, each with its best.

A board is one ranking. It holds figures that can be compared and no others: the same data and
image size, the same extractor, the same references, as many samples, the same energy table.
Cells that differ by their seed alone are one row, with mean and standard deviation. Nothing is
drawn or formatted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from bench.energy.accountings import ACCOUNTINGS
from bench.quality.metrics import columns_of, is_off, sort_key
from bench.records.conversions import ConversionCurve
from bench.records.record import Record
from bench.report.sources import Published
from bench.tables.rows import data_noun, one_noun, size_text

if TYPE_CHECKING:
    from bench.report.tables import TableText


@dataclass(frozen=True)
class Stat:
    """A figure over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n - 1 in the denominator); None for a single seed."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Row:
    """A line of a ranking: one cell, at every seed that was run."""

    status: Literal["ok", "failed", "missing"]
    system: str
    title: str
    time_steps: int | None
    solver: str | None
    hash: str
    """Beginning of the first seed's configuration hash."""
    records: tuple[Record, ...] = ()
    """One a seed, by seed; empty for a missing cell."""
    reason: str | None = None
    """Reason for a missing figure."""
    grid: Path | None = None
    """Samples of the first seed."""
    layer_rates: dict[str, float] = field(default_factory=dict)
    """Neuron layer -> spikes per neuron and time step, mean over seeds."""
    variant: str = ""
    """Settings that distinguish it from a row with the same name."""
    submitted_by: str | None = None
    """Person or group outside this project who sent the records; None for the project's own."""

    @property
    def suite_variant(self) -> str:
        """Name of the suite's variant of the system; empty for the system's own row."""
        return self.records[0].variant if self.records else ""

    @property
    def system_title(self) -> str:
        """The system's title, without the suite's variant."""
        return self.title.removesuffix(f" ({self.suite_variant})")

    @property
    def label(self) -> str:
        """The system, which of several settings where a ranking has more than one, and who sent
        the records."""
        sent = f" (sent by {self.submitted_by})" if self.submitted_by else ""
        return self.title + (f": {self.variant}" if self.variant else "") + sent

    @property
    def name(self) -> str:
        """System and spiking time steps."""
        return self.label + (f", T = {self.time_steps}" if self.time_steps else "")

    @property
    def full_name(self) -> str:
        """System, spiking time steps and sampler."""
        return self.name + (f", {self.solver}" if self.solver else "")

    @property
    def seeds(self) -> list[int]:
        return [record.seed for record in self.records]

    @property
    def train_images(self) -> int:
        """Images of its own training, without its parents'; of a row with records."""
        return self.records[0].train_images

    def stat(self, read: Callable[[Record], float | None]) -> Stat | None:
        """A figure of every seed's record; None where one has none."""
        values = [read(record) for record in self.records]
        known = tuple(value for value in values if value is not None)
        return Stat(known) if values and len(known) == len(values) else None

    def metric(self, name: str) -> Stat | None:
        return self.stat(lambda record: record.metrics.get(name))

    def off(self, name: str) -> bool:
        """Whether reports mark the mean of a metric."""
        stat = self.metric(name)
        return stat is not None and is_off(name, stat.mean)

    def energy(self, accounting: str, of: Literal["image", "evaluation"] = "image") -> Stat | None:
        """Millijoules per finished image, or per network evaluation of one image, by one
        accounting of :func:`accountings`."""
        return self.stat(lambda r: getattr(r.energies.get(accounting), f"per_{of}_mj", None))


@dataclass
class Board:
    """One ranking."""

    dataset: str
    image_size: int
    extractor: str | None
    """Extractor of the figures; None: no row was scored yet."""
    samples: int
    reference_images: int | None = None
    reference_split: str | None = None
    reference_hash: str | None = None
    energy_table: str | None = None
    manifold: str | None = None
    """Manifold on which the data are points; None for images."""
    rows: list[Row] = field(default_factory=list)
    """Best first; cells without a figure last."""
    number: int = 0
    """Place in the report, from 1."""

    @property
    def name(self) -> str:
        """Name for files: unique within the report."""
        return _file_name(
            f"{self.number}-{self.dataset}-{self.image_size}px-{self.extractor or 'unscored'}"
        )

    @property
    def noun(self) -> str:
        """Word for one of the data: image or point."""
        return one_noun(self.manifold)

    @property
    def data(self) -> str:
        """Data set and size, as a phrase."""
        return f"{self.dataset}, {size_text(self.image_size, self.manifold, '×')}"

    @property
    def protocol(self) -> str:
        """Settings that all its figures share, as a phrase."""
        against = (
            f" against {self.reference_images:,} {self.reference_split} {data_noun(self.manifold)}"
            if self.reference_images
            else ""
        )
        # Points have one extractor, whose name says no more than the noun.
        by = "" if self.extractor and self.manifold else f", {self.extractor or 'not scored yet'}"
        return f"{self.samples:,} samples{against}{by}"

    @property
    def done(self) -> list[Row]:
        return [row for row in self.rows if row.status == "ok"]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of their columns."""
        have = {name for row in self.done for r in row.records for name in r.metrics}
        return columns_of(sorted(have))

    @property
    def ranked_by(self) -> str | None:
        return self.metrics[0] if self.metrics else None

    def best(self, metric: str) -> Row | None:
        """The row with the best mean; None where there are no two to compare."""
        rows = [row for row in self.done if row.metric(metric)]
        return min(rows, key=lambda row: order(metric, row)) if len(rows) > 1 else None


@dataclass(frozen=True)
class Section:
    """All that is known about one data set."""

    number: int
    """Place in the report, from 1."""
    dataset: str
    boards: Sequence[Board]
    published: Sequence[Published]
    conversions: Sequence[ConversionCurve]

    @property
    def name(self) -> str:
        """Name for files: unique within the report."""
        return _file_name(f"{self.number}-{self.dataset}")


@dataclass(frozen=True)
class Report:
    """Content from which every form of the report is written."""

    sections: Sequence[Section]
    systems: dict[str, str]
    """Every system that occurs -> its title, in the registry's order: the order of colours."""
    inputs: Sequence[str]
    command: str
    claims: TableText | None = None
    """Claims of the literature that the records answer."""

    @property
    def boards(self) -> list[Board]:
        return [board for section in self.sections for board in section.boards]


def _file_name(words: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in words).strip("-")


def base_name(dataset: str) -> str:
    """A data set without its variant: ``cifar10`` of ``cifar10 (jpeg)``."""
    return dataset.split(" (", 1)[0]


def accountings(rows: Iterable[Row]) -> list[str]:
    """Energy accountings that any of these rows was priced by: ``published``, ``strict``, ..."""
    records = [record for row in rows for record in row.records]
    return [name for name in ACCOUNTINGS if any(name in r.energies for r in records)]


def pareto(points: Sequence[tuple[float, float]], lower_is_better: bool = True) -> list[int]:
    """Indices of the points that no other beats in both coordinates, by the first one.

    Args:
        points: (cost, quality); less cost is better.
        lower_is_better: of the quality.
    """
    sign = 1 if lower_is_better else -1
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1])):
        if not front or sign * points[index][1] < sign * points[front[-1]][1]:
            front.append(index)
    return front


def order(metric: str | None, row: Row) -> tuple[int, float, str]:
    """Sort key: best first, then rows without a figure, failures before gaps."""
    stat = row.metric(metric) if metric and row.status == "ok" else None
    if stat is None:
        return 1 + ["ok", "failed", "missing"].index(row.status), 0.0, row.name
    assert metric is not None
    return 0, sort_key(metric, stat.mean), row.name
