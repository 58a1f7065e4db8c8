"""The report on files that are no results: one sentence each, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bench.records.record import write_records
from bench.report.sorting import make_report
from bench.report.sources import read_sources
from tests.support.calling import report as call
from tests.support.records import CONVERSION_ROWS, HASHES, cell, conversion

PUBLISHED = (
    "dataset,system,kind,spiking_time_steps,params_millions,inception_score,fid,protocol,source"
)


def bad_inputs(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    good = tmp_path / "good.jsonl"
    write_records(good, [cell(0)])
    texts = {
        "empty.jsonl": "", "broken.jsonl": "{", "notes.txt": "", "bad.csv": "a,b\n1,2\n",
        "run/run.json": "[]", "bytes/records.jsonl": "\udcff",
        "part.csv": f"{PUBLISHED}\ndigits,A,SNN,4.7,,,3,one,paper\n",
        "bare.csv": f"{PUBLISHED}\ndigits,A,SNN,4,,,3,,paper\n",
    }  # fmt: skip
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("years of work")
    networks = conversion(CONVERSION_ROWS)
    write_records(tmp_path / "orphans.jsonl", networks[1:])
    write_records(tmp_path / "childless.jsonl", networks[:1])
    pictured = tmp_path / "pictured"
    write_records(pictured / "records.jsonl", [cell(0)])
    Image.new("L", (50, 50)).save(pictured / f"x-{HASHES[0][:8]}.png")
    return {
        "absent": ([tmp_path / "nowhere"], "nowhere: no such file or folder"),
        "empty": ([tmp_path / "empty.jsonl"], "nothing to report"),
        "broken": ([tmp_path / "broken.jsonl"], "line 1: not JSON"),
        "text": ([tmp_path / "notes.txt"], "notes.txt: expected a records file"),
        "folder": ([tmp_path / "used"], "neither run nor convert wrote it"),
        "run.json": ([run], "run.json: expected a JSON object"),
        "bytes": ([tmp_path / "bytes"], "records.jsonl, line 1: not a text in UTF-8"),
        "orphans": (
            [tmp_path / "orphans.jsonl"],
            "orphans.jsonl: expected the record of one "
            "parent and of at least one network that it was converted to, found 0 and 2",
        ),
        "childless": ([tmp_path / "childless.jsonl"], "found 1 and 0"),
        "part": ([good, "--published", tmp_path / "part.csv"], "line 2: spiking_time_steps: 4.7:"),
        "bare": ([good, "--published", tmp_path / "bare.csv"], "line 2: protocol: is empty"),
        "out": ([good, "--out", tmp_path / "used"], "is there already and no report"),
        "file": ([good, "--out", good], "is there already"),
        "grid": ([pictured], "not a grid of images of 8 pixels"),
        "csv": ([good, "--published", tmp_path / "bad.csv"], "expected the columns dataset"),
        "no csv": ([good, "--published", out], "no such file"),
    }


@pytest.mark.parametrize(
    "case",
    ["absent", "empty", "broken", "text", "folder", "run.json", "bytes", "orphans", "childless",
     "part", "out", "file", "grid", "csv", "no csv"],
)  # fmt: skip
def test_bad_input_is_one_sentence(case: str, tmp_path: Path) -> None:
    arguments, words = bad_inputs(tmp_path)[case]
    if "--out" not in arguments:
        arguments += ["--out", tmp_path / "new"]
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert words in line
    assert (tmp_path / "used" / "thesis.tex").read_text() == "years of work"


def test_one_cell_scored_against_two_splits_is_in_both_rankings(tmp_path: Path) -> None:
    train = cell(0)
    test = train.model_copy(update={"reference_split": "test", "reference_hash": "0" * 16})
    for name, one in (("train", train), ("test", test), ("again", test)):
        write_records(tmp_path / name / "records.jsonl", [one])
    report = make_report(read_sources([tmp_path / n for n in ("train", "test", "again")]), [])
    assert [len(board.done) for board in report.boards] == [1, 1]
