"""Tables of a report that lay one metric out over a swept axis: T, a sampler's steps, or what a
power law is fitted over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bench.plan.sampling import solver
from bench.quality.metrics import heading, shown, sort_key
from bench.records.conversions import ConvertedNetwork
from bench.report.boards import Board, Row, Section
from bench.report.scaling import scaling_tables
from bench.report.style import mean
from bench.report.tables import Column, Entry, Line, TableText, fixed, metric_text, significant
from bench.tables.text import DASH

_Key = tuple[str, str, int]
"""A line: its system, its sampler, and the images that its networks were trained on."""


def pivots(board: Board) -> list[TableText]:
    """Tables of the swept settings: quality over spiking time steps, and over network evaluations
    by sampler. Networks of one line were trained on as many images. Below them, power laws."""
    metric = board.ranked_by
    rows = [row for row in board.done if metric and row.metric(metric)]
    if metric is None:
        return []
    by_steps: dict[_Key, dict[int, Row]] = {}
    by_sampler: dict[_Key, dict[int, Row]] = {}
    for row in rows:
        if row.time_steps:
            names = (row.title, row.solver or DASH, row.train_images)
            # The board is sorted: of equal settings, the best training.
            by_steps.setdefault(names, {}).setdefault(row.time_steps, row)
        if row.solver and (steps := row.records[0].sampler_steps):
            names = (row.name, sampler_of(row), row.train_images)
            by_sampler.setdefault(names, {}).setdefault(steps, row)
    what = heading(metric)
    tables = [
        _pivot(f"time-steps-{board.name}", f"{what} over spiking time steps T: {board.protocol}.",
               "T = ", by_steps, metric, board.noun),
        _pivot(f"samplers-{board.name}", f"{what} over sampling steps: {board.protocol}.",
               "", by_sampler, metric, board.noun),
    ]  # fmt: skip
    return [table for table in tables if table is not None] + scaling_tables(board)


def sampler_of(row: Row) -> str:
    """A row's sampler without its steps."""
    facts = {**vars(row.records[0]), "sampler_steps": ""}
    return " ".join(str(solver(facts)).split())


def conversion_pivots(section: Section) -> list[TableText]:
    """Conversions over T, and before that their ANN: sample quality, error of the noise, loss and
    energy."""
    metric = next((c.ranked_by for c in section.conversions if c.ranked_by), None)
    readings: list[tuple[str, str, Callable[[ConvertedNetwork], float | None], Callable]] = [
        ("error", "relative error of the noise, %",
         lambda p: 100 * p.facts.relative_error, fixed(1)),
        ("loss", "denoising loss over the parent's", lambda p: p.facts.loss_ratio, fixed(3)),
        ("energy", "strict energy of an evaluation, mJ",
         lambda p: p.facts.evaluation_mj["strict"], significant),
    ]  # fmt: skip
    if metric:
        quality = (heading(metric), lambda p: p.metrics.get(metric), partial(shown, metric))
        readings.insert(0, ("quality", *quality))
    points = (point for conversion in section.conversions for point in conversion.points)
    steps = sorted({point.time_steps for point in points if point.time_steps})
    tables = []
    for name, what, read, format_ in readings:
        lines = []
        for conversion in section.conversions:
            at = {p.label: read(p) for p in conversion.points}
            values = [read(conversion.parent), *(at.get(str(count)) for count in steps)]
            cells = [Entry(DASH) if v is None else Entry(format_(v), v) for v in values]
            lines.append(Line([Entry(conversion.name, conversion.name), *cells]))
        columns = [Column("Conversion", figures=False), Column("ANN")]
        columns += [Column(f"T = {n}") for n in steps]
        caption = f"{section.dataset}, converted networks over T: {what}."
        tables.append(TableText(f"conversion-{name}-{section.name}", caption, columns, lines))
    return tables


def _pivot(
    name: str,
    caption: str,
    unit: str,
    cells: Mapping[_Key, Mapping[int, Row]],
    metric: str,
    noun: str,
) -> TableText | None:
    """Lines x columns; None where no line has two columns. The best of a column is marked where
    there is another to compare it with."""
    cells = {key: line for key, line in cells.items() if len(line) > 1}
    if not cells:
        return None
    columns = sorted({column for line in cells.values() for column in line})

    def value(row: Row) -> float:
        return sort_key(metric, mean(row.metric(metric)))

    compared = ([line[c] for line in cells.values() if c in line] for c in columns)
    best = [min(rows, key=value) if len(rows) > 1 else None for rows in compared]
    lines = []
    budgets = {images for *_, images in cells}
    for (system, sampler, images), line in cells.items():
        trained = f", {images:,} {noun}s" if len(budgets) > 1 else ""
        entries = [Entry(text, text.casefold()) for text in (system + trained, sampler)]
        for column, first in zip(columns, best, strict=True):
            row = line.get(column)
            stat = row.metric(metric) if row else None
            if stat is None:
                entries.append(Entry(DASH))
            else:
                entries.append(Entry(metric_text(metric, stat), stat.mean, row is first))
        lines.append(Line(entries))
    texts = [Column("System", figures=False), Column("Sampler", figures=False)]
    texts += [Column(f"{unit}{column}") for column in columns]
    return TableText(name, caption, texts, lines)
