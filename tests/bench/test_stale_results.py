"""What is kept is used for what it was made for: other thresholds, time steps or pictures are
noticed, and a damaged file stops its own cell alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench.checkpoints import Checkpoint
from bench.data.pictures import Images
from bench.files import sweep
from bench.machine import Machine
from bench.quality.extractors import Extractor
from bench.quality.fidelity import reference_hash
from bench.run import stages, states
from bench.run.drawing import DrawOptions, open_to_draw
from bench.run.samples import shard_path
from sddpm.guidance import GUIDANCE
from sddpm.protocol import ImageShape
from sddpm.rng import image_seeds
from tests.support.calling import call, call_run

pytestmark = pytest.mark.usefixtures("own_cache")

SUITE = """\
name: tiny
title: Few steps of small networks
dataset: digits
image_size: 8
systems: [sddpm]
time_steps: [2]
sampling:
  - {sampler: ddim, steps: 2, eta: 1, threshold: guided}
presets:
  smoke:
    budget: {train_steps: 4, batch_size: 8}
    samples: 12
    references: 20
    energy_images: 1
    config:
      sddpm: &tiny {channels: 8, multipliers: [1, 2], blocks: 1, diffusion_steps: 20}
      ann_twin: *tiny
      converted: {<<: *tiny, calibration_steps: 1}
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that tell samples and references apart, without a network; guidance of few images."""

    def score(
        images: Tensor,
        references: Images,
        extractor: Extractor,
        machine: Machine,
        figures: object = None,
    ) -> dict[str, Any]:
        return {
            "extractor": extractor.key,
            "references": len(references),
            "reference_hash": reference_hash(references, extractor),
            "metrics": {
                extractor.column("fid"): images.double().mean().item(),
                extractor.column("kid"): references[0].double().mean().item(),
            },
            "seconds": 0.0,
        }

    monkeypatch.setattr(stages, "score_images", score)
    monkeypatch.setattr("bench.run.settled.CANDIDATES", (0.9, 1.1))
    monkeypatch.setattr("bench.run.settled.HELD_OUT_IMAGES", 8)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


# Thresholds.


def test_guided_cells_are_made_again_at_other_thresholds(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call_run(suite, out).exit_code == 0
    assert "done before" in call_run(suite, out).output
    checkpoint = next(out.glob("trainings/*/checkpoint"))
    cell = next(out.glob("cells/*"))
    first, drawn = records(out)[0], np.load(cell / states.SAMPLES)
    assert read(checkpoint / GUIDANCE)["time_steps"] == 2
    assert read(cell / states.SAMPLES_FACTS)["thresholds"] == first["thresholds"]

    def guide(threshold: float) -> None:
        (checkpoint / GUIDANCE).write_text(json.dumps({"thresholds": threshold}))

    guide(0.5)
    assert "missing" in call_run(suite, out, "--dry-run").stdout
    # Another number of metered images alone would have kept the samples.
    suite.write_text(SUITE.replace("energy_images: 1", "energy_images: 2"))
    result = call_run(suite, out)
    assert result.exit_code == 0, result.output
    assert "done before" not in result.output
    (second,) = records(out)
    assert second["thresholds"] == 0.5
    assert second["metrics"] != first["metrics"]
    assert not np.array_equal(np.load(cell / states.SAMPLES), drawn)
    for name in (states.SAMPLES_FACTS, states.ENERGY):
        assert read(cell / name)["thresholds"] == 0.5
    assert "done before" in call_run(suite, out).output

    # An earlier version kept the thresholds in the records alone.
    def forget() -> None:
        for name in (states.SAMPLES_FACTS, states.ENERGY):
            facts = read(cell / name)
            del facts["thresholds"]
            (cell / name).write_text(json.dumps(facts))

    forget()
    assert "done before" in call_run(suite, out).output
    forget()
    guide(0.6)
    assert "done before" not in call_run(suite, out).output
    assert records(out)[0]["thresholds"] == read(cell / states.ENERGY)["thresholds"] == 0.6
    guide(0.5)
    assert call_run(suite, out).exit_code == 0
    assert records(out)[0]["metrics"] == second["metrics"]


class Painter:
    """Its images are as grey as the threshold says; it may stop after some batches."""

    def __init__(self, batches: int = 99) -> None:
        self.batches, self.drawn = batches, 0

    def sample(self, seeds: Tensor, sampling: dict[str, Any]) -> Tensor:
        if self.drawn == self.batches:
            raise KeyboardInterrupt
        self.drawn += 1
        return torch.full((len(seeds), 1, 4, 4), sampling["threshold"])


def paint(painter: Painter, folder: Path, threshold: float) -> None:
    stages.sample(
        lambda: painter,  # type: ignore[arg-type, return-value]
        folder,
        Machine("cpu"),
        shape=ImageShape(1, 4),
        count=6,
        seed=0,
        sampling={"threshold": threshold},
        batch=2,
        progress=False,
    )


def test_half_of_the_samples_is_not_finished_at_other_thresholds(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        paint(Painter(2), tmp_path, 0.5)
    again = Painter()
    paint(again, tmp_path, -0.5)
    assert again.drawn == 3
    assert len(np.unique(np.load(tmp_path / states.SAMPLES))) == 1
    scores = tmp_path / "scores-x.json"
    scores.touch()
    paint(again, tmp_path, -0.5)
    assert again.drawn == 3
    assert scores.exists()
    paint(again, tmp_path, 0.5)
    assert again.drawn == 6
    assert not scores.exists(), "of samples that are no more"


@pytest.mark.parametrize("damage", [b"", b"PK\3\4 and no more", b"not a shard", None])
def test_a_damaged_batch_is_drawn_again(damage: bytes | None, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        paint(Painter(2), tmp_path, 0.5)
    path = shard_path(tmp_path, 0, 2)
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    again = Painter()
    paint(again, tmp_path, 0.5)
    assert again.drawn == 2, "one that was missing, one that was damaged"
    assert np.load(tmp_path / states.SAMPLES).shape == (6, 1, 4, 4)


def test_batches_that_a_killed_run_had_joined_are_removed(tmp_path: Path) -> None:
    paint(Painter(), tmp_path, 0.5)
    assert not (tmp_path / states.SHARDS).exists()
    left = shard_path(tmp_path, 0, 2)
    left.parent.mkdir()
    left.touch()
    again = Painter()
    paint(again, tmp_path, 0.5)
    assert again.drawn == 0
    assert not left.parent.exists()


def test_each_number_of_time_steps_is_guided_by_itself(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (suite, out, "--system", "converted", "--time-steps", "2,3")
    result = call_run(*command)
    assert result.exit_code == 0, result.output
    checkpoint = next(out.glob("trainings/converted*/checkpoint"))
    files = sorted(checkpoint.glob(f"T*/{GUIDANCE}"))
    assert [read(path)["time_steps"] for path in files] == [2, 3]
    assert [record["thresholds"] for record in records(out)] == [
        read(path)["thresholds"] for path in files
    ]

    def said(*more: object) -> str:
        how = ["--num", 2, "--sampler", "ddim:2", "--device", "cpu", "--out", tmp_path / "x.npy"]
        return call("sample", "--ckpt", checkpoint, *how, *more).stderr

    assert str(files[1]) in said("--time-steps", 3)
    assert "as trained; the guided ones are of 2, 3 time steps" in said("--time-steps", 4)
    # A file that does not say, of an earlier version, is of the checkpoint's own number.
    (checkpoint / GUIDANCE).write_text('{"thresholds": 0.7}')
    assert "threshold: 0.7, guided" in said()
    assert str(files[0]) in said("--time-steps", 2)
    assert "as trained" in said("--time-steps", 4)
    (checkpoint / GUIDANCE).write_text('{"thresholds": 0.7, "time_steps": 4}')
    assert "threshold: 0.7, guided" in said("--time-steps", 4)
    assert "as trained" in said()
    assert call_run(*command).output.count("done before") == 2


def test_statistics_are_of_one_number_of_time_steps(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    done = call("train", "--suite", suite, "--preset", "smoke", "--system", "sddpm", "--out", out)
    assert done.exit_code == 0, done.output
    seeds = image_seeds(0, 0, 4)

    def draw(checkpoint: Path, time_steps: int | None) -> Tensor:
        how = DrawOptions(sampler="analytic_ddpm:4", time_steps=time_steps, device="cpu")
        drawing = open_to_draw(Checkpoint.read(checkpoint), how)
        return drawing.system.sample(seeds, drawing.sampling)

    fresh = shutil.copytree(out / "checkpoint", tmp_path / "fresh")
    draw(out / "checkpoint", None)
    assert torch.equal(draw(out / "checkpoint", 5), draw(fresh, 5))
    assert len(list((out / "checkpoint").glob("gamma-*"))) == 2
    draw(out / "checkpoint", 2)
    assert len(list((out / "checkpoint").glob("gamma-*"))) == 2, "2 is what it was trained with"


# Pictures.


def save_pictures(folder: Path, seed: int, count: int = 24) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, seed in (("train", 0), ("test", 1)):
        save_pictures(tmp_path / "data" / "mnist" / split, seed)
    return tmp_path / "data"


def test_exchanged_pictures_are_refused(suite: Path, tmp_path: Path, root: Path) -> None:
    suite.write_text(SUITE.replace("digits", "mnist"))
    out = tmp_path / "out"
    command = (suite, out, "--system", "pixel_gaussian")
    assert call_run(*command, "--data-root", root).exit_code == 0
    known = read(out / "data.json")["fingerprints"]

    # The same pictures elsewhere are the same data, and a folder of before knows none.
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    result = call_run(*command, "--data-root", moved)
    assert "done before" in result.output
    assert read(out / "data.json")["fingerprints"] == known
    old = read(out / "data.json")
    del old["fingerprints"]
    (out / "data.json").write_text(json.dumps(old))
    assert "done before" in call_run(*command, "--data-root", moved).output
    assert read(out / "data.json")["fingerprints"] == known

    save_pictures(moved / "mnist" / "train", seed=2)
    before = (out / "records.jsonl").read_bytes()
    for more in ([], ["--seed", 1], ["--dry-run"]):
        result = call_run(*command, "--data-root", moved, *more)
        assert result.exit_code == 2, result.output
        line = result.stderr.strip().splitlines()[-1]
        assert all(word in line for word in (f"--out {out}", "other pictures", "data.json")), line
    assert (out / "records.jsonl").read_bytes() == before
    assert call_run(*command, "--data-root", root).exit_code == 0
    shutil.rmtree(root)
    assert "done before" in call_run(*command, "--data-root", root).output, "nothing to do"


def test_exchanged_references_are_scored_against(suite: Path, tmp_path: Path, root: Path) -> None:
    suite.write_text(
        SUITE.replace("digits", "mnist").replace("systems:", "reference_split: test\nsystems:")
    )
    out = tmp_path / "out"
    command = (suite, out, "--system", "pixel_gaussian", "--data-root", root)
    assert call_run(*command).exit_code == 0
    (before,) = records(out)
    save_pictures(root / "mnist" / "test", seed=3)
    assert call_run(*command).exit_code == 0
    (after,) = records(out)
    assert after["reference_hash"] != before["reference_hash"]
    assert after["metrics"] != before["metrics"]


# Damage.


def test_a_damaged_file_stops_its_own_cell(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (suite, out, "--system", "pixel_gaussian", "--seed", "0,1,2,3,4,5")
    assert call_run(*command).exit_code == 0
    cells, trainings = {}, {}
    for record in records(out):
        (cells[record["seed"]],) = out.glob(f"cells/*{record['config_hash'][:8]}")
        (trainings[record["seed"]],) = out.glob(f"trainings/*{record['training_hash'][:8]}")
    energy = cells[0] / "energy.json"
    energy.write_text(energy.read_text()[:50])
    (cells[1] / "energy.json").write_text("{}")
    (scores,) = cells[2].glob("scores-*.json")
    scores.write_text("{}")
    (cells[3] / "samples.json").write_text("[]")
    config = trainings[4] / "checkpoint" / "config.json"
    facts = read(config)
    del facts["trainer"]
    config.write_text(json.dumps(facts))
    (cells[4] / "energy.json").unlink()  # else nothing asks how long it was trained

    states = call_run(*command, "--dry-run")
    assert states.exit_code == 0
    assert states.stdout.count(" damaged ") == 3
    result = call_run(*command)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    reasons = {r["seed"]: r["reason"] for r in records(out) if r["status"] == "failed"}
    named = {0: energy, 1: cells[1] / "energy.json", 2: scores, 3: cells[3] / "samples.json",
             4: config.parent}  # fmt: skip
    assert reasons.keys() == named.keys(), "the last one is as it was"
    for seed, path in named.items():
        assert reasons[seed].startswith(f"{path}: "), reasons[seed]
        assert "delete" in reasons[seed]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert call_run(*command).exit_code == 0
    assert {record["status"] for record in records(out)} == {"ok"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "does not say source, data"),
        ({"source": {}, "data": {}}, "data: expected channels, dataset"),
        ({"source": {}, "data": {"dataset": "digits"}}, "data: expected channels, dataset"),
        ({"data": None}, "does not say source"),
    ],
)
def test_a_damaged_memory_of_the_data_is_named(
    content: dict[str, Any], words: str, suite: Path, tmp_path: Path
) -> None:
    (tmp_path / "data.json").write_text(json.dumps(content))
    result = call_run(suite, tmp_path)
    assert result.exit_code == 2
    line = result.stderr.strip().splitlines()[-1]
    assert f"{tmp_path / 'data.json'}: {words}" in line
    assert "delete it" in line


# Folders in folders.


def test_a_run_below_keeps_what_it_is_writing(tmp_path: Path) -> None:
    dead = 999_999_999  # more than a process can be numbered
    own = [f".run.json.{dead}.tmp", f"cells/a/shards/.0.npz.{dead}.tmp",
           f"trainings/b/.checkpoint.{dead}.tmp/x",
           f"trainings/b/checkpoint/.guidance.json.{dead}.tmp"]  # fmt: skip
    others = [f"below/.run.json.{dead}.tmp", f"below/cells/a/shards/.0.npz.{dead}.tmp",
              f"trainings/b/checkpoint/.guidance.json.{os.getppid()}.tmp"]  # fmt: skip
    for name in (*own, *others):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    sweep(tmp_path)
    assert not any((tmp_path / name).exists() for name in own)
    assert all((tmp_path / name).exists() for name in others)
