"""Conversions in a report: quality in table and figure, and what may stand beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_report import make_conversion

from bench.records.record import write_records
from bench.report.boards import make_report
from bench.report.conversions import direct, plot_conversions
from bench.report.sources import read_sources
from bench.report.tables import conversion_table
from bench.report.write import render
from tests.support.records import cell

SOLVER = "ddim 10 eta=1"


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """A scored conversion of digits, and records drawn in its way and in others."""
    scored = tmp_path / "scored"
    make_conversion(scored)
    heading, *rows = (scored / "conversion.csv").read_text().splitlines()
    distances = ("11.0,0.5", "44.0,0.4", "22.0,0.3")
    lines = [f"{heading},fd_efflite0,is_std_efflite0"]
    lines += [f"{row},{distance}" for row, distance in zip(rows, distances, strict=True)]
    (scored / "conversion.csv").write_text("\n".join(lines) + "\n")
    (scored / "evaluation.json").write_text(json.dumps({"solver": SOLVER, "samples": 100}))
    (scored / "T4").mkdir()
    facts = {"config": {"method": "ltb"}, "conversion": {}, "dataset_label": "digits"}
    (scored / "T4" / "config.json").write_text(json.dumps(facts))
    records = [
        cell(0, fd=33.0),
        cell(1, fd=7.0, samples=50),
        cell(2, "ann_twin", 5.0),
        cell(3, "converted", 6.0),
        cell(4, fd=8.0, sampler="ddim", sampler_steps=99),
    ]
    write_records(tmp_path / "records.jsonl", records)
    return [scored, tmp_path / "records.jsonl"]


def test_quality_is_a_column_and_the_spread_is_not(inputs: list[Path]) -> None:
    (section,) = make_report(read_sources(inputs), []).sections
    table = conversion_table(section)
    assert [column.text for column in table.columns][-1] == "FD (efflite0) ↓"
    assert [line.entries[-1].text for line in table.lines] == ["11.00", "44.00", "22.00"]
    assert table.notes == [f"Quality: 100 samples of each, {SOLVER}."]


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


@pytest.mark.parametrize("tuned", [0, 150])
def test_the_legend_is_inside_the_figure_however_long_its_names(
    inputs: list[Path], tuned: int
) -> None:
    facts = {"config": {"method": "rate-channel", "signed": True, "readout": "window"},
             "conversion": {"finetune": "blocks", "finetune_steps": tuned},
             "dataset": "digits"}  # fmt: skip
    (inputs[0] / "T4" / "config.json").write_text(json.dumps(facts))
    copies = [inputs[0].with_name(f"copy{number}") for number in range(3)]
    for copy in copies:
        shutil.copytree(inputs[0], copy)
    plot = plot_conversions(make_report(read_sources([*inputs, *copies]), []).sections[0])
    render(plot, "png")  # which lays it out
    figure = plot.figure
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert box.y0 >= max(ax.get_window_extent().y1 for ax in figure.axes)


def test_a_schedule_stands_off_the_line(inputs: list[Path]) -> None:
    path = inputs[0] / "conversion.csv"
    heading, ann, *rows = path.read_text().splitlines()
    scheduled = "8" + rows[0][1:]
    lines = [f"{heading},schedule", f"{ann},-", *(f"{row},-" for row in rows)]
    path.write_text("\n".join([*lines, f"{scheduled},4/12"]) + "\n")
    (section,) = make_report(read_sources(inputs), []).sections
    shown = [line.entries[1].text for line in conversion_table(section).lines]
    assert shown == ["-", "4", "4/12", "16"]
    quality = plot_conversions(section).figure.axes[1]
    lines_ = [line for line in quality.lines if len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in lines_ if line.get_marker() == "o"] == [[4, 16]]
    assert [list(line.get_xdata()) for line in quality.lines if line.get_marker() == "x"] == [[8]]


def test_without_samples_the_loss_is_shown(tmp_path: Path) -> None:
    make_conversion(tmp_path / "bare")
    (section,) = make_report(read_sources([tmp_path / "bare"]), []).sections
    drawing = plot_conversions(section)
    assert drawing.figure.axes[1].get_ylabel() == "denoising loss / parent's"
    assert "FD" not in drawing.caption


def test_a_damaged_evaluation_is_one_sentence(inputs: list[Path]) -> None:
    (inputs[0] / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"evaluation.json: expected a solver and a number"):
        read_sources(inputs)


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
    facts = {"config": {"method": "ltb", "signed": True}, "conversion": made}
    (inputs[0] / "T4" / "config.json").write_text(json.dumps({**facts, "dataset": "digits"}))
    (conversion,) = read_sources(inputs).conversions
    assert conversion.name == name
