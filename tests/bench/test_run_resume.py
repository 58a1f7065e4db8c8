"""A run that is killed goes on where it stopped and ends with the same records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.records import MEASURED

SUITE = """\
name: tiny
title: What a kill interrupts
dataset: digits
image_size: 8
systems: [sddpm, pixel_gaussian]
time_steps: [2]
sampling:
  - {sampler: ddim, steps: 25, eta: 1}
presets:
  smoke:
    budget: {train_steps: 150, batch_size: 8}
    samples: 40
    sample_batch: 4
    references: 40
    energy_images: 2
    config:
      sddpm: {channels: 8, multipliers: [1, 2], blocks: 1}
"""


class Tiny:
    """Runs the tiny suite in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.suite = folder / "tiny.yaml"
        self.suite.write_text(SUITE)
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def start(self, out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bench.cli", "run", "--suite", str(self.suite)]
        command += ["--preset", "smoke", "--out", str(out), "--device", "cpu"]
        command += ["--extractor", "embedded", "--checkpoint-seconds", "0.2"]
        return subprocess.Popen(
            command,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def finish(self, out: Path) -> str:
        process = self.start(out)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output

    def kill_when(self, out: Path, condition: Callable[[], bool]) -> None:
        """SIGKILL the run as soon as ``condition`` holds; it must not have ended before."""
        process = self.start(out)
        until = time.monotonic() + 200
        while not condition():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until, "the moment to kill never came"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


@pytest.mark.timeout(600)
def test_a_killed_run_ends_with_the_records_of_one_that_was_not(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    tiny.kill_when(killed, lambda: any(killed.glob("trainings/*/steps/step-*/config.json")))
    assert not list(killed.glob("trainings/*/checkpoint"))
    tiny.kill_when(killed, lambda: len(list(killed.glob("cells/sddpm*/shards/*.npz"))) >= 2)
    assert len(list(killed.glob("cells/sddpm*/shards/*.npz"))) < 10
    assert not list(killed.glob("cells/*/samples.npy"))
    output = tiny.finish(killed)
    # It took up sampling, not training.
    assert "/40 images" in output
    assert not list(killed.rglob("*.tmp")), "a killed write was left behind"
    assert not list(killed.glob("cells/*/shards"))

    tiny.finish(whole)
    assert [r["system"] for r in records(whole)] == ["sddpm", "pixel_gaussian"]
    for one, other in zip(records(whole), records(killed), strict=True):
        assert {name: one[name] for name in MEASURED} == {name: other[name] for name in MEASURED}
        assert one["status"] == "ok"
    for name in ("trainings/sddpm*/checkpoint/model.safetensors", "cells/sddpm*/samples.npy"):
        made, remade = (next(out.glob(name)).read_bytes() for out in (whole, killed))
        assert made == remade

    # A run with nothing left to do touches no result.
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*") if path.is_file()}
    lines = (killed / "records.jsonl").read_bytes()
    output = tiny.finish(killed)
    assert output.count("done before") == 2
    assert "/150 steps" not in output
    assert "/40 images" not in output
    assert (killed / "records.jsonl").read_bytes() == lines
    results = ("checkpoint", "cells")
    after = {path: path.stat().st_mtime_ns for path in killed.rglob("*") if path.is_file()}
    assert before.keys() == after.keys()
    for path, stamp in before.items():
        if any(part in path.parts for part in results):
            assert after[path] == stamp, f"{path} was written again"
