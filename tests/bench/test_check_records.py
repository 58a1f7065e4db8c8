"""check-records: what a records file must not hold, and outside records in a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import Record, read_records, write_records
from bench.records.validate import find_problems
from bench.report.markdown import to_markdown
from bench.report.sorting import make_report
from bench.report.sources import read_sources
from tests.support.calling import call, refused
from tests.support.records import VERSION_1, cell, conversion, failed

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "results").rglob("records.jsonl"))


def write(path: Path, *changes: dict[str, Any]) -> Path:
    """A file with a sound record for each of ``changes``, changed so."""
    lines = []
    for number, change in enumerate(changes):
        content = json.loads(cell(number, seed=number).model_dump_json())
        lines.append(json.dumps({**content, **change}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_committed_records_are_sound(path: Path) -> None:
    _, problems = find_problems(path, outside="outside" in path.parts)
    assert not problems, "\n".join(map(str, problems))


def test_a_sound_file_has_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [cell(0), cell(1, "ann_twin"), failed(seed=2)])
    done = call("check-records", path)
    assert (done.exit_code, done.output) == (0, f"{path}: 3 records, no problem\n")
    path.write_text(f"{VERSION_1}\n\n")
    assert call("check-records", path).output == f"{path}: 1 records, no problem\n"


@pytest.mark.parametrize(
    ("change", "field", "value", "wanted"),
    [
        ({"batch_size": 0}, "batch_size", "0", "greater than or equal to 1"),
        ({"seed": "one"}, "seed", '"one"', "a valid integer"),
        ({"status": "fine"}, "status", '"fine"', "'ok' or 'failed'"),
        ({"metrics": {"fd_efflite0": None}}, "metrics.fd_efflite0", "null", "a valid number"),
        ({"metrics": {"fid": 3.2}}, "metrics.fid", "3.2", "fd_efflite0, kid_efflite0"),
        ({"metrics": {"fd": 3.2}}, "metrics.fd", "3.2", "a column of efficientnet-lite0"),
        ({"metrics": {"fd_efflite0": -3}}, "metrics.fd_efflite0", "-3.0", "0 or a number above it"),
        ({"metrics": {}}, "metrics", "no figure", "the figures of a scored cell"),
        ({"extractor": "vgg"}, "extractor", '"vgg"', "inception-v3-compat, efficientnet-lite0"),
        ({"config_hash": "ab"}, "config_hash", '"ab"', "64 hex digits"),
        ({"reference_hash": None}, "reference_hash", "null", "16 hex digits"),
        ({"train_images": 7}, "train_images", "7", "1920"),
        ({"system": "sdppm"}, "system", '"sdppm"', "sddpm"),
        ({"fidd": 3}, "fidd", "3", "one of the fields"),
        ({"status": "failed"}, "reason", "null", "the reason of the failure"),
        ({"energy_table": "mine"}, "energy_table", '"mine"', "horowitz-45nm-fp32"),
    ],
)
def test_each_problem_is_a_line(
    change: dict[str, Any], field: str, value: str, wanted: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "r.jsonl", {}, change)
    done = call("check-records", path)
    assert done.exit_code == 2, done.output
    line, verdict = done.output.splitlines()
    assert line.startswith(f"{path}, line 2: {field}: {value}: expected ")
    assert wanted in line
    assert verdict == f"{path}: 2 records, 1 problems in 1 lines"


def test_a_missing_field_is_named_with_its_kind(tmp_path: Path) -> None:
    content = json.loads(cell(0).model_dump_json())
    del content["dataset"], content["cores"]
    (tmp_path / "r.jsonl").write_text(json.dumps(content) + "\n")
    lines = call("check-records", tmp_path / "r.jsonl").output.splitlines()
    assert "line 1: dataset: missing: expected text" in lines[0]
    assert "line 1: cores: missing: expected a whole number" in lines[1]


def test_energies_must_follow_from_the_counts(tmp_path: Path) -> None:
    """Strict energy of the stored line by hand: 4.6 pJ a MAC and 0.9 pJ an accumulate."""
    sound = cell(0)
    counts, energy = sound.counts_per_image, sound.energies["strict"]
    assert counts is not None
    by_hand = (4.6 * counts.macs + 0.9 * counts.acs) * 1e-9
    assert energy.per_image_mj == pytest.approx(by_hand, rel=1e-9)
    lower = {"strict": {**energy.model_dump(), "per_image_mj": by_hand / 2}}
    path = write(tmp_path / "r.jsonl", {"energies": lower})
    (problem,) = find_problems(path)[1]
    assert problem.field == "energies.strict.per_image_mj"
    assert problem.wanted == f"{by_hand:.9g}, which the counts give"


def test_what_is_no_record_is_shown_and_the_others_are_still_checked(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    sound = cell(0).model_dump_json()
    path.write_text(f"{{cut\n[]\n{sound}\n{sound}\n" + json.dumps({"schema_version": 99}) + "\n")
    done = call("check-records", path)
    lines = done.output.splitlines()
    assert done.exit_code == 2
    assert lines[0].startswith(f"{path}, line 1: {{cut: expected a record as one line of JSON")
    assert "line 2: []" in lines[1]
    assert "line 4: config_hash: " in lines[2]
    assert "expected another cell than line 3" in lines[2]
    assert "schema version 99" in lines[3]
    path.write_text("\n")
    assert "an empty file" in call("check-records", path).output
    refused(call("check-records", tmp_path / "no.jsonl"), "no.jsonl", "no such file")


def test_an_outside_record_says_who_sent_it(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"git_commit": "8d1dafc1ed09-dirty"})
    assert call("check-records", path).exit_code == 0
    done = call("check-records", "--outside", path)
    assert done.exit_code == 2
    assert "submitted_by: null: expected who measured it" in done.output
    assert "git_commit" in done.output
    sent = {"submitted_by": "A. Person, a@b.example", "system": "their_own"}
    path = write(tmp_path / "r.jsonl", sent)
    assert call("check-records", "--outside", path).exit_code == 0


def test_conversions_pass(tmp_path: Path) -> None:
    rows = [(None, 0.0, 0.02, 1.0, None, 0.4, 0.4), (4, 0.25, 0.06, 3.0, 0.1, 0.05, 0.1)]
    write_records(tmp_path / "r.jsonl", conversion(rows))
    assert find_problems(tmp_path / "r.jsonl") == (2, [])


def sent(**changes: Any) -> Record:
    return cell(0, submitted_by="A. Person, a@b.example", device="Their GPU", **changes)


def test_a_report_shows_outside_records_beside_its_own(tmp_path: Path) -> None:
    """Even of the very cell that the project measured; neither takes the other's place."""
    own, outside = tmp_path / "own.jsonl", tmp_path / "outside.jsonl"
    write_records(own, [cell(0, fd=10.0)])
    write_records(outside, [sent(fd=9.0)])
    assert read_records(outside)[0].submitted_by == "A. Person, a@b.example"
    report = make_report(read_sources([own, outside]), [])
    (board,) = report.boards
    assert [row.label for row in board.rows] == ["SDDPM (sent by A. Person, a@b.example)", "SDDPM"]
    page = b"".join(to_markdown(report, {}, {}, {})).decode()
    assert "Measured and sent by A. Person, a@b.example; not repeated by this project" in page
    own_facts, _, sent_facts = page.partition("Sent by: `A. Person, a@b.example`")[::1]
    assert "Their GPU" in sent_facts
    assert "Sent by" not in own_facts
