"""Records that answer claims: folders of results, the cells in them, and their figures by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.claims.schema import Cell
from bench.energy.accountings import ACCOUNTINGS
from bench.energy.integer import integer_mj, quantised_mj
from bench.quality.metrics import (
    columns_of,
    is_signed,
    lower_is_better,
    ranking_column,
    spread_column,
)
from bench.records.conversions import times_of
from bench.records.identity import SEEDS_OF_A_RESULT, across_seeds, comparable
from bench.records.record import Record, read_records
from bench.report.boards import Row
from bench.report.sorting import make_report
from bench.report.sources import RECORDS, Sources
from bench.report.trained import Trainings

QUALITY, ENERGIES, BIT = "quality", "energies", "-bit"
"""Names of measures: the metric that ranks; a line each accounting; products in integers."""


class UnansweredError(ValueError):
    """Records that a comparison needs are not there, or do not fit it."""


@dataclass
class Evidence:
    """Folders of records.

    Args:
        folders: name below the folder of all results -> where it is.
    """

    folders: Mapping[str, Path]
    _rows: dict[str, list[Row]] = field(default_factory=dict)
    _typical: dict[tuple[str, int, str | None, str], tuple[float, float] | None] = field(
        default_factory=dict
    )

    def rows(self, folder: str) -> list[Row]:
        """Every cell of a folder, with its seeds together."""
        if folder not in self._rows:
            path = self.folders.get(folder)
            if path is None or not (path / RECORDS).is_file():
                raise UnansweredError(f"no records in {folder} yet")
            records = [r for r in read_records(path / RECORDS) if r.status == "ok"]
            report = make_report(Sources(records=records), [])
            self._rows[folder] = [row for board in report.boards for row in board.rows]
        return self._rows[folder]

    def find(self, cell: Cell) -> list[Row]:
        """The rows that a cell describes, in the order of their time steps.

        Raises:
            UnansweredError: there is none.
        """
        found = [row for row in self.rows(cell.folder) if _is_it(cell, row.records[0])]
        if not found:
            raise UnansweredError(f"no record of {cell} in {cell.folder} yet")
        return sorted(found, key=lambda row: row.time_steps or 0)

    def find_one(self, cell: Cell) -> Row:
        """The row that a cell describes; of several budgets or machines, the one of most seeds.

        Raises:
            UnansweredError: there is none, or the cell describes several.
        """
        found = self.find(cell)
        most = max(len(row.seeds) for row in found)
        best = [row for row in found if len(row.seeds) == most]
        if len({across_seeds(row.records[0]) for row in best}) > 1:
            raise UnansweredError(
                f"{cell} in {cell.folder}: describes {len(best)} cells; state time_steps, sampler, "
                "train_steps or variant too"
            )
        return best[0]

    def trained_on(self, row: Row, folder: str) -> list[int]:
        """Images of every training that led to a row, its parents' before its own."""
        stats = Trainings(self.rows(folder)).behind(row)
        return [round(stat.mean) for stat in stats]

    def typical_error(self, row: Row, measure: str) -> tuple[float, float] | None:
        """Standard deviation of one seed's figure, as those cells show it that were measured on
        the same data, by the same extractor, at three seeds or more: the median over cells,
        relative to the cell's mean and in its own unit. None if there is no such cell."""

        def alike(record: Record) -> tuple[str, int, str | None]:
            return record.dataset, record.image_size, _column(record, measure)

        key = (*alike(row.records[0]), measure)
        if key not in self._typical:
            stats = [
                stat
                for other in self._every_row()
                if alike(other.records[0]) == key[:3]
                if len(other.seeds) >= SEEDS_OF_A_RESULT and runs(other)
                if (stat := other.stat(lambda record: _read(record, measure))) and stat.mean
            ]
            spreads = [stat.spread or 0.0 for stat in stats]
            relative = [s / abs(stat.mean) for s, stat in zip(spreads, stats, strict=True)]
            self._typical[key] = (median(relative), median(spreads)) if stats else None
        return self._typical[key]

    def _every_row(self) -> Iterator[Row]:
        for folder in self.folders:
            with suppress(UnansweredError):
                yield from self.rows(folder)

    def error(self, row: Row, measure: str, value: float) -> float:
        """Standard deviation that ``value`` of one seed is taken to have, a figure of ``row`` or
        between rows like it: the typical one; else the one that its metric states; else 0."""
        typical = self.typical_error(row, measure)
        column = _column(row.records[0], measure)
        if typical is not None:
            return typical[1] if column and is_signed(column) else typical[0] * abs(value)
        stated = row.records[0].metrics.get(spread_column(column)) if column else None
        return stated or 0.0


def runs(row: Row) -> bool:
    """Whether drawing takes operations: a Gaussian a pixel is no network."""
    counts = row.records[0].counts_per_image
    return counts is None or counts.macs + counts.acs > 0


def figures(row: Row, measure: str) -> dict[int, float]:
    """A row's figure at every seed.

    Raises:
        UnansweredError: a record has none.
    """
    found = {record.seed: _read(record, measure) for record in row.records}
    if lacking := [seed for seed, value in found.items() if value is None]:
        raise UnansweredError(f"{row.full_name}: no {measure} at seed {lacking[0]}")
    return {seed: value for seed, value in found.items() if value is not None}


def quality_column(row: Row) -> str:
    """The column of the metric that ranks a row.

    Raises:
        UnansweredError: it has none, or one of which smaller is not better.
    """
    column = _column(row.records[0], QUALITY)
    if column is None or not lower_is_better(column):
        raise UnansweredError(f"{row.full_name}: no distance or NLL was measured")
    return column


def check_comparable(a: Row, b: Row, measure: str) -> None:
    """Refuse two rows whose figures were not measured alike.

    Raises:
        UnansweredError: naming the first fact in which they differ.
    """
    mine, theirs = comparable(a.records[0]), comparable(b.records[0])
    names = list(mine) if measure == QUALITY else ["dataset", "image_size", "manifold"]
    for name in names:
        if mine[name] != theirs[name]:
            raise UnansweredError(
                f"{a.full_name} and {b.full_name}: not comparable: {name} is {mine[name]} and "
                f"{theirs[name]}"
            )


def _column(record: Record, measure: str) -> str | None:
    if measure == QUALITY:
        return ranking_column(columns_of(record.metrics))
    return None


def _read(record: Record, measure: str) -> float | None:
    if measure == QUALITY:
        column = _column(record, measure)
        return None if column is None else record.metrics[column]
    if measure in ACCOUNTINGS:
        energy = record.energies.get(measure)
        return energy.per_image_mj if energy else None
    bits, mark, rest = measure.partition(BIT)
    if not (mark and bits.isascii() and bits.isdigit()) or rest:
        wanted = ", ".join([QUALITY, ENERGIES, *ACCOUNTINGS, "8-bit"])
        raise ValueError(f"measure {measure}: expected one of {wanted}, or another number of bits")
    counts = record.counts_per_image
    if counts is None:
        return None
    return integer_mj(counts) if counts.acs else quantised_mj(counts, int(bits))


def _is_it(cell: Cell, record: Record) -> bool:
    stated = {
        "dataset": record.dataset,
        "time_steps": times_of(record),
        "sampler": _sampler(record),
        "train_steps": record.train_steps,
    }
    return (
        record.system == cell.system
        and record.variant == cell.variant
        and record.threshold == cell.threshold
        and (cell.time_steps is not None or not isinstance(times_of(record), tuple))
        and all(getattr(cell, name) in (None, value) for name, value in stated.items())
    )


def _sampler(record: Record) -> str | None:
    if record.sampler is None:
        return None
    eta = f":{record.eta:g}" if record.eta else ""
    return f"{record.sampler}:{record.sampler_steps}{eta}"
