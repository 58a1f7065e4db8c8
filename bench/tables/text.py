"""Tables of text, as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bench.visible import csv_text

DASH = "-"
"""A figure that is not there."""
_FIGURE = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?( %)?")


def csv_table(names: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """CSV, a missing figure as a dash; figures that are text already stay figures."""

    def cell(value: Any) -> Any:
        if isinstance(value, str) and not _FIGURE.fullmatch(value):
            return csv_text(value)
        return DASH if value is None else value

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(map(cell, line) for line in lines)
    return text.getvalue()


def markdown_table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown; the cells must be free of markup."""
    rows = [names, ["---"] * len(names), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
