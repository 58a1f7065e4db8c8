"""Conversions in a report: quality in table and figure, and what may stand beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.convert.tables import layers_csv, read_layers, rows_csv, to_markdown
from bench.records.record import Record, write_records
from bench.report.conversions import direct, plot_conversions
from bench.report.latex import to_latex
from bench.report.pivots import conversion_pivots
from bench.report.sorting import make_report
from bench.report.sources import read_sources
from bench.report.tables import conversion_table
from bench.report.write import render
from tests.support.records import CONVERSION_ROWS, cell, conversion

ROOT = Path(__file__).parents[2]
SOLVER = "ddim 10 eta=1"
DISTANCES = (11.0, 44.0, 22.0)


def scored(**changes: Any) -> list[Record]:
    return conversion(CONVERSION_ROWS, DISTANCES, **changes)


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """A scored conversion of digits, and records drawn in its way and in others."""
    write_records(tmp_path / "scored" / "records.jsonl", scored())
    alike = {"eta": 1.0, "engine": "exact"}
    records = [
        cell(0, fd=33.0, **alike),
        cell(1, fd=7.0, samples=50, **alike),
        cell(2, "ann_twin", 5.0, **alike),
        cell(3, "converted", 6.0, **alike),
        cell(4, fd=8.0, sampler="ddim", sampler_steps=99, eta=1.0, engine="exact"),
    ]
    write_records(tmp_path / "records.jsonl", records)
    return [tmp_path / "scored", tmp_path / "records.jsonl"]


def test_quality_is_a_column_and_the_spread_is_not(inputs: list[Path]) -> None:
    (section,) = make_report(read_sources(inputs), []).sections
    table = conversion_table(section)
    assert [column.text for column in table.columns][-1] == "FD (efflite0) ↓"
    assert [line.entries[-1].text for line in table.lines] == ["11.00", "44.00", "22.00"]
    command = "ltb: sddpm-bench convert --ann twin --out converted"
    assert table.notes == [command, f"Quality: 100 samples of each, {SOLVER}."]


def test_only_what_was_drawn_alike_stands_beside_it(inputs: list[Path]) -> None:
    (section,) = make_report(read_sources(inputs), []).sections
    rivals = direct(section, "fd_efflite0")
    assert [(row.system, row.time_steps) for row in rivals] == [("sddpm", 4)]
    assert [row.metric("fd_efflite0").mean for row in rivals] == [33.0]  # type: ignore[union-attr]
    drawing = plot_conversions(section)
    quality, energy = drawing.figure.axes[1:3]
    drawn = {tuple(map(float, (x, y))) for line in quality.lines
             for x, y in zip(*line.get_data(), strict=True)}  # fmt: skip
    assert {(4.0, 44.0), (16.0, 22.0), (4.0, 33.0)} <= drawn
    assert quality.get_ylabel() == "FD (efflite0) ↓"
    stars = [line for line in energy.lines if line.get_marker() == "*"]
    assert len(stars) == 2
    assert "100 samples, ddim 10 eta=1" in drawing.caption


def test_a_rival_scored_against_other_references_is_no_star(inputs: list[Path]) -> None:
    records = [json.loads(line) for line in inputs[1].read_text(encoding="utf-8").splitlines()]
    for record in records:
        record["reference_hash"] = "0" * 16
    inputs[1].write_text("".join(json.dumps(record) + "\n" for record in records))
    (section,) = make_report(read_sources(inputs), []).sections
    assert not direct(section, "fd_efflite0")


@pytest.mark.parametrize("tuned", [0, 150])
def test_the_legend_is_inside_the_figure_however_long_its_names(
    inputs: list[Path], tmp_path: Path, tuned: int
) -> None:
    copies = []
    for number in range(4):
        copies.append(tmp_path / f"{number}.jsonl")
        named = {"method": "rate-channel", "signed": True, "readout": "window"}
        records = scored(**named, finetune="blocks", finetune_steps=tuned, id=str(number))
        write_records(copies[-1], records)
    plot = plot_conversions(make_report(read_sources([*copies, inputs[1]]), []).sections[0])
    render(plot, "png")  # which lays it out
    figure = plot.figure
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert box.y0 >= max(ax.get_window_extent().y1 for ax in figure.axes)


def test_a_schedule_stands_off_the_line(inputs: list[Path]) -> None:
    rows = [*CONVERSION_ROWS, (8, 0.25, 0.06, 3.0, 0.1, 0.05, 0.1)]
    records = conversion(rows, (*DISTANCES, 44.0), schedules={3: (4, 12)})
    write_records(inputs[0] / "records.jsonl", records)
    (section,) = make_report(read_sources(inputs), []).sections
    shown = [line.entries[1].text for line in conversion_table(section).lines]
    assert shown == ["-", "4", "4/12", "16"]
    quality = plot_conversions(section).figure.axes[1]
    lines_ = [line for line in quality.lines if len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in lines_ if line.get_marker() == "o"] == [[4, 16]]
    assert [list(line.get_xdata()) for line in quality.lines if line.get_marker() == "x"] == [[8]]


def test_without_samples_the_loss_is_shown(tmp_path: Path) -> None:
    write_records(tmp_path / "bare" / "records.jsonl", conversion(CONVERSION_ROWS))
    (section,) = make_report(read_sources([tmp_path / "bare"]), []).sections
    drawing = plot_conversions(section)
    assert drawing.figure.axes[1].get_ylabel() == "denoising loss / parent's"
    assert "FD" not in drawing.caption


def test_only_what_was_drawn_as_the_parent_was_is_shown(inputs: list[Path]) -> None:
    records = scored()
    records[1] = records[1].model_copy(update={"samples": 50})
    write_records(inputs[0] / "records.jsonl", records)
    (section,) = make_report(read_sources(inputs), []).sections
    shown = [line.entries[-1].text for line in conversion_table(section).lines]
    assert shown == ["11.00", "-", "22.00"]


@pytest.mark.parametrize(
    ("made", "name"),
    [
        ({"finetune": "end-to-end", "finetune_steps": 0}, "ltb, signed"),
        (
            {"finetune": "end-to-end", "finetune_steps": 150},
            "ltb, signed, 150 steps of fine-tuning",
        ),
        (
            {"finetune": "blocks", "finetune_steps": 20},
            "ltb, signed, 20 steps of fine-tuning a block",
        ),
    ],
)
def test_a_name_says_how_it_was_tuned(inputs: list[Path], made: dict, name: str) -> None:
    write_records(inputs[0] / "records.jsonl", scored(signed=True, **made))
    (curve,) = read_sources(inputs).conversions
    assert curve.name == name


FOLDERS = sorted(path.parent for path in (ROOT / "results/conversion").glob("*/layers.csv"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_tables_are_their_records(folder: Path) -> None:
    (curve,) = read_sources([folder]).conversions
    assert rows_csv(curve) == (folder / "conversion.csv").read_text()
    text = (folder / "layers.csv").read_text()
    headings, layers = text.splitlines()[0].split(",")[1:], read_layers(text)
    assert layers_csv(headings, layers) == text
    report = (folder / "conversion.md").read_text()
    plots = re.findall(r"!\[\]\((.*)\)", report)
    assert to_markdown(curve, headings, layers, plots) == report


def test_committed_report_shows_the_committed_records() -> None:
    home = ROOT / "results/report"
    inputs = re.findall(r"`(results/[^`]+)`", (home / "report.md").read_text())
    sources = read_sources([ROOT / path for path in inputs])
    (section,) = [s for s in make_report(sources, []).sections if s.conversions]
    for table in (*conversion_pivots(section), conversion_table(section)):
        assert to_latex(table) == (home / "tables" / f"{table.name}.tex").read_text(), table.name
