"""Agreement of two extractors that scored the same samples of the same cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from scipy import stats

from bench.quality.metrics import columns_of, heading, metric_of, sort_key
from bench.report.boards import Board, Row, Section, Stat
from bench.report.tables import Column, Entry, Line, TableText, metric_text
from bench.tables.text import DASH

FEWEST_CELLS = 3
"""Fewest cells of a correlation: of two ranks it is 1 or -1, whatever they are."""


@dataclass(frozen=True)
class Agreement:
    """Rankings of the same cells by two extractors."""

    one: Board
    other: Board
    metrics: tuple[str, str]
    """Columns that order the two."""
    rows: tuple[Row, ...]
    """Rows of ``one`` that ``other`` has too, best first."""
    figures: tuple[tuple[Stat, Stat], ...]
    """Figures of each row by both, of the seeds that both scored."""

    @cached_property
    def ranks(self) -> tuple[list[int], list[int]]:
        """Ranks of the rows among themselves by each extractor, from 1; equal figures share one."""
        one, other = (stats.rankdata(keys, "min").astype(int).tolist() for keys in self._order)
        return one, other

    @property
    def _order(self) -> list[list[float]]:
        """By each extractor, a number for each row, smaller for better."""
        return [
            [sort_key(metric, pair[side].mean) for pair in self.figures]
            for side, metric in enumerate(self.metrics)
        ]

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation; None for fewer than three cells, or where an extractor finds
        all alike."""
        if len(self.rows) < FEWEST_CELLS or any(len(set(ranks)) == 1 for ranks in self.ranks):
            return None
        return float(stats.spearmanr(*self._order).statistic)

    @cached_property
    def flips(self) -> list[tuple[int, int]]:
        """Pairs of rows, by their numbers from 0, whose order differs."""
        one, other = self.ranks
        return [
            (a, b)
            for a, b in combinations(range(len(self.rows)), 2)
            if (one[a] - one[b]) * (other[a] - other[b]) < 0
        ]


def agreements(section: Section) -> list[Agreement]:
    """Every two boards of ``section`` with the same samples of the same cells by two extractors."""
    found = []
    for one, other in combinations(section.boards, 2):
        alike = all(
            getattr(one, name) == getattr(other, name)
            for name in ("image_size", "samples", "reference_images", "reference_split")
        )
        metrics = (one.ranked_by, other.ranked_by)
        if alike and one.extractor != other.extractor and None not in metrics:
            found += _agreement(one, other)
    return found


def agreement_tables(section: Section) -> list[TableText]:
    """One line for each two rankings, and for each two whose order differs, the cells that flip."""
    found = agreements(section)
    if not found:
        return []
    headings = ["Data", "Extractors", "Cells", "Rank correlation", "Pairs", "Flipped"]
    lines = []
    for pair in found:
        cells, correlation = len(pair.rows), pair.correlation
        data, names = f"{pair.one.data}, {pair.one.samples:,} samples", _names(pair)
        lines.append(
            Line(
                [
                    Entry(data, data),
                    Entry(names, names),
                    Entry(str(cells), cells),
                    Entry(DASH)
                    if correlation is None
                    else Entry(f"{correlation:.2f}", correlation),
                    Entry(f"{cells * (cells - 1) // 2:,}", cells * (cells - 1) // 2),
                    Entry(f"{len(pair.flips):,}", len(pair.flips)),
                ]
            )
        )
    caption = (
        f"{section.dataset}: two extractors on the same samples. Spearman's rank correlation of "
        "their rankings over the cells that both scored; pairs of cells, and how many of them the "
        "two put in opposite order."
    )
    columns = [Column(text, number > 1) for number, text in enumerate(headings)]
    tables = [TableText(f"extractors-{section.name}", caption, columns, lines)]
    tables += [
        _flipped(pair, f"flips-{number}-{section.name}")
        for number, pair in enumerate(found, start=1)
        if pair.flips
    ]
    return tables


def _agreement(one: Board, other: Board) -> list[Agreement]:
    """The agreement of two boards; nothing where no cell is in both."""
    metrics = (one.ranked_by or "", other.ranked_by or "")
    theirs = _by_cell(other, metrics[1])
    rows, figures = [], []
    for row in one.done:
        ours = _figures(row, metrics[0])
        shared = [(value, theirs[cell]) for cell, value in ours.items() if cell in theirs]
        if shared:
            rows.append(row)
            figures.append((Stat(tuple(a for a, _ in shared)), Stat(tuple(b for _, b in shared))))
    return [Agreement(one, other, metrics, tuple(rows), tuple(figures))] if len(rows) > 1 else []


def _by_cell(board: Board, metric: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in board.done:
        found |= _figures(row, metric)
    return found


def _figures(row: Row, metric: str) -> dict[str, float]:
    """Hash of each seed's cell -> its figure."""
    return {r.config_hash: r.metrics[metric] for r in row.records if metric in r.metrics}


def _flipped(pair: Agreement, name: str) -> TableText:
    """The cells of flipped pairs, with the metrics of pixels."""
    numbers = sorted({number for flip in pair.flips for number in flip})
    have = {name for n in numbers for r in pair.rows[n].records for name in r.metrics}
    pixels = [c for c in columns_of(sorted(have)) if (m := metric_of(c)) and m.reads == "pixels"]
    columns = [Column("System", figures=False), Column("T"), Column("Sampler", figures=False)]
    for metric in pair.metrics:
        columns += [Column(heading(metric)), Column("Rank")]
    columns += [Column(heading(metric)) for metric in pixels]
    lines = []
    for number in numbers:
        row = pair.rows[number]
        entries = [
            Entry(row.label, row.label.casefold()),
            Entry(DASH) if row.time_steps is None else Entry(str(row.time_steps), row.time_steps),
            Entry(row.solver or DASH, row.solver),
        ]
        for side, metric in enumerate(pair.metrics):
            stat, rank = pair.figures[number][side], pair.ranks[side][number]
            entries += [Entry(metric_text(metric, stat), stat.mean), Entry(str(rank), rank)]
        for metric in pixels:
            known = row.metric(metric)
            entries.append(Entry(metric_text(metric, known), known.mean) if known else Entry(DASH))
        lines.append(Line(entries))
    caption = (
        f"{pair.one.data}: the cells that {_names(pair)} put in different order, ranked among the "
        f"{len(pair.rows)} cells that both scored. Metrics of pixels need no extractor."
    )
    return TableText(name, caption, columns, lines)


def _names(pair: Agreement) -> str:
    return f"{pair.one.extractor} and {pair.other.extractor}"
