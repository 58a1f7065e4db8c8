"""From records to what a report says: boards of comparable rows, each with its best.

A board is one ranking. It holds figures that can be compared and no others: the same data and
image size, the same extractor, the same references, as many samples, the same energy table.
Cells that differ by their seed alone are one row, with mean and standard deviation. Nothing is
drawn or formatted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from bench.energy.accountings import ACCOUNTINGS
from bench.plan.sampling import solver
from bench.quality.metrics import columns_of, lower_is_better
from bench.records.conversions import ConversionCurve
from bench.records.identity import across_seeds, comparable
from bench.records.record import Energy, Record
from bench.registry import SYSTEMS
from bench.report.sources import (
    HASH_CHARACTERS,
    Planned,
    Published,
    Sources,
)


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
    """Why there is no figure."""
    grid: Path | None = None
    """Samples of the first seed."""
    layer_rates: dict[str, float] = field(default_factory=dict)
    """Neuron layer -> spikes per neuron and time step, mean over seeds."""
    variant: str = ""
    """The settings that tell it from a row that would be called the same."""

    @property
    def label(self) -> str:
        """The system, and which of several settings where a ranking has more than one."""
        return self.title + (f": {self.variant}" if self.variant else "")

    @property
    def name(self) -> str:
        """System and spiking time steps."""
        return self.label + (f", T = {self.time_steps}" if self.time_steps else "")

    @property
    def seeds(self) -> list[int]:
        return [record.seed for record in self.records]

    def stat(self, read: Callable[[Record], float | None]) -> Stat | None:
        """A figure of every seed's record; None where one has none."""
        values = [read(record) for record in self.records]
        known = tuple(value for value in values if value is not None)
        return Stat(known) if values and len(known) == len(values) else None

    def metric(self, name: str) -> Stat | None:
        return self.stat(lambda record: record.metrics.get(name))

    def energy(self, accounting: str) -> Stat | None:
        """Millijoules per finished image by one accounting of :func:`accountings`."""

        def read(record: Record) -> float | None:
            energy: Energy | None = record.energies.get(accounting)
            return energy.per_image_mj if energy else None

        return self.stat(read)

    def evaluation_energy(self, accounting: str) -> Stat | None:
        """The same for one network evaluation of one image."""

        def read(record: Record) -> float | None:
            energy: Energy | None = record.energies.get(accounting)
            return energy.per_evaluation_mj if energy else None

        return self.stat(read)


@dataclass
class Board:
    """One ranking."""

    dataset: str
    image_size: int
    extractor: str | None
    """None: nothing was scored yet."""
    samples: int
    reference_images: int | None = None
    reference_split: str | None = None
    reference_hash: str | None = None
    energy_table: str | None = None
    rows: list[Row] = field(default_factory=list)
    """Best first; cells without a figure last."""
    number: int = 0
    """Place in the report, from 1."""

    @property
    def name(self) -> str:
        """For files: unique within the report."""
        return _file_name(
            f"{self.number}-{self.dataset}-{self.image_size}px-{self.extractor or 'unscored'}"
        )

    @property
    def protocol(self) -> str:
        """What every figure of it has in common, as a phrase."""
        against = (
            f" against {self.reference_images:,} {self.reference_split} images"
            if self.reference_images
            else ""
        )
        return f"{self.samples:,} samples{against}, {self.extractor or 'not scored yet'}"

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
        """The row with the best mean."""
        rows = [row for row in self.done if row.metric(metric)]
        return min(rows, key=lambda row: _order(metric, row), default=None)


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
        """For files: unique within the report."""
        return _file_name(f"{self.number}-{self.dataset}")


@dataclass(frozen=True)
class Report:
    """What every form of the report is written from."""

    sections: Sequence[Section]
    systems: dict[str, str]
    """Every system that occurs -> its title, in the registry's order: the order of colours."""
    inputs: Sequence[str]
    command: str

    @property
    def boards(self) -> list[Board]:
        return [board for section in self.sections for board in section.boards]


def make_report(sources: Sources, published: Sequence[Published], command: str = "") -> Report:
    """Sort what was found into sections, boards and rows."""
    boards = _boards(sources)
    names = [b.dataset for b in boards] + [c.dataset for c in sources.conversions]
    sections = []
    for number, dataset in enumerate(dict.fromkeys(names), start=1):
        sections.append(
            Section(
                number,
                dataset,
                [board for board in boards if board.dataset == dataset],
                [row for row in published if row.dataset == base_name(dataset)],
                [c for c in sources.conversions if c.dataset == dataset],
            )
        )
    for number, board in enumerate((b for s in sections for b in s.boards), start=1):
        board.number = number
    order = list(SYSTEMS)
    titles = {row.system: row.title for board in boards for row in board.rows}
    ranked = sorted(titles, key=lambda s: (order.index(s) if s in order else len(order), s))
    return Report(sections, {name: titles[name] for name in ranked}, sources.names, command)


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


def _boards(sources: Sources) -> list[Board]:
    boards: dict[tuple[Any, ...], Board] = {}
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Record]]] = {}
    for record in (r for r in sources.records if r.status == "ok"):
        shared = comparable(record)
        key = tuple(shared.values())
        boards.setdefault(key, Board(**shared))
        rows = groups.setdefault(key, {})
        cell, again = across_seeds(record), 0
        while record.seed in [r.seed for r in rows.get((*cell, again), [])]:
            again += 1  # the same settings on another parent: a row of its own
        rows.setdefault((*cell, again), []).append(record)
    for key, rows in groups.items():
        boards[key].rows = _told_apart([_row(records, sources) for records in rows.values()])
    found = list(boards.values())
    for record in (r for r in sources.records if r.status == "failed"):
        run_of = (record.suite, record.preset)
        facts = (record.dataset, record.image_size, record.samples, record.extractor)
        _home(found, run_of, *facts).rows.append(_row([record], sources))
    known = {record.config_hash[:HASH_CHARACTERS] for record in sources.records}
    for cell_ in {p.name: p for p in sources.planned if p.hash not in known}.values():
        run = cell_.run
        data, samples = run["data"], run.get("samples")
        board = _home(
            found,
            (run.get("suite"), run.get("preset")),
            str(data.get("label")),
            data.get("image_size"),
            samples,
        )
        board.rows.append(_missing(cell_))
    for board in found:
        metric = board.ranked_by
        board.rows.sort(key=lambda row, m=metric: _order(m, row))  # type: ignore[misc]
    return found


def _home(
    boards: list[Board],
    run: tuple[Any, Any],
    dataset: str,
    image_size: Any,
    samples: Any,
    extractor: str | None = None,
) -> Board:
    """The board that a cell without a figure belongs to; a new one where there is none."""

    def fits(board: Board, same_run: bool) -> bool:
        runs = {(r.suite, r.preset) for row in board.rows for r in row.records}
        same = (board.dataset, board.image_size, board.samples) == (dataset, image_size, samples)
        return same and extractor in (None, board.extractor) and (run in runs or not same_run)

    for same_run in (True, False):
        for board in boards:
            if fits(board, same_run):
                return board
    size, count = (value if isinstance(value, int) else 0 for value in (image_size, samples))
    boards.append(Board(dataset, size, extractor, count))
    return boards[-1]


def _row(records: Sequence[Record], sources: Sources) -> Row:
    ordered = tuple(sorted(records, key=lambda record: record.seed))
    hashes = [record.config_hash[:HASH_CHARACTERS] for record in ordered]
    first = ordered[0]
    rates = [sources.layer_rates[h] for h in hashes if h in sources.layer_rates]
    layers = [layer for layer in rates[0] if all(layer in r for r in rates)] if rates else []
    return Row(
        status=first.status,
        system=first.system,
        title=first.title,
        time_steps=first.time_steps,
        solver=solver(vars(first)),
        hash=hashes[0],
        records=ordered,
        reason=f"failed: {first.reason or 'no reason given'}" if first.status != "ok" else None,
        grid=next((sources.grids[h] for h in hashes if h in sources.grids), None),
        layer_rates={layer: fmean(r[layer] for r in rates) for layer in layers},
    )


def _told_apart(rows: list[Row]) -> list[Row]:
    """The rows, those of one name with the settings that they differ in; the row of the suite that
    most rows are of keeps the plain name."""
    suites = Counter(row.records[0].suite for row in rows)
    settings = {
        row.hash: {"suite": row.records[0].suite, "steps": row.records[0].train_steps,
                   "batch": row.records[0].batch_size, "precision": row.records[0].precision,
                   **row.records[0].config}
        for row in rows
    }  # fmt: skip
    told = []
    for row in rows:
        alike = [r for r in rows if (r.name, r.solver) == (row.name, row.solver)]
        own = suites[row.records[0].suite]
        plain = all(own > suites[r.records[0].suite] for r in alike if r is not row)
        mine, others = settings[row.hash], [settings[r.hash] for r in alike]
        differ = [k for k in mine if any(other.get(k) != mine[k] for other in others)]
        # Suites are named only where nothing else tells two rows apart.
        names = [k for k in differ if k != "suite"] or differ
        variant = ", ".join(_setting(k.replace("_", " "), mine[k]) for k in names)
        told.append(row if plain else replace(row, variant=variant))
    return told


def _setting(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


def _missing(cell: Planned) -> Row:
    """The row of a planned cell; its folder's name says what it is."""
    system, *words = cell.name.split("-")
    steps = words[0][1:] if words and words[0][:1] == "T" else ""
    return Row(
        status="missing",
        system=system,
        title=SYSTEMS[system].title if system in SYSTEMS else system,
        time_steps=int(steps) if steps.isascii() and steps.isdigit() else None,
        solver="-".join(words[1 if steps else 0 : -1]) or None,
        hash=cell.hash,
        reason="missing: planned, no record yet",
    )


def _order(metric: str | None, row: Row) -> tuple[int, float, str]:
    """For sorting: best first, then what has no figure, failures before gaps."""
    stat = row.metric(metric) if metric and row.status == "ok" else None
    if stat is None:
        return 1 + ["ok", "failed", "missing"].index(row.status), 0.0, row.name
    lower = metric is None or lower_is_better(metric)
    return 0, stat.mean if lower else -stat.mean, row.name
