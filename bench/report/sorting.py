"""Sorts records into the sections, boards and rows of a report.

Cells that differ by their seed alone are one row. A cell without a figure, failed or missing,
joins the board of its run. Every step takes time that grows with the records, not their square.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from bench.plan.sampling import solver
from bench.records.identity import across_seeds, comparable
from bench.records.record import Record
from bench.registry import SYSTEMS
from bench.report.boards import Board, Report, Row, Section, base_name, order
from bench.report.sources import HASH_CHARACTERS, Planned, Published, Sources


def make_report(sources: Sources, published: Sequence[Published], command: str = "") -> Report:
    """Sort records and missing cells into sections, boards and rows."""
    boards = _boards(sources)
    names = [b.dataset for b in boards] + [c.dataset for c in sources.conversions]
    sections = [
        Section(
            number,
            dataset,
            [board for board in boards if board.dataset == dataset],
            [row for row in published if row.dataset == base_name(dataset)],
            [c for c in sources.conversions if c.dataset == dataset],
        )
        for number, dataset in enumerate(dict.fromkeys(names), start=1)
    ]
    for number, board in enumerate((b for s in sections for b in s.boards), start=1):
        board.number = number
    known = list(SYSTEMS)
    titles = {row.system: row.system_title for board in boards for row in board.rows}
    ranked = sorted(titles, key=lambda s: (known.index(s) if s in known else len(known), s))
    return Report(sections, {name: titles[name] for name in ranked}, sources.names, command)


def _boards(sources: Sources) -> list[Board]:
    boards: dict[tuple[Any, ...], Board] = {}
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Record]]] = {}
    for record in (r for r in sources.records if r.status == "ok"):
        shared = comparable(record)
        key = tuple(shared.values())
        boards.setdefault(key, Board(**shared))
        cell = (*across_seeds(record), record.variant, record.submitted_by)
        groups.setdefault(key, {}).setdefault(cell, []).append(record)
    for key, cells in groups.items():
        rows = [row for records in cells.values() for row in _of_one_mean(records)]
        boards[key].rows = _told_apart([_row(records, sources) for records in rows])
    homes = _Homes(boards.values())
    for record in (r for r in sources.records if r.status == "failed"):
        run_of = (record.suite, record.preset)
        facts = (record.dataset, record.image_size, record.samples, record.extractor)
        homes.add(_row([record], sources), run_of, *facts, manifold=record.manifold)
    known = {record.config_hash[:HASH_CHARACTERS] for record in sources.records}
    for cell_ in {p.name: p for p in sources.planned if p.hash not in known}.values():
        run = cell_.run
        homes.add(
            _missing(cell_),
            (run.get("suite"), run.get("preset")),
            str(run["data"].get("label")),
            run["data"].get("image_size"),
            run.get("samples"),
            manifold=run["data"].get("manifold"),
        )
    for board in homes.boards:
        metric = board.ranked_by
        board.rows.sort(key=lambda row, m=metric: order(m, row))  # type: ignore[misc]
    return homes.boards


class _Homes:
    """Boards that cells without a figure are added to.

    Args:
        boards: those of the cells that have figures.
    """

    def __init__(self, boards: Iterable[Board]) -> None:
        self.boards: list[Board] = []
        self._places: dict[tuple[Any, ...], list[tuple[Board, set[tuple[Any, Any]]]]] = {}
        for board in boards:
            self._keep(board)

    def add(
        self,
        row: Row,
        run: tuple[Any, Any],
        dataset: str,
        image_size: Any,
        samples: Any,
        extractor: str | None = None,
        manifold: str | None = None,
    ) -> None:
        """Add ``row`` to the board that it belongs to, one of the same run if there is any; to a
        new one where there is none."""
        size, count = (value if isinstance(value, int) else 0 for value in (image_size, samples))
        fitting = [
            (board, runs)
            for board, runs in self._places.get((dataset, size, count), [])
            if extractor in (None, board.extractor)
        ]
        same_run = [place for place in fitting if run in place[1]]
        if same_run or fitting:
            board, runs = (same_run or fitting)[0]
        else:
            board, runs = self._keep(Board(dataset, size, extractor, count, manifold=manifold))
        board.rows.append(row)
        runs.update((record.suite, record.preset) for record in row.records)

    def _keep(self, board: Board) -> tuple[Board, set[tuple[Any, Any]]]:
        runs = {(r.suite, r.preset) for row in board.rows for r in row.records}
        self.boards.append(board)
        place = (board.dataset, board.image_size, board.samples)
        self._places.setdefault(place, []).append((board, runs))
        return board, runs


def _of_one_mean(records: list[Record]) -> list[list[Record]]:
    """The records of one row. One seed twice is the same settings on another parent, and nothing
    says which of the others are of which: rows of their own."""
    if len({record.seed for record in records}) == len(records):
        return [records]
    return [[record] for record in records]


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
        submitted_by=first.submitted_by,
        hash=hashes[0],
        records=ordered,
        reason=f"failed: {first.reason or 'no reason given'}" if first.status != "ok" else None,
        grid=next((sources.grids[h] for h in hashes if h in sources.grids), None),
        layer_rates={layer: fmean(r[layer] for r in rates) for layer in layers},
    )


_OF_BUDGET = {"steps", "batch", "precision", "learning_rate", "warmup_steps", "decay", "ema_decay"}
"""Settings that go with the length of a training: where no other differs, its images say enough."""


def _told_apart(rows: list[Row]) -> list[Row]:
    """The rows, those of one name with the settings that they differ in; the row of the suite that
    most rows are of keeps the plain name."""
    suites = Counter(row.records[0].suite for row in rows)
    alike: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        alike.setdefault((row.name, row.solver), []).append(row)
    varying = {key: _varying([_settings(row) for row in group]) for key, group in alike.items()}
    most = {
        key: Counter(suites[row.records[0].suite] for row in group) for key, group in alike.items()
    }
    told = []
    for row in rows:
        key, own = (row.name, row.solver), suites[row.records[0].suite]
        if own == max(most[key]) and most[key][own] == 1:
            told.append(row)
            continue
        mine = _settings(row)
        differ = [k for k in mine if k in varying[key]]
        # Suites are named only where nothing else tells two rows apart.
        names = [k for k in differ if k != "suite"] or differ
        variant = ", ".join(_setting(k.replace("_", " "), mine[k]) for k in names)
        budgets = [other.train_images for other in alike[key]]
        if names and set(names) <= _OF_BUDGET and len(set(budgets)) == len(budgets):
            variant = f"{row.train_images:,} images"
        told.append(replace(row, variant=variant))
    return told


def _settings(row: Row) -> dict[str, Any]:
    """Settings that may distinguish a row from another of the same name."""
    first = row.records[0]
    return {"suite": first.suite, "steps": first.train_steps, "batch": first.batch_size,
            "precision": first.precision, **first.config}  # fmt: skip


def _varying(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """The settings that are not the same everywhere; None is as good as not given."""
    first = settings[0]
    return {
        key for other in settings for key in (*first, *other) if other.get(key) != first.get(key)
    }


def _setting(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


def _missing(cell: Planned) -> Row:
    """The row of a planned cell; the name of its folder describes it."""
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
