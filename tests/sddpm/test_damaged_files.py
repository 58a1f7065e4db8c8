"""Files that a command keeps for itself: damaged ones are named, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.checkpoints import claim
from bench.guide.scores import Ledger
from bench.plan.cells import Data, Training

DATA = Data("digits", "digits", 1, 8, False)
TRAINING = Training("vae", None, {}, DATA, 1, 1, "32-true", 0)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[]", b'{"key": []}', b'{"key": "a"}', b"\xff\xfe", b'{"key'],
    ids=["empty", "list", "no text", "no result", "bytes", "cut"],
)
def test_a_damaged_kept_result_is_named_by_its_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "guidance-rows.jsonl"
    Ledger(path).recall({"threshold": 1.0}, lambda: {"distances": [1.0]})
    good = path.read_bytes()
    assert Ledger(path).recall({"threshold": 1.0}, lambda: None) == {"distances": [1.0]}
    path.write_bytes(good + content + b"\n")
    with pytest.raises(ValueError, match=r"guidance-rows.jsonl, line 2: not a kept result"):
        Ledger(path)


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    claim(tmp_path, TRAINING)
    claim(tmp_path, TRAINING)
    assert json.loads((tmp_path / "training.json").read_text())["hash"] == TRAINING.hash
    other = Training("vae", None, {}, DATA, 2, 1, "32-true", 0)
    with pytest.raises(ValueError, match="holds a training with other settings"):
        claim(tmp_path, other)


def test_another_trainings_checkpoint_is_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    config = tmp_path / "checkpoint" / "config.json"
    config.write_text(json.dumps({"hash": "0" * 64}))
    with pytest.raises(ValueError, match="holds the checkpoint of another training"):
        claim(tmp_path, TRAINING)
    assert not (tmp_path / "training.json").exists()
    config.write_text(json.dumps({"hash": TRAINING.hash}))
    claim(tmp_path, TRAINING)


@pytest.mark.parametrize("content", [b"", b'{"hash": "12', b"[1, 2]", b"{}", b"\xff"])
def test_a_damaged_claim_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"training.json: .*delete it"):
        claim(tmp_path, TRAINING)


def test_the_time_of_earlier_calls_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every result that is used once, and of a file of an older version nothing."""
    clock = iter([0.0, 5.0, 100.0, 107.0])
    monkeypatch.setattr("bench.guide.scores.time.monotonic", lambda: next(clock))
    path = tmp_path / "guidance-rows.jsonl"
    first = Ledger(path)
    first.recall({"threshold": 1.0}, lambda: 1)
    first.recall({"threshold": 1.0}, lambda: 1)
    first.recall({"threshold": 2.0}, lambda: 2)
    assert first.earlier_seconds == 0
    again = Ledger(path)
    for _ in range(2):
        again.recall({"threshold": 2.0}, lambda: 2)
    assert again.earlier_seconds == 7
    again.recall({"threshold": 1.0}, lambda: 1)
    assert again.earlier_seconds == 12
    path.write_text("".join(json.dumps({k: v for k, v in json.loads(line).items()
                                        if k != "seconds"}) + "\n"
                            for line in path.read_text().splitlines()))  # fmt: skip
    old = Ledger(path)
    old.recall({"threshold": 1.0}, lambda: 1)
    assert old.earlier_seconds == 0
