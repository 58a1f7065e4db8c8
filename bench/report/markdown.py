"""A report as Markdown, with its figures beside it as files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from bench.report.agreement import agreement_tables
from bench.report.boards import Board, Report
from bench.report.glance import glance
from bench.report.pivots import conversion_pivots, pivots
from bench.report.provenance import provenance
from bench.report.style import Drawing
from bench.report.tables import TableText, conversion_table, energies, literature, ranking
from bench.visible import visible

TITLE = "# Spiking generative models, measured"
"""First line of every report."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def escape(text: str) -> str:
    """``text`` as Markdown shows it: no character of it is markup, none breaks a line."""
    return _SPECIAL.sub(r"\\\1", visible(" ".join(text.split())))


def to_markdown(
    report: Report,
    drawings: Mapping[str, Sequence[Drawing]],
    reasons: Mapping[str, Sequence[str]],
    samples: Mapping[str, Drawing],
) -> Iterator[bytes]:
    """The whole report, piece by piece, in UTF-8.

    Args:
        drawings: by board name or data set; their files are ``figures/NAME.png`` and so on.
        reasons: why a figure is missing, by board name.
        samples: a board's sample pictures.
    """
    for number, part in enumerate(_parts(report, drawings, reasons, samples)):
        yield b"\n" if number else b""
        for line in [part] if isinstance(part, str) else part:
            yield f"{line}\n".encode()


def _parts(
    report: Report,
    drawings: Mapping[str, Sequence[Drawing]],
    reasons: Mapping[str, Sequence[str]],
    samples: Mapping[str, Drawing],
) -> Iterator[str | Iterator[str]]:
    """Parts between blank lines: a text, or its lines."""
    yield TITLE
    yield table_text(glance(report))
    for section in report.sections:
        yield f"## {escape(section.dataset)}"
        for board in section.boards:
            yield f"### {escape(board.protocol)}"
            yield table_text(ranking(board))
            yield from map(table_text, pivots(board))
            if board.name in samples:
                yield _figure(samples[board.name])
            yield from map(_figure, drawings.get(board.name, []))
            if board.done:
                yield table_text(energies(board))
            left_out = [f"- Not drawn: {escape(text)}." for text in reasons.get(board.name, [])]
            if left_out:
                yield "\n".join(left_out)
            yield "#### How each number was made"
            yield _provenance(board)
        if agreed := agreement_tables(section):
            yield "### Two extractors side by side"
            yield from map(table_text, agreed)
        if section.conversions:
            yield "### Conversion from ANN to SNN"
            yield from map(table_text, conversion_pivots(section))
            yield table_text(conversion_table(section))
            yield from map(_figure, drawings.get(section.dataset, []))
        if section.published:
            yield "### In the literature"
            yield from map(table_text, literature(section))
    if report.claims is not None:
        yield "## Claims of the literature"
        yield table_text(report.claims)
    inputs = ", ".join(f"`{_code(name)}`" for name in report.inputs)
    yield f"Made from {inputs} by `{_code(report.command)}`."


def table_text(table: TableText) -> str:
    """Caption, table and notes; the best figure of a column in bold."""
    rules = ["---:" if column.figures else ":---" for column in table.columns]
    lines = [[escape(column.text) for column in table.columns], rules]
    for line in table.lines:
        cells = [escape(entry.text) for entry in line.entries]
        lines.append([f"**{cell}**" if entry.best else cell
                      for cell, entry in zip(cells, line.entries, strict=True)])  # fmt: skip
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "\n".join(f"- {escape(note)}" for note in [*table.marks, *table.notes])
    return "\n\n".join(part for part in (escape(table.caption), body, notes) if part)


def _figure(drawing: Drawing) -> str:
    stem = f"figures/{drawing.name}"
    links = ", ".join(f"[{ending.upper()}]({stem}.{ending})" for ending in ("pdf", "svg"))
    return (
        f"![{escape(drawing.alt)}]({stem}.png)\n\n"
        f"**{escape(drawing.title)}.** {escape(drawing.caption)} ({links})"
    )


def _provenance(board: Board) -> Iterator[str]:
    """Origin of each number, one list for each row."""
    for row in board.rows:
        facts = "\n".join(f"  - {escape(fact)}: `{_code(text)}`" for fact, text in provenance(row))
        yield f"- {escape(row.full_name)}" + (f"\n{facts}" if facts else "")


def _code(text: str) -> str:
    """Quote text in backticks, in which only a backtick is markup."""
    return visible(" ".join(text.split())).replace("`", "'")
