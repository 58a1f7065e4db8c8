"""Sweeps on Ray: a lost worker, shared trainings, the records of a local run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli import main
from bench.plan.plan import Options, make_plan
from bench.run.workers import TRAINING_FAILED, _told, parse_workers
from tests.support.calling import refused
from tests.support.records import MEASURED

SUITE = """\
name: tiny
title: A parent, its child, and a network that cannot be built
dataset: digits
image_size: 8
systems: [quantised_twin, ann_twin, sddpm]
time_steps: [2]
sampling:
  - {sampler: ddim, steps: 12, eta: 1}
presets:
  smoke:
    budget: {train_steps: 20, batch_size: 8}
    samples: 24
    sample_batch: 2
    references: 24
    energy_images: 1
    config:
      quantised_twin: &tiny {channels: 8, multipliers: [1, 2], blocks: 1}
      ann_twin: *tiny
      sddpm: {channels: 7, multipliers: [1, 2], blocks: 1}
"""
FACTS = (*MEASURED, "reason", "suite", "preset", "sampler", "sampler_steps", "engine")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def command(suite: Path, out: Path, *more: str) -> list[str]:
    given = ["run", "--suite", str(suite), "--preset", "smoke", "--out", str(out)]
    return [*given, "--device", "cpu", "--extractor", "embedded", *more]


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_long_temporary_folder_is_named(suite: Path, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    result = CliRunner().invoke(
        main, command(suite, tmp_path / "out", "--workers", "ray", "--ray-folder", str(long))
    )
    refused(result, "--ray-folder", str(long), "107 bytes", "--ray-folder /tmp/ray")


def test_a_running_cluster_has_its_own_folder(suite: Path, tmp_path: Path) -> None:
    more = ("--workers", "ray:10.0.0.1:6379", "--ray-folder", str(tmp_path))
    result = CliRunner().invoke(main, command(suite, tmp_path / "out", *more))
    refused(result, "--ray-folder", "10.0.0.1:6379")


def workers_of(driver: int) -> Iterator[tuple[int, str]]:
    """Process and task of Ray's busy workers that descend from the process ``driver``."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            names[int(folder.name)] = (folder / "cmdline").read_text().split("\0")[0]
        except OSError:
            continue  # it ended meanwhile
        parents[int(folder.name)] = int(fields[1])
    for process, name in names.items():
        above = process
        while above and above != driver:
            above = parents.get(above, 0)
        if above and name.startswith("ray::"):
            yield process, name


@pytest.mark.timeout(900)
@pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'ray>=2.50'")
def test_a_sweep_outlives_a_lost_worker_and_ends_with_the_records_of_a_local_run(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spread, local = tmp_path / "spread", tmp_path / "local"
    log = tmp_path / "log"
    with log.open("w") as output:
        driver = subprocess.Popen(
            [sys.executable, "-m", "bench.cli", *command(suite, spread, "--workers", "ray")],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        until = time.monotonic() + 400
        while not list(spread.glob("cells/quantised_twin*/shards/*.npz")):
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < until, "no cell began to sample"
            time.sleep(0.005)
        (victim,) = (p for p, name in workers_of(driver.pid) if "quantised_twin" in name)
        os.kill(victim, signal.SIGKILL)
        shards = {p: p.stat().st_mtime_ns for p in spread.glob("cells/quantised*/shards/*.npz")}
        assert len(shards) < 12, "it was killed too late"
        driver.wait(timeout=400)
    assert driver.returncode == 1, log.read_text()  # one cell cannot be built

    done = CliRunner().invoke(main, command(suite, local))
    assert done.exit_code == 1, done.output
    one, other = (
        [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        for out in (spread, local)
    )
    assert [record["status"] for record in one] == ["ok", "ok", "failed"]
    for mine, theirs in zip(one, other, strict=True):
        assert {name: mine[name] for name in FACTS} == {name: theirs[name] for name in FACTS}
    assert not list(spread.rglob("*.tmp"))
    # The twin is a cell and another's parent, and was trained once.
    names = sorted(path.name.rsplit("-", 1)[0] for path in (spread / "trainings").iterdir())
    assert names == ["ann_twin", "quantised_twin"]
    for path in local.glob("cells/*/samples.npy"):
        assert path.read_bytes() == (spread / path.relative_to(local)).read_bytes()

    # What is done is not done again; and it does not matter who did it.
    again = CliRunner().invoke(main, command(suite, spread))
    assert again.output.count("done before") == 2


def test_workers_that_cannot_be_had(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*more: str) -> Result:
        return CliRunner().invoke(main, command(suite, tmp_path / "out", *more))

    refused(run("--workers", "rya"), "--workers rya", "did you mean 'ray'")
    refused(run("--workers", "ray:"), "--workers ray:", "ray:ADDRESS")
    refused(run("--workers", "rya", "--dry-run"), "--workers rya", "did you mean 'ray'")
    refused(run("--workers", "ray", "--devices", "2"), "--devices")
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(run("--workers", "ray"), "pip install 'ray>=2.50'")


@pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'ray>=2.50'")
def test_an_address_where_nothing_answers_is_told_at_once(suite: Path, tmp_path: Path) -> None:
    more = ["--workers", "ray:127.0.0.1:1"]
    begun = time.monotonic()
    result = CliRunner().invoke(main, command(suite, tmp_path / "out", *more))
    refused(result, "--workers ray:127.0.0.1:1", "nothing answers")
    assert time.monotonic() - begun < 30


def test_an_address_is_all_behind_the_first_colon() -> None:
    assert parse_workers("ray") == "local"
    assert parse_workers("ray:auto") == "auto"
    assert parse_workers("ray:10.0.0.1:6379") == "10.0.0.1:6379"
    assert parse_workers("ray:ray://head:10001") == "ray://head:10001"


def test_a_failed_training_is_told_as_a_local_run_tells_it(suite: Path) -> None:
    cells = make_plan(Options(str(suite), "smoke", seeds=(0, 1)), read_data=False).cells
    child, twin = cells[0], cells[1]
    assert child.training.parent == twin.training
    failure = (twin.training.hash, "it broke")
    assert _told(failure, child, cells) == "it broke"
    assert _told(failure, twin, cells) == f"{TRAINING_FAILED}: it broke"
    assert _told(failure, twin, cells[1:]) == "it broke"
    assert _told(("", "lost"), twin, cells) == "lost"
