"""Committed tables are what the committed records make, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.claims.make import make_page
from bench.claims.verdict import RULES
from bench.records.record import read_records
from bench.tables.table import frame, to_csv, to_markdown

ROOT = Path(__file__).parents[1]
TABLES = sorted(
    path
    for records in (ROOT / "results").rglob("records.jsonl")
    for path in records.parent.glob("table.*")
)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_committed_table_is_made_from_its_records(path: Path) -> None:
    records = read_records(path.with_name("records.jsonl"))
    table = frame(records)
    made = to_csv(table) if path.suffix == ".csv" else to_markdown(table, records)
    assert path.read_text(encoding="utf-8") == made


def test_every_committed_run_has_a_table() -> None:
    assert len({path.parent for path in TABLES}) >= 10


def test_the_committed_claims_are_made_from_the_records_and_each_has_a_verdict() -> None:
    text = (ROOT / "results/claims.md").read_text(encoding="utf-8")
    assert make_page(ROOT / "results")[0] == text
    headings = [line.partition(" ")[2] for line in text.splitlines() if line.startswith("### ")]
    glance = text.split("## At a glance")[1].split("\n## ")[0]
    rows = [row.strip("|").split("|") for row in glance.splitlines() if row.startswith("|")][2:]
    assert [f"{row[0].strip()}. {row[1].strip()}" for row in rows] == headings
    for row in rows:
        for verdict in row[4].split(";"):
            assert verdict.partition("(")[0].strip() in RULES, row
