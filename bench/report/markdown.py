"""A report as Markdown, with its figures beside it as files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bench.report.boards import Board, Report
from bench.report.glance import glance
from bench.report.pivots import conversion_pivots, pivots
from bench.report.provenance import provenance
from bench.report.style import Drawing
from bench.report.tables import (
    TableText,
    conversion_table,
    energies,
    literature,
    ranking,
)

TITLE = "# Spiking generative models, measured"
"""First line of every report."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def escape(text: str) -> str:
    """``text`` as Markdown shows it: no character of it is markup, none breaks a line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def to_markdown(
    report: Report,
    drawings: Mapping[str, Sequence[Drawing]],
    reasons: Mapping[str, Sequence[str]],
    samples: Mapping[str, Drawing],
) -> str:
    """The whole report.

    Args:
        drawings: by board name or data set; their files are ``figures/NAME.png`` and so on.
        reasons: why a figure is missing, by board name.
        samples: a board's sample pictures.
    """
    parts = [TITLE, table_text(glance(report))]
    for section in report.sections:
        parts.append(f"## {escape(section.dataset)}")
        for board in section.boards:
            parts.append(f"### {escape(board.protocol)}")
            parts.append(table_text(ranking(board)))
            parts += [table_text(table) for table in pivots(board)]
            if board.name in samples:
                parts.append(_figure(samples[board.name]))
            parts += [_figure(drawing) for drawing in drawings.get(board.name, [])]
            parts += [table_text(energies(board))] if board.done else []
            left_out = [f"- Not drawn: {escape(text)}." for text in reasons.get(board.name, [])]
            parts += ["\n".join(left_out)] if left_out else []
            parts.append(_provenance(board))
        if section.conversions:
            parts.append("### Conversion from ANN to SNN")
            parts += [table_text(table) for table in conversion_pivots(section)]
            parts.append(table_text(conversion_table(section)))
            parts += [_figure(drawing) for drawing in drawings.get(section.dataset, [])]
        if section.published:
            parts.append("### In the literature")
            parts += [table_text(table) for table in literature(section)]
    inputs = ", ".join(f"`{_code(name)}`" for name in report.inputs)
    parts.append(f"Made from {inputs} by `{_code(report.command)}`.")
    return "\n\n".join(parts) + "\n"


def table_text(table: TableText) -> str:
    """Caption, table and notes; the best figure of a column in bold."""
    rules = ["---:" if column.figures else ":---" for column in table.columns]
    lines = [[escape(column.text) for column in table.columns], rules]
    for line in table.lines:
        cells = [escape(entry.text) for entry in line.entries]
        lines.append([f"**{cell}**" if entry.best else cell
                      for cell, entry in zip(cells, line.entries, strict=True)])  # fmt: skip
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "\n".join(f"- {escape(note)}" for note in table.notes)
    return "\n\n".join(part for part in (escape(table.caption), body, notes) if part)


def _figure(drawing: Drawing) -> str:
    stem = f"figures/{drawing.name}"
    links = ", ".join(f"[{ending.upper()}]({stem}.{ending})" for ending in ("pdf", "svg"))
    return (
        f"![{escape(drawing.alt)}]({stem}.png)\n\n"
        f"**{escape(drawing.title)}.** {escape(drawing.caption)} ({links})"
    )


def _provenance(board: Board) -> str:
    """Origin of each number, one list for each row."""
    lines = ["#### How each number was made"]
    for row in board.rows:
        name = row.name + (f", {row.solver}" if row.solver else "")
        facts = "\n".join(f"  - {escape(fact)}: `{_code(text)}`" for fact, text in provenance(row))
        lines.append(f"- {escape(name)}" + (f"\n{facts}" if facts else ""))
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _code(text: str) -> str:
    """Quote text in backticks, in which only a backtick is markup."""
    return " ".join(text.split()).replace("`", "'")
