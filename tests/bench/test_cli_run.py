"""The command run: what it makes, and what it says where something is wrong."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from tests.support.calling import call, call_run, refused
from tests.support.suites import TINY_SUITE

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_SUITE)
    return path


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


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
    suite.write_text(TINY_SUITE.replace("references: 20", "references: 30"))
    assert call_run(suite, out, "--system", "pixel_gaussian").exit_code == 0
    (record,) = records(out)
    assert record["reference_images"] == 30
    assert record["reference_hash"] != hash_before
    assert samples.stat().st_mtime_ns == stamp
    assert len(list(out.glob("cells/*"))) == 1


def test_two_budgets_stand_beside_each_other_in_one_folder(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for budget in ([], ["--budget", "2"], ["--budget", "0.5"], ["--budget", "2"]):
        result = call_run(suite, out, "--system", "pixel_gaussian", *budget)
        assert result.exit_code == 0, result.output
    found = {record["budget"]: record["train_steps"] for record in records(out)}
    assert found == {None: 4, 2.0: 8, 0.5: 2}
    table = (out / "table.md").read_text()
    assert "Training steps" in table
    assert "--budget 2.0" in table or "--budget 2" in table
    for wrong in ("0", "-1", "nan", "twice"):
        output = refused(call_run(suite, out, "--budget", wrong))
        assert "--budget" in output
        assert "above 0" in output


def test_a_plan_for_a_gpu_is_shown_where_there_is_none(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    arguments = ["run", "--suite", str(suite), "--preset", "smoke", "--out", str(tmp_path / "out")]
    for device, told in (("cuda", True), ("auto", False), ("cpu", False)):
        result = call(*arguments, "--device", device, "--dry-run")
        assert result.exit_code == 0, result.output
        assert result.stdout.count("missing") == 8
        assert ("the run would stop: --device cuda" in result.stderr) == told
    refused(call(*arguments, "--device", "cuda"), "--device cuda", "no CUDA device is visible")


def test_a_value_that_no_network_has_is_found_before_its_parent_is_trained(
    suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    text = TINY_SUITE.replace("[pixel_gaussian, sddpm]", "[sddpm_plus_taught]")
    suite.write_text(
        text + "      ann_twin: {channels: 8, multipliers: [1, 2], blocks: 1}\n"
        "      sddpm_plus_taught: {channels: 8, multipliers: [1, 2], blocks: 1, neuron: foo}\n"
    )
    for more in (["--dry-run"], []):
        result = call_run(suite, out, *more)
        assert result.exit_code != 0
        assert "neuron='foo': expected one of" in result.output
    assert not list((out / "trainings").glob("ann_twin-*")), "the parent was trained for nothing"
    suite.write_text(suite.read_text().replace(", neuron: foo", ""))
    result = call_run(suite, out, "--budget", "0.5")
    assert result.exit_code == 0, result.output
    assert "work: 2 trainings of 2 steps" in result.stdout
    trainings = json.loads((out / "run.json").read_text())["trainings"]
    assert [name.partition("-")[0] for name in trainings] == ["ann_twin", "sddpm_plus_taught"]
    (record,) = [record for record in records(out) if record["status"] == "ok"]
    assert (record["parent_images"], record["train_images"]) == ([16], 16)


def test_a_failed_cell_has_a_reason_and_no_number_and_others_go_on(
    suite: Path, tmp_path: Path
) -> None:
    suite.write_text(
        TINY_SUITE.replace("[pixel_gaussian, sddpm]", "[sddpm, pixel_gaussian]").replace(
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
    suite.write_text(TINY_SUITE.replace("samples: 12", "samples: twelve"))
    refused(call_run(suite, tmp_path / "out"), "tiny.yaml, line 12", "samples", "'twelve'")
    suite.write_text(TINY_SUITE.replace("{channels: 8", "{chanels: 8"))
    refused(call_run(suite, tmp_path / "out"), "line 16", "'chanels'", "did you mean 'channels'")
    assert not (tmp_path / "out").exists()


def test_a_data_root_without_the_data_says_both_ways(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("run", "--suite", "cifar10", "--data-root", tmp_path, "--out", out)
    refused(result, str(tmp_path / "cifar10"), "data root", "uoft-cs/cifar10")
    assert not out.exists()


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
