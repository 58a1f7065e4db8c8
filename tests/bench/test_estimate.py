"""Cost estimates: operations agree with what a run counts, and what is done costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from lightning_fabric import Fabric
from torch import nn

from bench.cli import main
from bench.machine import Machine
from bench.plan.plan import Options, Plan, make_plan
from bench.records.record import Record, read_records
from bench.run import estimate
from bench.run.estimate import Estimate, estimate_plan, seconds_per_image
from sddpm import training
from sddpm.protocol import System

SUITE = """\
name: tiny
title: Few steps of small networks
dataset: digits
image_size: 8
systems: [sddpm, quantised_twin, pixel_gaussian]
time_steps: [2]
sampling:
  - {sampler: ddim, steps: 3, eta: 1}
  - {sampler: ddpm, steps: 2}
presets:
  smoke:
    budget: {train_steps: 6, batch_size: 8}
    samples: 12
    sample_batch: 4
    references: 20
    energy_images: 2
    config:
      sddpm: &tiny {channels: 8, multipliers: [1, 2], blocks: 1}
      ann_twin: *tiny
      quantised_twin: *tiny
"""


class Clock:
    """Stands for the clock: work takes ``fixed + each * images`` seconds, its first call more."""

    def __init__(self, fixed: float, each: float) -> None:
        self.now, self.fixed, self.each = 0.0, fixed, each
        self.sizes: list[int] = []

    def monotonic(self) -> float:
        return self.now

    def work(self, images: int) -> None:
        first = images not in self.sizes
        self.sizes.append(images)
        self.now += (self.fixed + self.each * images) * (1.5 if first else 1)


@pytest.mark.parametrize(
    ("fixed", "each", "largest", "worst"),
    [(0.0, 0.001, 100, 3), (0.2, 0.0001, 100, 6), (0.0, 0.05, 32, 13), (0.0, 40.0, 2, 201)],
)
def test_a_batch_grows_until_it_is_full_or_the_time_is_spent(
    fixed: float, each: float, largest: int, worst: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(fixed, each)
    monkeypatch.setattr(estimate, "time", clock)
    found = seconds_per_image(clock.work, 100, 3.0)
    assert max(clock.sizes) == largest
    assert found == pytest.approx((fixed + each * largest) / largest)
    assert clock.now < worst


def test_a_batch_that_memory_cannot_hold_ends_the_growth() -> None:
    def work(images: int) -> None:
        if images > 8:
            raise torch.OutOfMemoryError("full")

    assert seconds_per_image(work, 100, 1.0) < 1
    with pytest.raises(torch.OutOfMemoryError):
        seconds_per_image(lambda images: work(99), 100, 1.0)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def call(suite: Path, out: Path, *more: str) -> Result:
    command = ["run", "--suite", str(suite), "--preset", "smoke", "--out", str(out)]
    done = CliRunner().invoke(main, [*command, "--device", "cpu", "--extractor", "embedded", *more])
    assert done.exit_code == 0, done.output
    return done


def measure(plan: Plan) -> Estimate:
    return estimate_plan(plan, Machine("cpu"), seconds=0.01, progress=False)


def dense(record: Record) -> float:
    counts = record.counts_per_evaluation
    assert counts is not None
    return counts.macs + counts.dense_macs_spikes


def test_operations_are_those_of_the_run_and_what_stands_costs_nothing(
    suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = Options(str(suite), "smoke", out=out)
    before = measure(make_plan(options, read_data=False))
    assert not out.exists(), "an estimate writes nothing"
    assert not before.failed
    call(suite, out)
    records = {record.config_hash: record for record in read_records(out / "records.jsonl")}
    plan = make_plan(options)
    twice, once, rival, again, flat = [records[cell.hash] for cell in plan.cells]
    first, second, third, fourth, last = before.costs

    # Sampling: 12 images and 2 metered ones; training: 6 steps of 8 images, three passes each.
    assert first.sample_macs == 14 * 3 * dense(twice)
    assert second.sample_macs == 14 * 2 * dense(once)
    assert first.train_macs == 48 * 3 * dense(twice)
    assert (second.train_macs, second.train_hours) == (0, 0), "a training shared is paid once"
    # The rival's parent is a network of the same size.
    assert third.train_macs == pytest.approx(2 * 48 * 3 * dense(rival))
    assert fourth.train_macs == 0
    assert last.train_macs == last.sample_macs == 0
    assert third.macs_per_image == rival.counts_per_image.macs  # type: ignore[union-attr]
    assert third.acs_per_image == 0
    assert first.acs_per_image is not None
    assert first.acs_per_image > 0
    assert again.sampler_steps == 2
    assert flat.title == "pixel Gaussian"
    assert before.hours > 0

    done = measure(plan)
    assert done.hours == done.macs == 0
    assert done.costs[0].acs_per_image == twice.counts_per_image.acs  # type: ignore[union-attr]

    # What a killed run left: 8 of 12 images in shards, and a training at step 4 of 6.
    cell = plan.cells[0]
    folder = plan.cell_folder(cell)
    (folder / "samples.json").unlink()
    (folder / "shards").mkdir()
    for name in ("0000000-0000004", "0000004-0000008"):
        (folder / "shards" / f"{name}.npz").touch()
    part = measure(plan)
    assert part.costs[0].sample_macs == 4 * 3 * dense(twice)
    assert part.costs[0].train_hours == 0
    training = plan.training_folder(cell.training)
    (training / "checkpoint").rename(tmp_path / "moved")
    (training / "steps" / "step-000000004").mkdir(parents=True)
    assert measure(plan).costs[0].train_macs == 2 * 8 * 3 * dense(twice)


def test_the_command_shows_costs_of_a_narrowed_run(suite: Path, tmp_path: Path) -> None:
    narrow = ["--system", "sddpm", "--time-steps", "1,2", "--sampler", "ddim:4"]
    shown = call(suite, tmp_path / "out", *narrow, "--dry-run", "--estimate").stdout
    rows = [line for line in shown.splitlines() if line.count("missing") == 4]
    assert [row.split()[0] for row in rows] == ["sddpm-T1-ddim4", "sddpm-T2-ddim4"]
    assert "left to do: " in shown
    assert "dense MAC" in shown
    quick = call(suite, tmp_path / "out", *narrow, "--dry-run").stdout
    assert "left to do" not in quick
    refused = CliRunner().invoke(main, ["run", "--suite", str(suite), "--estimate"])
    assert refused.exit_code == 2
    assert "--dry-run" in refused.stderr


def test_a_network_that_cannot_be_built_has_a_reason_and_no_figure(
    suite: Path, tmp_path: Path
) -> None:
    suite.write_text(SUITE.replace("sddpm: &tiny {channels: 8", "sddpm: &tiny {channels: 7"))
    found = measure(make_plan(Options(str(suite), "smoke", out=tmp_path), read_data=False))
    assert len(found.failed) == 4
    assert "channels=7" in next(iter(found.failed.values()))
    assert found.costs[0].macs_per_image is None
    assert found.costs[-1].macs_per_image == 0


def test_a_training_is_timed_with_the_set_up_that_trains(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the networks are captured as graphs, without which a step takes three times as
    long: what training makes of a network is what the estimate must time."""
    made: list[str] = []
    really = training._launched

    def watch(system: System, name: str, fabric: Fabric) -> nn.Module:
        made.append(name)
        return really(system, name, fabric)

    monkeypatch.setattr(training, "_launched", watch)
    options = Options(str(suite), "smoke", systems=("sddpm",), out=tmp_path / "out")
    measure(make_plan(options, read_data=False))
    assert set(made) == {"net"}
    measured = len(made)
    call(suite, tmp_path / "out", "--system", "sddpm", "--sampler", "ddpm:1")
    assert len(made) == measured + 1
