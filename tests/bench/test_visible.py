"""Text of others is shown, not obeyed: in a terminal, in a report, in a spreadsheet."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.record import read_records, write_records
from bench.tables.table import frame, to_csv
from bench.visible import csv_text, shortened, visible
from tests.support.calling import call, refused
from tests.support.records import cell, record

CLEAR, TITLE, REVERSED = "\x1b[2J", "\x1b]0;owned\x07", "\u202e"


@given(st.text())
def test_what_is_shown_holds_nothing_that_is_obeyed(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Zl", "Zp", "Cs"}
    turning = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    assert not {unicodedata.bidirectional(c) for c in shown} & turning
    assert visible(shown) == shown
    assert visible(text, keep=text) == text


def test_escape_codes_are_spelt() -> None:
    assert visible(f"a{CLEAR}b{REVERSED}\n") == "a\\x1b[2Jb\\u202e\\x0a"
    assert visible("Größe ±3 × 中文 ↓ 🙂") == "Größe ±3 × 中文 ↓ 🙂"
    assert visible("a\nb\tc", keep="\n") == "a\nb\\x09c"


def test_a_long_number_is_cut_to_its_ends() -> None:
    assert shortened(f"T={10**400}: too many") == "T=10000000...00000000 (401 digits): too many"
    assert shortened(f"hash {'1' * 40}") == f"hash {'1' * 40}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("import", "FILE", "--out", "NEW", "--time-steps", 10**400),
        ("import", "FILE", "--out", "NEW", "--threshold", 10**400),
        ("import", "FILE", "--out", "NEW", "--image-size", -(10**400)),
        ("run", "--suite", "digits", "--dry-run", "--time-steps", 10**400),
        ("run", "--suite", "digits", "--dry-run", "--sampler", f"ddim:{10**400}"),
        ("sample", "--ckpt", "fashion-mnist", "--out", "NEW", "--threshold", 10**400),
        ("sample", "--ckpt", "fashion-mnist", "--out", "NEW", "--time-steps", 10**400),
    ],
)
def test_no_error_of_the_command_line_prints_all_digits(
    arguments: tuple[object, ...], tmp_path: Path
) -> None:
    golden = Path(__file__).parents[1] / "golden" / "unet_small.pt"
    places = {"FILE": golden, "NEW": tmp_path / "new.npy"}
    done = call(*(places.get(str(word), word) for word in arguments))
    assert done.exit_code == 2, done.output
    assert "0" * 8 in done.stderr
    assert "0" * 60 not in done.output
    assert not (tmp_path / "new.npy").exists()


@pytest.mark.parametrize("sign", "=+-@")
def test_a_text_that_a_spreadsheet_would_compute_is_marked(sign: str) -> None:
    formula = f'{sign}HYPERLINK("http://x")'
    stored = [cell(0, title=formula, dataset="digits")]
    rows = list(csv.DictReader(to_csv(frame(stored)).splitlines()))
    assert rows[0]["title"] == f"'{formula}"
    assert rows[0]["dataset"] == "digits"
    assert csv_text("-") == "-"


def test_figures_stay_figures_in_a_csv() -> None:
    stored = [cell(0, fd=10.0, metrics={"fd_efflite0": 10.0, "is_efflite0": -2.5})]
    (row,) = csv.DictReader(to_csv(frame(stored)).splitlines())
    assert float(row["is_efflite0"]) == -2.5


def test_a_report_and_its_terminal_show_them(tmp_path: Path) -> None:
    bad = f"x{CLEAR}{TITLE}{REVERSED}"
    records = [cell(0, title=bad), cell(1, "ann_twin", command=bad, dataset=bad),
               record(status="failed", reason=bad, metrics={}, config_hash="f" * 64)]  # fmt: skip
    write_records(tmp_path / "records.jsonl", records)
    done = call("report", tmp_path / "records.jsonl", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    texts = [path for path in (tmp_path / "out").rglob("*")
             if path.suffix in (".html", ".md", ".svg", ".tex")]  # fmt: skip
    assert len(texts) > 4
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for unseen in ("\x1b", "\x07", REVERSED):
            assert unseen not in text, path
    assert "x\\x1b[2J" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    line = refused(call("report", tmp_path / bad, "--out", tmp_path / "new"), "no such file")
    assert "\x1b" not in line


WRONG = {
    "deep": ("[" * 100_000, "line 1: JSON nested too deeply"),
    "digits": (f'{{"schema_version": 2, "seed": {"1" * 5000}}}', "line 1: a number of too many"),
    "version": ({"schema_version": True}, "line 1: not a record"),
    "images": ({"train_images": 10**400}, "line 1: train_images: "),
    "seed": ({"seed": 10**400}, "line 1: seed: "),
    "distance": ({"metrics": {"fd_efflite0": 1e308}}, "line 1: metrics.fd_efflite0: "),
    "cores": ({"cores": -1}, "line 1: cores: "),
    "old": ({"schema_version": 1, "energies": {}, "counts_per_image": 3}, "line 1: not a record"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_record_that_cannot_be_is_named_by_file_line_and_field(name: str, tmp_path: Path) -> None:
    content, words = WRONG[name]
    path = tmp_path / "records.jsonl"
    if isinstance(content, dict):
        content = json.dumps({**json.loads(record().model_dump_json()), **content})
    path.write_text(content + "\n")
    with pytest.raises(ValueError, match=r"records\.jsonl") as caught:
        read_records(path)
    assert words in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


@pytest.mark.parametrize("text", ["[" * 100_000, '{"thresholds": ' + "1" * 5000 + "}"])
def test_a_guidance_file_that_cannot_be_is_named(text: str, tmp_path: Path) -> None:
    from sddpm.guidance import GUIDANCE, read_guidance

    (tmp_path / GUIDANCE).write_text(text)
    with pytest.raises(ValueError, match=GUIDANCE):
        read_guidance(tmp_path)
