"""The tables of a report, formatted once for all its forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import floor, log10

from bench.energy.accountings import ACCOUNTINGS
from bench.energy.integer import integer_mj, quantised_mj, rival_bits
from bench.quality.metrics import OFF, heading, shown
from bench.records.conversions import ConvertedNetwork
from bench.records.record import Record
from bench.report import evidence
from bench.report.boards import Board, Row, Section, Stat, accountings
from bench.report.sources import Published
from bench.report.trained import Trainings
from bench.tables.table import unpriced
from bench.tables.text import DASH

OFF_NOTE = (
    f"{OFF}: contrast, saturation or noise differs from the real images' by more than a fifth. A "
    "distance of features does not see that."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a table."""

    text: str
    value: float | str | None = None
    """Value that a column is sorted by; None is last in either direction."""
    best: bool = False
    off: bool = False
    """Whether the figure is far from the real images'; the text then ends in :data:`OFF`."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table."""

    entries: Sequence[Entry]
    row: Row | None = None
    """Row of a ranking that the line shows."""


@dataclass(frozen=True)
class Column:
    """A heading."""

    text: str
    figures: bool = True
    """Whether its entries are aligned to the right."""


@dataclass(frozen=True)
class TableText:
    """A table, ready to be set in HTML, Markdown or LaTeX."""

    name: str
    """Name for files: unique within the report."""
    caption: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    notes: Sequence[str] = field(default_factory=list)
    """Below the table: cells without a figure, and why."""
    marks: Sequence[str] = field(default_factory=list)
    """Sentences that explain marks in the entries; they stand before the notes."""


def ranking(board: Board) -> TableText:
    """The rows of ``board``, best first, the best mean of every metric marked."""
    columns = [Column("Rank"), Column("System", figures=False), Column("T")]
    done, metrics, ranked_by = board.done, board.metrics, board.ranked_by
    several = (
        any(len(row.records) > 1 for row in done)
        or len({seed for row in board.rows for seed in row.seeds}) > 1
    )
    budgets = {(r.train_steps, r.batch_size) for row in done for r in row.records}
    columns.append(Column("Sampler", figures=False))
    columns += [Column("Seeds")] if several else []
    columns += [Column(f"{board.noun.capitalize()}s trained on")] if len(budgets) > 1 else []
    apart = evidence.neighbours(board)
    judged = evidence.columns(board, apart)
    for metric in metrics:
        columns.append(Column(heading(metric)))
        columns += [Column(text) for text, _ in judged] if metric == ranked_by else []
    columns.append(Column("Params (M)"))
    priced = [name for name in accountings(done) if ACCOUNTINGS[name].ranked]
    columns += [Column(f"{ACCOUNTINGS[name].long_title} mJ/{board.noun}") for name in priced]
    columns.append(Column("Firing rate"))
    best = {metric: board.best(metric) for metric in metrics}
    trainings = Trainings(done)

    def line(number: int, row: Row) -> Line:
        ranked = row.status == "ok" and ranked_by and row.metric(ranked_by)
        entries = [
            Entry(str(number), number) if ranked else Entry(DASH),
            Entry(row.label, row.label.casefold()),
            Entry(DASH) if row.time_steps is None else Entry(str(row.time_steps), row.time_steps),
            Entry(row.solver or DASH, row.solver),
        ]
        entries += (
            [Entry(", ".join(map(str, row.seeds)) or DASH, len(row.seeds) or None)]
            if several
            else []
        )
        if len(budgets) > 1:
            entries.append(trained_on(row, trainings) if row.status == "ok" else Entry(DASH))
        for metric in metrics:
            entry = _rounded_stat(row.metric(metric), partial(shown, metric))
            off = row.off(metric)
            text = f"{entry.text} {OFF}" if off else entry.text
            entries.append(Entry(text, entry.value, best[metric] is row, off))
            if metric == ranked_by:
                entries += [Entry(*read(number, row)) for _, read in judged]
        entries.append(_rounded_stat(row.stat(lambda r: r.params_millions), fixed(3)))
        entries += [_energy_entry(row.energy(name)) for name in priced]
        entries.append(_rounded_stat(row.stat(lambda r: r.firing_rate), fixed(3)))
        return Line(entries, row)

    return TableText(
        name=f"ranking-{board.name}",
        caption=f"{board.data}: {board.protocol}.",
        columns=columns,
        lines=[line(number, row) for number, row in enumerate(board.rows, start=1)],
        marks=[
            *([OFF_NOTE] if any(row.off(metric) for row in done for metric in metrics) else []),
            *([evidence.note(apart)] if apart else []),
        ],
        notes=[
            *(f"{row.full_name}: {row.reason}" for row in board.rows if row.reason),
            *_unpriced(board),
            *_outside(board),
        ],
    )


def energies(board: Board) -> TableText:
    """Every accounting of energy side by side, and the energy of the networks without spikes if
    their activations had the bits that T spikes encode, for each number of time steps."""
    steps = sorted({row.time_steps for row in board.done if row.time_steps})
    rivals = sorted({rival_bits(count) for count in steps})
    priced = accountings(board.done)
    columns = [Column("System", figures=False), Column("T"), Column("Sampler", figures=False)]
    columns.append(Column("Evaluations"))
    columns += [Column(f"{ACCOUNTINGS[name].long_title} mJ/{board.noun}") for name in priced]
    columns.append(Column(f"8-bit integer mJ/{board.noun}"))
    columns += [Column(f"{bits}-bit activations mJ/{board.noun}") for bits in rivals]

    def line(row: Row) -> Line:
        entries = [
            Entry(row.label, row.label.casefold()),
            Entry(DASH) if row.time_steps is None else Entry(str(row.time_steps), row.time_steps),
            Entry(row.solver or DASH, row.solver),
            _rounded_stat(row.stat(lambda r: r.evaluations_per_image), _thousands),
        ]
        entries += [_energy_entry(row.energy(name)) for name in priced]
        entries.append(_energy_entry(row.stat(_integer)))
        entries += [_energy_entry(_rival(row, bits)) for bits in rivals]
        return Line(entries)

    return TableText(
        name=f"energy-{board.name}",
        caption=f"{board.data}: energy of one finished {board.noun} by every accounting "
        f"({board.energy_table}). T spikes say what an activation of "
        "ceil(log2(T + 1)) bits says: the last columns price the networks without spikes at it.",
        columns=columns,
        lines=[line(row) for row in board.done],
        notes=_unpriced(board),
    )


def literature(section: Section) -> list[TableText]:
    """The published figures for a data set, one table for each protocol of the FID, and the
    measured figure beside each."""
    protocols = dict.fromkeys(figure.protocol for figure in section.published)
    return [
        _literature(section, number, protocol) for number, protocol in enumerate(protocols, start=1)
    ]


def _literature(section: Section, number: int, protocol: str) -> TableText:
    figures = [figure for figure in section.published if figure.protocol == protocol]
    headings = ["System", "Kind", "T", "Params (M)", "Published IS", "Published FID", "Source"]
    columns = [Column(text, text not in ("System", "Kind", "Source")) for text in headings]
    columns.append(Column("Measured here, under another protocol", figures=False))

    def line(figure: Published) -> Line:
        steps = figure.time_steps
        return Line(
            [
                Entry(figure.system, figure.system.casefold()),
                Entry(figure.kind, figure.kind),
                Entry(DASH) if steps is None else Entry(str(steps), steps),
                _number(figure.params_millions, fixed(2)),
                _number(figure.inception_score, lambda v: f"{v:g}"),
                _number(figure.fid, fixed(2)),
                Entry(figure.source, figure.source),
                Entry(_measured(section, figure) or DASH),
            ]
        )

    return TableText(
        name=f"published-{number}-{section.name}",
        caption=f"Published figures for {figures[0].dataset} by one protocol: {protocol}. Figures "
        "of two protocols cannot be compared, and none of them ranks anything here.",
        columns=columns,
        lines=[line(figure) for figure in figures],
    )


def conversion_table(section: Section) -> TableText:
    """Table of the energy of every conversion of a data set's networks at each number of time
    steps."""
    headings = ["Conversion", "T", "Relative error", "Denoising loss", "Loss / parent's",
                "Firing rate", "Published mJ/evaluation", "Strict mJ/evaluation"]  # fmt: skip
    metric = next((c.ranked_by for c in section.conversions if c.ranked_by), None)
    headings += [heading(metric)] if metric else []

    def line(name: str, point: ConvertedNetwork) -> Line:
        child, facts = point.time_steps is not None, point.facts
        return Line(
            [
                Entry(name if child else f"{name}: its ANN", name),
                Entry(point.label, point.time_steps) if child else Entry(DASH),
                _number(facts.relative_error if child else None, lambda v: f"{100 * v:.2f} %"),
                _number(facts.denoising_loss, fixed(5)),
                _number(facts.loss_ratio, fixed(3)),
                _number(facts.firing_rate, fixed(4)),
                _number(facts.evaluation_mj["published"], significant),
                _number(facts.evaluation_mj["strict"], significant),
                *([_number(point.metrics.get(metric), partial(shown, metric))] if metric else []),
            ]
        )

    lines = [line(c.name, p) for c in section.conversions for p in (c.parent, *c.points)]
    return TableText(
        name=f"conversion-{section.name}",
        caption=f"{section.dataset}: ANN to SNN conversion, compared with the parent network on "
        "the same noised images; energies per network evaluation.",
        columns=[Column(text, number > 0) for number, text in enumerate(headings)],
        lines=lines,
        notes=[
            *(f"{c.name}: {c.command}" for c in section.conversions if c.command),
            *sorted(
                {
                    f"Quality: {c.parent.record.samples:,} samples of each, {c.parent.solver}."
                    for c in section.conversions
                    if c.scored
                }
            ),
        ],
    )


def metric_text(metric: str, stat: Stat) -> str:
    """A metric's figure as every table shows it."""
    return _rounded_stat(stat, partial(shown, metric)).text


def significant(value: float, like: float | None = None) -> str:
    """Three significant digits; or the number of decimals that ``like`` then has."""
    leading = abs(value if like is None else like)
    if 0 < leading < 1e-4:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 2 - floor(log10(leading)))}f}" if leading else "0"


def trained_on(row: Row, trainings: Trainings) -> Entry:
    """Images of every training that led to a row, the parent's before its own: 24,000 + 2,384."""
    stats = trainings.behind(row)
    texts = [_rounded_stat(stat, _thousands).text for stat in stats]
    return Entry(" + ".join(texts), sum(stat.mean for stat in stats))


def _rival(row: Row, bits: int) -> Stat | None:
    """Energy of a network without spikes, were its activations of ``bits`` bits."""

    def read(record: Record) -> float | None:
        counts = record.counts_per_image
        bare = counts is not None and counts.macs and not counts.acs
        return quantised_mj(counts, bits) if counts is not None and bare else None

    return row.stat(read)


def _integer(record: Record) -> float | None:
    counts = record.counts_per_image
    return None if counts is None else integer_mj(counts)


def _measured(section: Section, figure: Published) -> str:
    """The best rows here of the system that a published figure is of, at its time steps."""
    found = []
    for board in section.boards:
        metric = board.ranked_by
        for row in board.done:
            same = row.title == figure.system and row.time_steps == figure.time_steps
            stat = row.metric(metric) if metric else None
            if metric and stat and same:
                what = f"{heading(metric)[:-2]} {metric_text(metric, stat)}"
                found.append(f"{what} ({row.records[0].train_steps:,} training steps)")
                break
    return "; ".join(found)


def _unpriced(board: Board) -> list[str]:
    return unpriced(record for row in board.done for record in row.records)


def _outside(board: Board) -> list[str]:
    senders = dict.fromkeys(row.submitted_by for row in board.rows if row.submitted_by)
    if not senders:
        return []
    return [f"Measured and sent by {', '.join(map(str, senders))}; not repeated by this project."]


def _rounded_stat(stat: Stat | None, format_: Callable[[float], str]) -> Entry:
    if stat is None:
        return Entry(DASH)
    text = format_(stat.mean)
    # Equal at every seed (parameters, evaluations): no spread to speak of.
    if stat.spread:
        text += f" ± {format_(stat.spread)}"
    return Entry(text, stat.mean)


def _energy_entry(stat: Stat | None) -> Entry:
    if stat is None:
        return Entry(DASH)
    text = significant(stat.mean)
    if stat.spread:
        text += f" ± {significant(stat.spread, like=stat.mean)}"
    return Entry(text, stat.mean)


def _number(value: float | None, format_: Callable[[float], str]) -> Entry:
    return Entry(DASH) if value is None else Entry(format_(value), value)


def fixed(decimals: int) -> Callable[[float], str]:
    """A way to show a number: with this many decimals."""
    return lambda value: f"{value:.{decimals}f}"


def _thousands(value: float) -> str:
    return f"{value:,.0f}"
