"""A metric is one entry: what is added here stands in every table, and is compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.cli import main
from bench.quality import fidelity
from bench.quality.formulas import ImageSets, MetricValue
from bench.quality.metrics import METRICS, Metric, Tolerance
from bench.records.record import read_records, write_records
from bench.report.latex import to_latex
from bench.report.markdown import table_text
from bench.report.sorting import make_report
from bench.report.sources import Sources
from bench.report.tables import ranking
from bench.tables.table import display, frame
from tests.support.records import cell


def mean_gap(sets: ImageSets) -> MetricValue:
    """A formula of a test's own: the distance of the features' means."""
    return MetricValue(float((sets.samples.mean - sets.reference.mean).abs().sum()), 0.25)


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Metric(
        key="gap",
        title="Mean gap",
        better="lower",
        decimals=1,
        tolerance=Tolerance(3, percent=True),
        formula=f"{__name__}:mean_gap",
        least_tolerance=0.5,
    )
    monkeypatch.setitem(METRICS, "gap", entry)


def records(folder: Path, name: str, gap: float) -> Path:
    """A records file of one cell whose gap is this."""
    path = folder / name / "records.jsonl"
    metrics = {"gap_efflite0": gap, "fd_efflite0": 7.0, "gap_std_efflite0": 0.125}
    path.parent.mkdir()
    write_records(path, [cell(0).model_copy(update={"metrics": metrics})])
    return path


def test_it_is_computed() -> None:
    one, two = (fidelity.summarise(torch.randn(20, 4) + shift) for shift in (0, 5))
    got = fidelity.compute(one, two, torch.randn(20, 5))
    assert got["gap"] == pytest.approx(20, abs=4)
    assert got["gap_std"] == 0.25


def test_it_stands_in_the_table(tmp_path: Path) -> None:
    path = records(tmp_path, "run", 12.345)
    headings, ((*row,),) = display(frame(read_records(path)))
    shown = dict(zip(headings, row, strict=True))
    assert shown["Mean gap (efflite0) ↓"] == "12.3"
    assert headings.index("FD (efflite0) ↓") < headings.index("Mean gap (efflite0) ↓")


def test_it_stands_in_the_report_and_its_latex(tmp_path: Path) -> None:
    (near,) = read_records(records(tmp_path, "run", 12.345))
    far = near.model_copy(
        update={
            "system": "other",
            "title": "Other",
            "metrics": {**near.metrics, "gap_efflite0": 20.0},
        }
    )
    (board,) = make_report(Sources(records=[near, far]), []).boards
    lines = table_text(ranking(board)).splitlines()
    heading, _, *rows = [line for line in lines if line.startswith("|")]
    place = heading.split(" | ").index("Mean gap (efflite0) ↓")
    assert sorted(row.split(" | ")[place] for row in rows) == ["**12.3**", "20.0"]
    latex = to_latex(ranking(board))
    assert r"\textbf{12.3}" in latex
    assert "Mean gap" in latex


@pytest.mark.parametrize(("after", "code"), [(10.29, 0), (10.6, 1), (9.0, 0)])
def test_it_is_compared_with_its_tolerance(tmp_path: Path, after: float, code: int) -> None:
    one, two = records(tmp_path, "one", 10.0), records(tmp_path, "two", after)
    asked = ["check", "--baseline", str(one), "--candidate", str(two), "--format", "json"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == code, done.output
    changes = {change["metric"]: change for change in json.loads(done.stdout)["changes"]}
    assert changes["gap_efflite0"]["candidate"] == after
