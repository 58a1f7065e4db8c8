"""The command line: what a user sees, above all when something is wrong."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from filelock import FileLock
from PIL import Image

from sddpm.kernels import library, processor
from sddpm.training import TrainConfig
from tests.support.calling import call, call_run, refused

SUITE = """\
name: tiny
title: Few steps of small networks
dataset: digits
image_size: 8
systems: [pixel_gaussian, sddpm]
time_steps: [2]
sampling:
  - {sampler: ddim, steps: 2, eta: 1}
presets:
  smoke:
    budget: {train_steps: 4, batch_size: 8}
    samples: 12
    references: 20
    energy_images: 1
    config:
      sddpm: {channels: 8, multipliers: [1, 2], blocks: 1}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SDDPM_DATA_ROOT", raising=False)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


# What works.


def test_run_makes_records_a_table_and_grids(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dry = call_run(suite, out, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert dry.stdout.count("missing") == 8
    assert "batch_size: 8" in dry.stdout
    assert not out.exists(), "a dry run writes nothing"

    result = call_run(suite, out)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:5] == [
        "suite: tiny, preset smoke: Few steps of small networks",
        "data: digits, 1 x 8 x 8, 1,500 training images",
        "cells: 2: systems pixel_gaussian, sddpm; T 2; samplers ddim 2 eta=1; seeds 0",
        "work: 2 trainings of 4 steps, 8 images each; 12 samples a cell against 20 train images",
        f"folder: {out} (every setting: run.json)",
    ]
    assert "batch_size: 8" not in result.stdout
    assert "SDDPM" in result.stdout
    assert "efficientnet-lite0" in result.stderr
    first, second = records(out)
    assert [first["system"], second["system"]] == ["pixel_gaussian", "sddpm"]
    assert second["time_steps"] == 2
    assert second["evaluations_per_image"] == 2
    assert second["train_images"] == 32
    assert second["samples"] == 12
    assert second["reference_images"] == 20
    assert set(second["wall_seconds"]) == {"train", "sample", "energy", "score"}
    # 45 nm: 4.6 pJ a MAC, 0.9 pJ an accumulate.
    counts = second["counts_per_image"]
    strict = (4.6 * counts["macs"] + 0.9 * counts["acs"]) * 1e-9
    assert second["energies"]["strict"]["per_image_mj"] == pytest.approx(strict)
    assert 0 < second["firing_rate"] < 1
    assert first["firing_rate"] is None
    table = (out / "table.md").read_text()
    assert "| SDDPM" in table
    assert "--suite" in table
    assert len((out / "table.csv").read_text().splitlines()) == 3
    for folder in (out / "cells").iterdir():
        assert str(folder / "grid.png") in result.stdout
        assert np.load(folder / "samples.npy").shape == (12, 1, 8, 8)
    assert json.loads((out / "run.json").read_text())["samples"] == 12
    assert call_run(suite, out, "--dry-run").stdout.count("done") == 8


def test_rescoring_does_not_sample_again(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call_run(suite, out, "--system", "pixel_gaussian").exit_code == 0
    samples = next(out.glob("cells/*/samples.npy"))
    stamp, hash_before = samples.stat().st_mtime_ns, records(out)[0]["reference_hash"]
    suite.write_text(SUITE.replace("references: 20", "references: 30"))
    assert call_run(suite, out, "--system", "pixel_gaussian").exit_code == 0
    (record,) = records(out)
    assert record["reference_images"] == 30
    assert record["reference_hash"] != hash_before
    assert samples.stat().st_mtime_ns == stamp
    assert len(list(out.glob("cells/*"))) == 1


def test_a_failed_cell_has_a_reason_and_no_number_and_others_go_on(
    suite: Path, tmp_path: Path
) -> None:
    suite.write_text(
        SUITE.replace("[pixel_gaussian, sddpm]", "[sddpm, pixel_gaussian]").replace(
            "blocks: 1}", "blocks: 1, threshold: 0.0}"
        )
    )
    out = tmp_path / "out"
    result = call_run(suite, out)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    bad, good = records(out)
    assert (bad["status"], good["status"]) == ("failed", "ok")
    assert "threshold" in bad["reason"]
    assert bad["metrics"] == {}
    assert bad["counts_per_image"] is None
    assert good["metrics"]
    table = (out / "table.md").read_text()
    assert "Failed: SDDPM, T=2, " in table
    assert next(line for line in table.splitlines() if "| SDDPM" in line).count("| - ") > 5


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


@pytest.mark.parametrize("what", ["systems", "suites", "datasets", "samplers"])
def test_lists(what: str) -> None:
    result = call("list", what)
    assert result.exit_code == 0
    expected = {"systems": "sddpm", "suites": "fashion_mnist", "datasets": "celeba",
                "samplers": "ddim"}  # fmt: skip
    assert expected[what] in result.stdout


def test_the_list_of_devices_says_which_kernels_run_and_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("SDDPM_KERNELS", "0")
    library.load.cache_clear()
    shown = call("list", "devices")
    library.load.cache_clear()
    assert shown.exit_code == 0
    assert re.search(r"kernels +none +SDDPM_KERNELS=0", shown.stdout)
    assert processor.kind() in shown.stdout
    monkeypatch.setenv("SDDPM_KERNELS", "fast")
    wrong = call("list", "devices")
    assert wrong.exit_code == 2
    assert "SDDPM_KERNELS=fast: expected 0, build, x86-64-v4" in wrong.stderr


def test_help_shows_examples() -> None:
    assert "sddpm-bench run --suite digits" in call("--help").stdout
    for command in ("run", "train", "sample", "evaluate", "energy", "guide", "import", "show"):
        assert f"  sddpm-bench {command} " in call(command, "--help").stdout


# What does not.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "digit"], ["'digit'", "did you mean 'digits'", "cifar10"]),
        (["--suite", "digits", "--preset", "smol"], ["'smol'", "'smoke'", "paper"]),
        (["--suite", "digits", "--system", "sdpm"], ["'sdpm'", "'sddpm'", "pixel_gaussian"]),
        (["--suite", "digits", "--sampler", "dim:5"], ["'dim'", "'ddim'", "ddpm"]),
        (["--suite", "digits", "--sampler", "ddpm:5:1"], ["--sampler ddpm:5:1", "eta"]),
        (["--suite", "digits", "--energy-table", "x"], ["energy table 'x'", "45nm"]),
        (["--suite", "absent.yaml"], ["absent.yaml", "no such file"]),
        (["--suite", "digits", "--time-steps", "0"], ["--time-steps", "'0'"]),
        (["--suite", "digits", "--time-steps", "4,x"], ["--time-steps", "'4,x'"]),
        (["--suite", "digits", "--device", "cuba"], ["--device", "'cuba'", "cuda"]),
    ],
)
def test_bad_options_are_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(call("run", *arguments, "--out", out), *words)
    assert not out.exists()


def test_a_broken_suite_names_line_and_field(suite: Path, tmp_path: Path) -> None:
    suite.write_text(SUITE.replace("samples: 12", "samples: twelve"))
    refused(call_run(suite, tmp_path / "out"), "tiny.yaml, line 12", "samples", "'twelve'")
    suite.write_text(SUITE.replace("{channels: 8", "{chanels: 8"))
    refused(call_run(suite, tmp_path / "out"), "line 16", "'chanels'", "did you mean 'channels'")
    assert not (tmp_path / "out").exists()


def test_a_data_root_without_the_data_says_both_ways(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("run", "--suite", "cifar10", "--data-root", tmp_path, "--out", out)
    refused(result, str(tmp_path / "cifar10"), "data root", "uoft-cs/cifar10")
    assert not out.exists()


@pytest.fixture
def checkpoint(suite: Path, tmp_path: Path) -> Path:
    out = tmp_path / "trained"
    done = call("train", "--suite", suite, "--preset", "smoke", "--system", "sddpm", "--out", out)
    assert done.exit_code == 0, done.output
    return out / "checkpoint"


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


def _absent(*arguments: object, **options: object) -> None:
    raise FileNotFoundError("no such data")


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


@pytest.mark.parametrize("full_at", ["safetensors", "samples"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    out = tmp_path / "out"

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        target = "sddpm.checkpoint.save_file" if full_at == "safetensors" else "numpy.savez"
        patch.setattr(target, full)
        result = call_run(suite, out, "--system", "pixel_gaussian")
    refused(result, "no space left", code=1)
    assert not list(out.rglob("*.tmp"))
    assert not list(out.glob("cells/*/samples.npy"))
    assert bool(list(out.glob("trainings/*/checkpoint"))) == (full_at == "samples")
    # With room again the same command completes.
    assert call_run(suite, out, "--system", "pixel_gaussian").exit_code == 0


def test_two_runs_do_not_work_in_one_folder(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"):
        refused(call_run(suite, out), str(out), "another run")


def test_an_interrupt_says_how_to_go_on(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.run.stages.fit", interrupt)
    result = call_run(suite, tmp_path / "out")
    assert result.exit_code == 130
    assert "same command goes on" in result.stderr


def test_help_shows_the_default_that_training_has() -> None:
    text = " ".join(call("run", "--help").stdout.split())
    words = text[text.index("--checkpoint-seconds") :]
    assert f"[default: {TrainConfig.checkpoint_seconds:g}]" in words.split(" --", 1)[0]
