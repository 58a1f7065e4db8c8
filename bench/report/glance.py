"""The first table of a report: one line for each ranking."""

from __future__ import annotations

from bench.quality.metrics import heading, is_signed, lower_is_better
from bench.report.boards import Board, Report, Row
from bench.report.evidence import LEVEL, SEEDS, differences
from bench.report.style import mean
from bench.report.tables import (
    OFF,
    OFF_NOTE,
    Column,
    Entry,
    Line,
    TableText,
    metric_text,
    trained_on,
)
from bench.report.trained import Trainings
from bench.tables.text import DASH


def glance(report: Report) -> TableText:
    """One line for each board: the best row, the best spiking row, and the energy of the latter."""
    headings = ["Data", "Cells", "Best", "Best spiking", "Quality gap", "Strict energy"]
    lines = []
    for board in report.boards:
        counts = [
            f"{sum(row.status == status for row in board.rows)} {status}"
            for status in ("ok", "failed", "missing")
            if any(row.status == status for row in board.rows)
        ]
        texts = [f"{board.dataset}: {board.protocol}", ", ".join(counts), *_standing(board)]
        lines.append(Line([Entry(text, text) for text in texts]))
    caption = (
        "At a glance. The gap and the energy compare the best spiking row with the best row of a "
        "network without spikes; a gap above 1 means that the spiking one is worse."
    )
    if any(board.ranked_by and is_signed(board.ranked_by) for board in report.boards):
        caption += " A gap with a sign is a difference: above 0 the spiking one is worse."
    if any(OFF in entry.text for line in lines for entry in line.entries):
        caption += f" {OFF_NOTE}"
    if any(SEEDS in entry.text for line in lines for entry in line.entries):
        caption += f" Beyond the {SEEDS}: p below {LEVEL} by Welch's t-test over seeds."
    return TableText("glance", caption, [Column(text, figures=False) for text in headings], lines)


def runs_network(row: Row) -> bool:
    """Whether drawing takes operations: a Gaussian a pixel takes none, and is no network."""
    energy = row.energy("strict")
    return energy is None or energy.mean > 0


def _standing(board: Board) -> list[str]:
    """Best, best spiking, gap and energy of a board, as texts."""
    metric = board.ranked_by
    rows = [row for row in board.done if metric and row.metric(metric)]
    if not rows or metric is None:
        return [DASH] * 4

    spiking = [row for row in rows if row.time_steps is not None]
    others = [row for row in rows if row.time_steps is None and runs_network(row)]
    # Fine-tuning aside: what the first training of each saw.
    trainings = Trainings(board.done)

    def seen(row: Row) -> str:
        return trained_on(row, trainings).text.split(" + ")[0]

    unequal = len({seen(row) for row in (*spiking[:1], *others[:1])}) > 1

    def text(row: Row) -> str:
        stat = row.metric(metric)
        assert stat is not None
        shown = f"{row.full_name}: {heading(metric)[:-2]} {metric_text(metric, stat)}"
        if any(row.off(name) for name in board.metrics):
            shown += f" {OFF}"
        return f"{shown}, trained on {seen(row)} {board.noun}s" if unequal else shown

    texts = [text(rows[0]), text(spiking[0]) if spiking else DASH, DASH, DASH]
    if spiking and others:
        ours, theirs = spiking[0], others[0]
        ratio = [mean(row.metric(metric)) for row in (ours, theirs)]
        if not lower_is_better(metric):
            ratio.reverse()
        if is_signed(metric):
            texts[2] = f"{ratio[0] - ratio[1]:+.2f}"
        elif ratio[1] > 0:
            texts[2] = f"×{ratio[0] / ratio[1]:.2f}"
        if texts[2] != DASH:
            (apart,) = differences([(ours, theirs)], metric)
            texts[2] += f", {apart.phrase}"
        a, b = ours.energy("strict"), theirs.energy("strict")
        if a and b and b.mean > 0:
            share = 100 * a.mean / b.mean
            shown = f"{share:.0f}" if share >= 1 else f"{share:.2g}"
            texts[3] = f"{shown} % of {theirs.name}"
    return texts
