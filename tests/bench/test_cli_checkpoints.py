"""The commands on one checkpoint: train, sample, evaluate and energy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from tests.support.calling import call, refused
from tests.support.suites import TINY_SUITE

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_SUITE)
    return path


@pytest.fixture
def checkpoint(suite: Path, tmp_path: Path) -> Path:
    out = tmp_path / "trained"
    done = call("train", "--suite", suite, "--preset", "smoke", "--system", "sddpm", "--out", out)
    assert done.exit_code == 0, done.output
    return out / "checkpoint"


def test_one_stage_at_a_time(suite: Path, tmp_path: Path) -> None:
    out, checkpoint = tmp_path / "mine", tmp_path / "mine" / "checkpoint"
    train = ["train", "--suite", suite, "--preset", "smoke", "--system", "sddpm", "--out", out]
    assert call(*train).exit_code == 0
    assert (checkpoint / "model.safetensors").is_file()
    refused(call(*train, "--seed", 1), "--out", "other settings")

    grid, file = tmp_path / "grid.png", tmp_path / "s.npy"
    how = ["--ckpt", checkpoint, "--sampler", "ddim:3:1", "--device", "cpu"]
    drawn = call("sample", *how, "--num", 12, "--grid", grid, "--out", file)
    assert drawn.exit_code == 0, drawn.output
    images = np.load(file)
    assert images.shape == (12, 1, 8, 8)
    assert images.dtype == np.uint8
    # Two rows of at most eight 8x8 images, magnified eight times, with 2 pixels between.
    assert Image.open(grid).size == (8 * 66 + 2, 2 * 66 + 2)

    again = call("sample", *how, "--num", 12, "--batch", 5, "--out", tmp_path / "t.npy")
    assert again.exit_code == 0
    difference = np.abs(np.load(tmp_path / "t.npy").astype(int) - images).max()
    assert difference <= 1, "an image depends on the batch that it is drawn in"

    scored = call("evaluate", "--ckpt", checkpoint, "--samples", file, "--references", 20,
                  "--extractor", "embedded", "--device", "cpu")  # fmt: skip
    assert scored.exit_code == 0, scored.output
    assert "fd_efflite0" in scored.stdout
    assert "20 train images of digits" in scored.stdout

    counted = call("energy", *how, "--num", 1)
    assert counted.exit_code == 0, counted.output
    assert re.search(r"evaluations per image +3\n", counted.stdout)
    assert "Strict mJ per image" in counted.stdout


def test_checkpoints_that_cannot_be_used(checkpoint: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"

    def sample(folder: Path = checkpoint, *more: object) -> Result:
        return call("sample", "--ckpt", folder, "--grid", grid, "--device", "cpu", *more)

    refused(sample(tmp_path / "absent"), "absent", "not a checkpoint folder")
    refused(sample(checkpoint, "--sampler", "ddim:5000"), "steps=5000", "1000")
    refused(sample(checkpoint, "--sampler", "dim"), "'ddim'")

    config = checkpoint / "config.json"
    facts = json.loads(config.read_text())

    def with_config(**changes: Any) -> Result:
        config.write_text(json.dumps({**facts, **changes}))
        return sample()

    refused(with_config(system="sdpm"), "'sdpm'", "'sddpm'")
    refused(with_config(format=7), "format 7")
    wider = {**facts["config"], "channels": 16}
    refused(with_config(config=wider), "model.safetensors", "shape")
    refused(with_config(config={**facts["config"], "channels": "many"}), "channels")
    refused(with_config(shape=3), "shape")
    del facts["shape"]
    refused(with_config(), "shape")
    config.write_text("{")
    refused(sample(), "config.json", "JSON")
    config.write_text(json.dumps({**facts, "shape": {"channels": 1, "size": 8}}))
    assert sample().exit_code == 0
    grid.unlink()

    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(sample(), "model.safetensors", "not a complete safetensors file")
    weights.unlink()
    refused(sample(), "model.safetensors", "incomplete")
    assert not grid.exists()


def test_samples_that_cannot_be_scored(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.npy"

    def evaluate() -> Result:
        return call("evaluate", "--ckpt", checkpoint, "--samples", file, "--references", 20,
                    "--extractor", "embedded", "--device", "cpu")  # fmt: skip

    refused(evaluate(), "s.npy", "no such file")
    file.write_bytes(b"\x93NUMPY\x01\x00")
    refused(evaluate(), "s.npy", "not a complete .npy or .npz file")
    np.save(file, np.zeros((12, 1, 8, 8)))
    refused(evaluate(), "s.npy", "uint8")
    np.save(file, np.zeros((12, 1, 16, 16), np.uint8))
    refused(evaluate(), "[12, 1, 16, 16]")
    np.save(file, np.zeros((3, 1, 8, 8), np.uint8))
    refused(evaluate(), "3 samples")


def test_nothing_to_write(checkpoint: Path) -> None:
    refused(call("sample", "--ckpt", checkpoint), "--grid", "--out", "--gif", "--strip")


def test_a_shipped_checkpoint_is_known_by_its_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    (package / "checkpoints").mkdir(parents=True)
    checkpoint.rename(package / "checkpoints" / "tiny-digits")
    monkeypatch.setattr("sddpm.checkpoint.resources.files", lambda name: package)
    drawn = call("sample", "--ckpt", "tiny-digits", "--num", 2, "--sampler", "ddim:2", "--out",
                 tmp_path / "s.npy", "--device", "cpu")  # fmt: skip
    assert drawn.exit_code == 0, drawn.output
    refused(call("sample", "--ckpt", "tiny", "--out", tmp_path / "t.npy"), "tiny", "tiny-digits")


def _absent(*arguments: object, **options: object) -> None:
    raise FileNotFoundError("no such data")


def test_samplers_that_need_statistics_measure_them_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(name: str) -> Result:
        return call("sample", "--ckpt", checkpoint, "--num", 4, "--sampler", "analytic_ddpm:3",
                    "--out", tmp_path / name, "--device", "cpu")  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr("bench.checkpoints.load", _absent)
        refused(sample("a.npy"), "--data-root", "analytic_ddpm", "statistics", "no such data")
        assert sample("a.npy").exit_code == 2
        config = checkpoint / "config.json"
        facts = json.loads(config.read_text())
        config.write_text(json.dumps({**facts, "dataset": None}))
        refused(sample("a.npy"), "--data-root", "names no data set")
        config.write_text(json.dumps(facts))
    assert not list(checkpoint.glob("gamma-*"))
    measured = sample("a.npy")
    assert measured.exit_code == 0, measured.output
    assert "measuring" in measured.stderr
    assert len(list(checkpoint.glob("gamma-*.safetensors"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr("bench.checkpoints.load", _absent)
        known = sample("b.npy")
    assert known.exit_code == 0, "cached statistics need no data"
    assert "measuring" not in known.stderr
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    how = ["--ckpt", checkpoint, "--sampler", "analytic_ddpm:3", "--device", "cpu"]
    refused(call("guide", *how), "--sampler analytic_ddpm:3", "another sampler")
    assert call("evaluate", *how, "--num", 12, "--references", 20, "--extractor", "embedded"
                ).exit_code == 0  # fmt: skip


def test_options_that_a_system_does_not_have(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "flat"
    assert call("train", "--suite", suite, "--preset", "smoke", "--system", "pixel_gaussian",
                "--out", out).exit_code == 0  # fmt: skip
    how = ["sample", "--ckpt", out / "checkpoint", "--out", tmp_path / "s.npy"]
    name = "pixel_gaussian"
    refused(call(*how, "--threshold", 0.9), "--threshold 0.9", name)
    refused(call(*how, "--engine", "fast"), "--engine fast", name)
    refused(call(*how, "--sampler", "ddim"), "--sampler ddim", name)
    refused(call(*how, "--gif", tmp_path / "d.gif"), "--gif", "does not denoise")
    assert call(*how).exit_code == 0
