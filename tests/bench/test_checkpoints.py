"""A checkpoint's facts: read once, and checked where they are read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.checkpoints import Checkpoint
from sddpm.checkpoint import CONFIG, save_checkpoint
from sddpm.protocol import ImageShape
from sddpm.system import Config, build
from tests.support.calling import call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = Config(time_steps=2, channels=8, multipliers=(1, 2), blocks=1)
    facts: dict[str, Any] = {
        "system": "sddpm", "config": asdict(config), "shape": {"channels": 1, "size": 8},
        "dataset": "digits", "trainer": {"seconds": 12.5},
    }  # fmt: skip
    save_checkpoint(tmp_path / "checkpoint", build(config, ImageShape(1, 8)), facts)
    return tmp_path / "checkpoint"


def test_facts_are_those_of_the_file(folder: Path) -> None:
    checkpoint = Checkpoint.read(folder)
    assert (checkpoint.system, checkpoint.time_steps) == ("sddpm", 2)
    assert checkpoint.shape == ImageShape(1, 8)
    assert checkpoint.train_seconds == 12.5
    facts = json.loads((folder / CONFIG).read_text())
    del facts["trainer"]
    (folder / CONFIG).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"does not say trainer\.seconds"):
        _ = Checkpoint.read(folder).train_seconds


@pytest.mark.parametrize("command", ["sample", "energy", "show"])
def test_a_command_reads_config_once(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    really = Path.read_text

    def read_text(path: Path, *given: Any, **options: Any) -> str:
        if path.name == CONFIG:
            reads.append(path)
        return really(path, *given, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    more = {"sample": ["--num", 1, "--out", tmp_path / "x.npy"], "energy": ["--num", 1],
            "show": ["--images", 1, "--out", tmp_path / "figures"]}[command]  # fmt: skip
    how = ["--sampler", "ddim:1", "--device", "cpu"]
    done = call(command, "--ckpt", folder, *more, *how)
    assert done.exit_code == 0, done.output
    assert reads == [folder / CONFIG]
