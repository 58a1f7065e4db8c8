"""Tables in a terminal: no figure is lost at any width, and a failed cell is named in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.commands import terminal as console
from bench.records.record import read_records
from bench.run.runner import RunResult
from bench.tables.table import display, frame
from tests.support.records import failed, record

RESULTS = Path(__file__).parents[2] / "results"


def printed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    repeat: int | None,
) -> list[str]:
    monkeypatch.setattr(console, "LOG_COLUMNS", width)
    console.print_table(headings, rows, repeat)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    return lines


@pytest.mark.parametrize("suite", ["demo", "cifar10", "digits"])
@pytest.mark.parametrize("width", [60, 65, 72, 80, 95, 100, 120, 132, 150, 200, 240, 320])
def test_every_figure_of_a_run_s_table_is_printed(
    suite: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    headings, rows = display(frame(read_records(RESULTS / suite / "records.jsonl")))
    lines = printed(capsys, monkeypatch, width, headings, rows, 3)
    found = Counter(word for line in lines for word in line.split())
    figures = Counter(word for row in rows for cell in row[3:] for word in cell.split())
    assert figures - found == Counter()
    assert Counter(word for heading in headings for word in heading.split()) - found == Counter()


def test_in_a_narrow_terminal_text_is_folded_and_no_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    headings, rows = ["Layer", "Rate", "Energy"], [["a.very.long.name.of.a.layer", "0.25", "1.75"]]
    text = "\n".join(printed(capsys, monkeypatch, 24, headings, rows, 1))
    assert "0.25" in text
    assert "1.75" in text
    whole = "".join(line.split()[0] for line in text.splitlines()[3:6] if line.strip())
    assert whole.startswith("a.very.long.name")


def test_names_in_brackets_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["[bold]mine[/bold] :cat:", "1"]]
    lines = printed(capsys, monkeypatch, 80, ["Data", "T"], rows, None)
    assert any("[bold]mine[/bold] :cat:" in line for line in lines)


def test_failed_cells_are_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    records = [
        failed("sddpm"),
        failed("sddpm", seed=1),
        failed("sddpm").model_copy(update={"sampler_steps": 50, "eta": 0.0}),
    ]
    table = frame([record("sddpm"), *records])
    console.print_result(RunResult(tmp_path, records, table, {}))
    assert capsys.readouterr().err.splitlines() == [
        "failed: SDDPM, T=4, ddim 10 eta=1, seed 0: it broke",
        "failed: SDDPM, T=4, ddim 10 eta=1, seed 1: it broke",
        "failed: SDDPM, T=4, ddim 50, seed 0: it broke",
    ]
