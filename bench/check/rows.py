"""Metric tables read back: the ``table.csv`` or the ``records.jsonl`` that a run writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.files import csv_rows, read_text
from bench.records.record import read_records
from bench.tables.rows import row_of
from bench.tables.text import DASH

Value = str | float | None
"""A table's cell: of a record as it is, of a CSV as text; None where there is no figure."""
Row = Mapping[str, Value]


def read_table(path: Path) -> list[Row]:
    """The rows of a ``table.csv`` or a ``records.jsonl``, recognised by content; for a run's
    folder, the rows of its records.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither.
    """
    if path.is_dir():
        path = path / "records.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a table.csv or a records.jsonl")
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path}: is empty; expected a table.csv or a records.jsonl")
    if text.lstrip().startswith("{"):
        records = read_records(path)
        return [{**row_of(record), "energy_table": record.energy_table} for record in records]
    rows = csv_rows(text, str(path), ("dataset", "system", "extractor"))
    return [{name: None if v in ("", DASH) else v for name, v in row.items()} for _, row in rows]


def label(row: Row) -> str:
    """A cell for people: data set, system, time steps, sampler, seed."""
    parts = [row.get("dataset"), row.get("title") or row.get("system")]
    if row.get("time_steps"):
        parts.append(f"T={plain(row['time_steps'])}")
    if row.get("sampler"):
        parts.append(row.get("solver") or f"{row['sampler']} {plain(row.get('sampler_steps'))}")
    seed = row.get("seed")
    parts.append(None if seed is None else f"seed {plain(seed)}")
    return ", ".join(str(part) for part in parts if part)


def value_of(value: Value) -> Value:
    """A cell's value so that ``4``, ``"4"`` and ``"4.0"`` are the same."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def plain(value: Value) -> str:
    """A key column's value for people: whole numbers without a point, hashes cut short."""
    known = value_of(value)
    if isinstance(known, float):
        return f"{known:g}" if known % 1 else f"{known:.0f}"
    return DASH if value is None else str(value)[:12]


def number(row: Row, metric: str) -> float | None:
    """A row's figure, which may be NaN; None where the table has a dash.

    Raises:
        ValueError: it is no number.
    """
    value = value_of(row.get(metric))
    if isinstance(value, str):
        raise ValueError(f"{label(row)}: {metric} is {value!r}, expected a number")
    return value
