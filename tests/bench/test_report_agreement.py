"""Two extractors on the same samples: their rankings' agreement, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.records.record import Record, write_records
from bench.report.agreement import agreement_tables, agreements
from bench.report.boards import Section
from bench.report.sorting import make_report
from bench.report.sources import Sources
from tests.support.calling import report as call
from tests.support.records import HASHES, cell

PIXELS = {"contrast": 0.9, "noise": 1.4}


def scored(first: Sequence[float], second: Sequence[float], **more: int) -> list[Record]:
    """Cells with the distances of one extractor and of another."""
    found = []
    for number, value in enumerate(first):
        one = cell(number, fd=value, title=f"S{number}", system=f"s{number}", **more)
        found.append(one.model_copy(update={"metrics": {"fd_efflite0": value, **PIXELS}}))
    for number, value in enumerate(second):
        other = found[number].model_copy(
            update={
                "extractor": "efficientnet-lite2", "reference_hash": "b" * 16,
                "metrics": {"fd_efflite2": value, **PIXELS},
            }
        )  # fmt: skip
        found.append(other)
    return found


def section(records: Sequence[Record]) -> Section:
    (found,) = make_report(Sources(records=list(records)), []).sections
    return found


def test_one_flip_of_four_cells() -> None:
    found = section(scored([1, 2, 3, 4], [20, 10, 30, 40]))
    (pair,) = agreements(found)
    # 1 - 6 (1 + 1) / (4 (16 - 1))
    assert pair.correlation == pytest.approx(0.8)
    assert pair.ranks == ([1, 2, 3, 4], [2, 1, 3, 4])
    assert pair.flips == [(0, 1)]
    line, flips = agreement_tables(found)
    assert [entry.text for entry in line.lines[0].entries[1:]] == [
        "efficientnet-lite0 and efficientnet-lite2", "4", "0.80", "6", "1",
    ]  # fmt: skip
    headings = [c.text for c in flips.columns]
    assert headings[3:7] == ["FD (efflite0) ↓", "Rank", "FD (efflite2) ↓", "Rank"]
    assert headings[7:] == ["Contrast → 1", "Noise → 1"]
    texts = [[entry.text for entry in line.entries] for line in flips.lines]
    assert [row[0] for row in texts] == ["S0", "S1"]
    assert texts[0][3:] == ["1.00", "1", "20.00", "2", "0.90", "1.40"]


def test_rankings_that_agree_or_are_opposite() -> None:
    same = section(scored([1, 2, 3], [5, 6, 7]))
    assert [pair.correlation for pair in agreements(same)] == [pytest.approx(1)]
    assert len(agreement_tables(same)) == 1  # no cell flips
    opposite = section(scored([1, 2, 3], [7, 6, 5]))
    (pair,) = agreements(opposite)
    assert pair.correlation == pytest.approx(-1)
    # The middle one keeps its rank, but not its order with the others.
    assert len(agreement_tables(opposite)[1].lines) == 3


def test_only_cells_that_both_scored_count() -> None:
    (pair,) = agreements(section(scored([1, 9, 2, 3], [5, 6])))
    assert [row.title for row in pair.rows] == ["S0", "S1"]
    assert pair.correlation is None  # two ranks correlate whatever they are
    assert agreements(section(scored([1, 2], [5]))) == []
    assert agreement_tables(section(scored([1, 2], []))) == []
    few = [
        r.model_copy(update={"samples": 50, "config_hash": f"{n:064x}"})
        for n, r in enumerate(scored([1, 2], [3, 4]))
    ]
    assert agreements(section([*scored([1, 2], []), *few[2:]])) == []  # other samples


def test_seeds_that_both_scored_make_the_means() -> None:
    records = scored([1, 4], [10, 40])
    more = [
        r.model_copy(
            update={
                "seed": 1, "config_hash": HASHES[8 + n],
                "metrics": {"fd_efflite0": 100.0 * (n + 1)},
            }
        )
        for n, r in enumerate(records[:2])
    ]  # fmt: skip
    (pair,) = agreements(section([*records, *more]))
    assert [one.mean for one, _ in pair.figures] == [1, 4]  # seed 1 has the first extractor alone


def test_every_form_of_the_report_shows_it(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", scored([1, 2, 3, 4], [20, 10, 30, 40]))
    out = tmp_path / "report"
    assert call(tmp_path / "records.jsonl", "--out", out).exit_code == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    for text in (page, (out / "report.md").read_text(encoding="utf-8")):
        assert "Two extractors side by side" in text
        assert "efficientnet-lite0 and efficientnet-lite2" in text
    names = {path.stem for path in (out / "tables").glob("*.tex")}
    assert {"extractors-1-digits", "flips-1-1-digits"} <= names
