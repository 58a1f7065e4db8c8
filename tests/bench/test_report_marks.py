"""Rows whose pixels are far from the real images' are marked in every form of a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.records.record import Record, write_records
from bench.report.boards import Board
from bench.report.glance import glance
from bench.report.latex import to_latex
from bench.report.markdown import table_text
from bench.report.sorting import make_report
from bench.report.sources import Sources
from bench.report.tables import ranking
from bench.tables.table import display, frame
from tests.support.records import cell

NEAR = {"contrast": 1.2, "saturation": 0.8, "noise": 1.0, "spectrum": 9.5}
NOTE = "by more than a fifth"


def scored(number: int, title: str, fd: float, **pixels: float) -> Record:
    row = cell(number, fd=fd, system=title.lower(), title=title)
    return row.model_copy(update={"metrics": {**row.metrics, **pixels}})


def board(*records: Record) -> Board:
    (found,) = make_report(Sources(records=list(records)), []).boards
    return found


def shown(found: Board) -> dict[str, dict[str, str]]:
    """System -> heading -> text of a ranking."""
    table = ranking(found)
    headings = [column.text for column in table.columns]
    return {
        line.entries[1].text: dict(
            zip(headings, (entry.text for entry in line.entries), strict=True)
        )
        for line in table.lines
    }


@pytest.mark.parametrize(
    ("metric", "value", "heading", "text"),
    [
        ("contrast", 1.21, "Contrast → 1", "1.21 †"), ("contrast", 0.79, "Contrast → 1", "0.79 †"),
        ("saturation", 9.0, "Saturation → 1", "9.00 †"), ("noise", 0.5, "Noise → 1", "0.50 †"),
    ],
)  # fmt: skip
def test_a_figure_off_by_more_than_a_fifth_is_marked(
    metric: str, value: float, heading: str, text: str
) -> None:
    found = board(scored(0, "Off", 5, **{**NEAR, metric: value}), scored(1, "Near", 9, **NEAR))
    rows = shown(found)
    assert rows["Off"][heading] == text
    assert "†" not in " ".join(rows["Near"].values())
    assert " ".join(rows["Off"].values()).count("†") == 1
    assert NOTE in table_text(ranking(found))
    latex = to_latex(ranking(found))
    assert r"$\dagger$" in latex
    assert "†" not in latex


def test_at_a_glance_too() -> None:
    def texts(*records: Record) -> str:
        return table_text(glance(make_report(Sources(records=list(records)), [])))

    off = scored(0, "Off", 5, **{**NEAR, "saturation": 28.0})
    assert "FD (efflite0) 5.00 †" in texts(off, scored(1, "Near", 9, **NEAR))
    assert NOTE in texts(off)
    assert "†" not in texts(scored(0, "Near", 5, **NEAR))


def test_a_mean_over_seeds_decides() -> None:
    def two(one: float, other: float) -> str:
        seeds = [
            scored(seed, "A", 5, **{**NEAR, "noise": value}).model_copy(update={"seed": seed})
            for seed, value in enumerate((one, other))
        ]
        return shown(board(*seeds))["A"]["Noise → 1"]

    assert two(0.9, 1.4) == "1.15 ± 0.35"
    assert two(1.1, 1.4) == "1.25 ± 0.21 †"


def test_the_best_is_the_nearest_to_one() -> None:
    rows = (scored(n, f"S{n}", n, contrast=value) for n, value in enumerate((0.7, 1.1, 1.3)))
    best = board(*rows).best("contrast")
    assert best is not None
    assert best.title == "S1"


def test_older_records_have_no_columns_or_dashes() -> None:
    old, new = scored(0, "Old", 5), scored(1, "New", 9, **NEAR)
    headings, _ = display(frame([old]))
    assert not {"Contrast → 1", "Spectrum (dB) ↓"} & set(headings)
    assert "Contrast → 1" not in shown(board(old))["Old"]
    headings, rows = display(frame([old, new]))
    at = [headings.index(name) for name in ("Contrast → 1", "Noise → 1", "Spectrum (dB) ↓")]
    assert [[row[place] for place in at] for row in rows] == [
        ["-", "-", "-"],
        ["1.20", "1.00", "9.50"],
    ]
    assert shown(board(old, new))["Old"]["Saturation → 1"] == "-"


def test_the_page_and_its_files(tmp_path: Path) -> None:
    records = [scored(0, "Off", 5, **{**NEAR, "noise": 1.5}), scored(1, "Near", 9, **NEAR)]
    write_records(tmp_path / "records.jsonl", records)
    out = tmp_path / "report"
    asked = ["report", str(tmp_path / "records.jsonl"), "--out", str(out)]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    page = (out / "index.html").read_text(encoding="utf-8")
    assert 'class="figures off" data-value="1.5">1.50 †</td>' in page
    assert page.count(NOTE) == 3  # at a glance, for eyes and for screen readers; in the ranking
    assert "1.50 †" in (out / "report.md").read_text(encoding="utf-8")
