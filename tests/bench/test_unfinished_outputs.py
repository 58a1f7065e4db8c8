"""Commands that were killed while they wrote can go on in the folder that they were writing to."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.convert.request import ConvertRequest, check_folder, claim_folder
from bench.records.record import write_records
from bench.report.write import run_report
from sddpm.replacing import atomic_write
from tests.support.records import cell

DEAD = 999_999_999
"""More than a process can be numbered."""


def test_a_conversion_killed_in_its_first_write_goes_on(tmp_path: Path) -> None:
    request = ConvertRequest(tmp_path / "ann", tmp_path / "out")
    request.out.mkdir()
    (request.out / f".conversion.json.{DEAD}.tmp").write_text("{")
    check_folder(request)
    claim_folder(request)
    check_folder(request)
    assert [path.name for path in request.out.iterdir()] == ["conversion.json"]


def test_another_folder_is_still_no_conversion(tmp_path: Path) -> None:
    request = ConvertRequest(tmp_path / "ann", tmp_path)
    for name in ("thesis.tex", ".conversion.json.tmp"):
        (tmp_path / name).write_text("years of work")
        with pytest.raises(ValueError, match="no conversion; give a new folder"):
            check_folder(request)
        (tmp_path / name).unlink()


class KilledError(BaseException):
    """Stands for the end of the process: no handler sees it."""


def test_a_report_killed_in_any_of_its_writes_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written before: after nothing, after the first file, after all but the page."""
    records, whole = tmp_path / "records.jsonl", tmp_path / "whole"
    write_records(records, [cell(0)])
    count = len(run_report([records], whole).files)
    expected = {str(path.relative_to(whole)) for path in whole.rglob("*")}
    for last in (0, 1, count):
        written: list[Path] = []

        def killed(path: Path, last: int = last, written: list[Path] = written) -> object:
            if len(written) == last:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(f".{path.name}.{DEAD}.tmp").touch()
                raise KilledError
            written.append(path)
            return atomic_write(path)

        home = tmp_path / f"killed{last}"
        with monkeypatch.context() as patch:
            patch.setattr("bench.report.write.atomic_write", killed)
            with pytest.raises(KilledError):
                run_report([records], home)
        run_report([records], home)
        names = {str(path.relative_to(home)) for path in home.rglob("*")}
        assert names == expected


def test_a_folder_with_figures_of_someone_else_is_no_report(tmp_path: Path) -> None:
    records, out = tmp_path / "records.jsonl", tmp_path / "mine"
    write_records(records, [cell(0)])
    (out / "figures").mkdir(parents=True)
    (out / "report.md").write_text("# My thesis\n")
    with pytest.raises(ValueError, match="is there already and no report"):
        run_report([records], out)
