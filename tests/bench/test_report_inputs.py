"""The report on files that are no results: one sentence each, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from test_report import call

from bench.records.record import write_records
from tests.support.records import HASHES, cell

PUBLISHED = "dataset,system,kind,spiking_time_steps,params_millions,inception_score,fid,source"
CONVERSION = (
    "time_steps,relative_error,denoising_loss,loss_ratio,firing_rate,published_mj,strict_mj"
)
ROW = ",0.25,0.06,3.0,0.1,0.05,0.1"


def bad_inputs(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    good = tmp_path / "good.jsonl"
    write_records(good, [cell(0)])
    texts = {
        "empty.jsonl": "", "broken.jsonl": "{", "notes.txt": "", "bad.csv": "a,b\n1,2\n",
        "run/run.json": "[]", "bytes/conversion.csv": "\udcff",
        "short/conversion.csv": "time_steps\n4\n",
        "part.csv": f"{PUBLISHED}\ndigits,A,SNN,4.7,,,3,paper\n",
    }  # fmt: skip
    rows = {"more": "4" + ROW + ",9", "less": "4" + ROW.rpartition(",")[0], "half": "2.5" + ROW,
            "below": "-2" + ROW}  # fmt: skip
    for name, row in rows.items():
        texts[f"{name}/conversion.csv"] = f"{CONVERSION}\n-,0,0.02,1,-,0.4,0.4\n{row}\n"
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("years of work")
    pictured = tmp_path / "pictured"
    write_records(pictured / "records.jsonl", [cell(0)])
    Image.new("L", (50, 50)).save(pictured / f"x-{HASHES[0][:8]}.png")
    return {
        "absent": ([tmp_path / "nowhere"], "nowhere: no such file or folder"),
        "empty": ([tmp_path / "empty.jsonl"], "nothing to report"),
        "broken": ([tmp_path / "broken.jsonl"], "line 1: not JSON"),
        "text": ([tmp_path / "notes.txt"], "notes.txt: expected a records file"),
        "folder": ([tmp_path / "used"], "not a run"),
        "run.json": ([run], "run.json: expected a JSON object"),
        "bytes": ([tmp_path / "bytes"], "conversion.csv: not a text file"),
        "columns": ([tmp_path / "short"], "conversion.csv: expected the columns"),
        "more": ([tmp_path / "more"], "conversion.csv, line 3: expected 7 columns"),
        "less": ([tmp_path / "less"], "conversion.csv, line 3: expected 7 columns"),
        "half": ([tmp_path / "half"], "line 3: time_steps: 2.5: expected a whole number from 1"),
        "below": ([tmp_path / "below"], "line 3: time_steps: -2: expected a whole number from 1"),
        "part": ([good, "--published", tmp_path / "part.csv"], "line 2: spiking_time_steps: 4.7:"),
        "out": ([good, "--out", tmp_path / "used"], "is there already and no report"),
        "file": ([good, "--out", good], "is there already"),
        "grid": ([pictured], "not a grid of images of 8 pixels"),
        "csv": ([good, "--published", tmp_path / "bad.csv"], "expected the columns dataset"),
        "no csv": ([good, "--published", out], "no such file"),
    }


@pytest.mark.parametrize(
    "case",
    ["absent", "empty", "broken", "text", "folder", "run.json", "bytes", "columns", "more", "less",
     "half", "below", "part", "out", "file", "grid", "csv", "no csv"],
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
