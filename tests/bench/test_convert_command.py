"""The ``convert`` command: tables, plots, resumption, quality, clips, distillation, refusals."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from baselines import ann_twin
from baselines.ann_ddpm import from_diffusers
from bench.checkpoints import Checkpoint
from bench.convert.tables import breakeven, headings, rows, sentence
from bench.data.datasets import load
from bench.machine import Machine
from bench.records.conversions import read_curve
from bench.records.record import read_records
from conversion.command import Converter, prediction_error
from sddpm.checkpoint import save_checkpoint
from sddpm.precision import fast_precision
from sddpm.protocol import ImageShape, to_float
from tests.support.calling import call
from tests.support.records import conversion

SUITE = """\
name: tiny
title: Few steps of a small network
dataset: digits
image_size: 8
systems: [ann_twin, converted, quantised_twin]
time_steps: [2, 4]
sampling:
  - {sampler: ddim, steps: 2, eta: 1}
presets:
  smoke:
    budget: {train_steps: 6, batch_size: 8}
    samples: 12
    references: 20
    energy_images: 1
    config:
      ann_twin: {channels: 8, multipliers: [1, 2], blocks: 1}
      converted: {channels: 8, multipliers: [1, 2], blocks: 1}
      quantised_twin: {channels: 8, multipliers: [1, 2], blocks: 1, bits: 2}
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SDDPM_DATA_ROOT", raising=False)
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def ann(suite: Path, tmp_path: Path) -> Path:
    """Checkpoint of a twin with BatchNorm statistics of its own inputs."""
    torch.manual_seed(0)
    config = ann_twin.Config(channels=8, multipliers=(1, 2), blocks=1, ema_decay=0.0)
    system = ann_twin.build(config, ImageShape(1, 8))
    torch.nn.init.xavier_uniform_(system.net.head.conv.weight)
    system.train()
    with torch.no_grad():
        for _ in range(20):
            system.net(torch.randn(16, 1, 8, 8), torch.randint(1000, (16,)))
    facts = {
        "system": "ann_twin", "config": asdict(config), "shape": {"channels": 1, "size": 8},
        "dataset": "digits", "hash": "0" * 64,
    }  # fmt: skip
    save_checkpoint(tmp_path / "twin", system.eval(), facts)
    return tmp_path / "twin"


SMALL = ["--calibration-images", 8, "--held-out", 4, "--device", "cpu"]


def test_the_command_makes_checkpoints_that_others_take(ann: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call("convert", "--ann", ann, "--time-steps", "2,4", *SMALL, "--out", out)
    assert done.exit_code == 0, done.output
    assert "clipping" in done.output, "the table of layers"
    rows = list(csv.DictReader((out / "conversion.csv").open()))
    assert [row["time_steps"] for row in rows] == ["-", "2", "4"]
    assert float(rows[2]["relative_error"]) > 0
    assert (out / "conversion.md").read_text().startswith("# rate-percentile")
    layers = list(csv.DictReader((out / "layers.csv").open()))
    assert {row["time_steps"] for row in layers} == {"2", "4"}
    for picture in ("conversion.png", "layers-T2.png", "layers-T4.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG"), picture

    few = ["--num", 2, "--sampler", "ddim:2:1", "--device", "cpu"]
    done = call("sample", "--ckpt", out / "T4", "--grid", tmp_path / "grid.png", *few)
    assert done.exit_code == 0, done.output
    done = call("energy", "--ckpt", out / "T4", "--time-steps", 3, *few)
    assert done.exit_code == 0, done.output
    assert "firing rate" in done.output

    for bad, words in (
        (["--ann", ann, "--method", "rate-max", "--out", out], "method='rate-percentile'"),
        (["--ann", ann, "--out", tmp_path], "give a new folder"),
        (["--ann", ann, "--schedule", "4", "--out", tmp_path / "x"], "8/16/32"),
        (
            ["--ann", ann, "--evaluate", "--sampler", "analytic_ddim:2", "--out", tmp_path / "x"],
            "anew for every T",
        ),
        (["--ann", out / "T4", "--out", tmp_path / "x"], "spiking network already"),
        (["--ann", ann, "--time-steps", 0, "--out", tmp_path / "x"], "at least 1"),
        (["--ann", ann, "--calibration-images", 0, "--out", tmp_path / "x"], "x>=1"),
        (["--ann", ann, "--method", "fast-snn", *SMALL, "--out", tmp_path / "x"], "rate-max"),
        (["--ann", tmp_path / "none", "--out", tmp_path / "x"], "not a checkpoint folder"),
    ):
        done = call("convert", *bad)
        assert done.exit_code == 2, done.output
        assert words in done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "x").exists()


def test_what_is_done_is_not_redone(
    ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    same = ["convert", "--ann", ann, *SMALL, "--method", "ltb", "--out", out, "--time-steps"]
    assert call(*same, "2").exit_code == 0
    weights = out / "T2" / "model.safetensors"
    before, made = weights.stat().st_mtime_ns, []
    at = Converter.at

    def counted(self: Converter, steps: int, **options: object) -> object:
        made.append(steps)
        return at(self, steps, **options)

    monkeypatch.setattr(Converter, "at", counted)
    done = call(*same, "2,3", "--schedule", "3/1")
    assert done.exit_code == 0, done.output
    assert made == [3, (3, 1)]
    assert weights.stat().st_mtime_ns == before
    rows = list(csv.DictReader((out / "conversion.csv").open()))
    assert [row["time_steps"] for row in rows] == ["-", "2", "3", "2"]
    assert [row["schedule"] for row in rows] == ["-", "-", "-", "3/1"]
    done = call("energy", "--ckpt", out / "T3-1", "--num", 1, "--sampler", "ddim:2:1")
    assert done.exit_code == 0, done.output
    done = call("energy", "--ckpt", out / "T3-1", "--num", 1, "--time-steps", 4)
    assert done.exit_code == 2
    assert "schedule" in done.output


def test_quality_stands_beside_the_error_and_is_kept(
    ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    same = ["convert", "--ann", ann, *SMALL, "--time-steps", "2", "--evaluate", "--samples", 10,
            "--sampler", "ddim:2:1", "--references", 12, "--energy-images", 1, "--extractor",
            "embedded", "--out", out]  # fmt: skip
    done = call(*same)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((out / "conversion.csv").open()))
    assert len(rows) == 2
    assert all(float(row["fd_efflite0"]) > 0 for row in rows)
    parent, child = (float(row["strict_mj_per_image"]) for row in rows)
    assert parent == pytest.approx(2 * float(rows[0]["strict_mj"])), "two evaluations an image"
    assert child != parent
    assert "fid" not in rows[0], "the embedded extractor's figures have their own names"
    assert "FD (efflite0)" in (out / "conversion.md").read_text()

    def again(*_given: object, **_options: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr("sddpm.protocol.to_uint8", again)
    monkeypatch.setattr("bench.run.stages.score_images", again)
    assert call(*same).exit_code == 0
    assert list(csv.DictReader((out / "conversion.csv").open())) == rows


def test_further_time_steps_keep_the_rows_that_are_there(
    ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("bench.convert.folder.plot_layers", lambda *_given: None)
    same = ["convert", "--ann", ann, *SMALL, "--out", out, "--time-steps"]
    scored = ["--evaluate", "--sampler", "ddim:1:1", "--references", 12, "--energy-images", 1,
              "--extractor", "embedded", "--samples"]  # fmt: skip

    def table() -> list[dict[str, str]]:
        return list(csv.DictReader((out / "conversion.csv").open()))

    def known(column: str = "fd_efflite0") -> list[bool]:
        return [row.get(column, "-") != "-" for row in table()]

    assert call(*same, "1", "--schedule", "2/1", *scored, 10).exit_code == 0
    before = table()
    assert [row["time_steps"] for row in before] == ["-", "1", "2"]

    done = call(*same, "3")
    assert done.exit_code == 0, done.output
    assert [row["time_steps"] for row in table()] == ["-", "1", "3", "2"]
    assert [row for row in table() if row["time_steps"] != "3"] == before
    assert known() == [True, True, False, True]
    report = (out / "conversion.md").read_text()
    assert "From earlier commands: T=1, 2/1." in report
    assert "Quality: 10 samples of each that has a figure" in report
    assert "against 12 training images" in report
    assert {row["time_steps"] for row in csv.DictReader((out / "layers.csv").open())} == {
        "1",
        "3",
        "2/1",
    }
    widths = {line.count("|") for line in report.split("##")[0].splitlines() if line[:2] == "| "}
    assert len(widths) == 1, "a row without quality has as many columns"

    # Other conditions are not mixed with those of before.
    assert call(*same, "3", *scored, 11).exit_code == 0
    assert known() == [True, False, True, False]
    records = read_records(out / "records.jsonl")
    assert [record.samples for record in records] == [11, 10, 11, 10]

    # The first conditions again: what was drawn at them is there, and is not drawn again.
    assert call(*same, "1", *scored, 10).exit_code == 0
    assert known() == [True, True, False, True]
    assert table()[1] == before[1]


def test_a_network_is_a_record(ann: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call("convert", "--ann", ann, *SMALL, "--method", "ltb", "--time-steps", 2, "--schedule",
                "1/3", "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    parent, constant, scheduled = read_records(out / "records.jsonl")
    assert [r.system for r in (parent, constant, scheduled)] == ["ann_twin", *["converted"] * 2]
    assert [r.time_steps for r in (parent, constant, scheduled)] == [None, 2, 2]
    assert scheduled.config["schedule"] == [1, 3]
    assert constant.config["method"] == "ltb"
    about = json.loads((out / "T2" / "config.json").read_text())
    assert constant.training_hash == about["hash"]
    assert parent.training_hash == about["parent_hash"] == "0" * 64
    assert constant.conversion is not None
    assert constant.conversion.relative_error == about["conversion"]["relative_error"]
    # Nothing was drawn.
    assert (constant.samples, constant.metrics, constant.sampler) == (0, {}, None)

    # What is not written down is made again: the checkpoint alone says no errors of layers.
    (out / "layers.csv").unlink()
    assert call("convert", "--ann", ann, *SMALL, "--method", "ltb", "--time-steps", 2, "--out",
                out).exit_code == 0  # fmt: skip
    assert {row["time_steps"] for row in csv.DictReader((out / "layers.csv").open())} == {"2"}


def test_clips_of_a_relu_twin_are_trained_first(
    ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    how = ["convert", "--ann", ann, *SMALL, "--method", "qcfs", "--signed", "--clip-steps", 2,
           "--levels", 4, "--finetune", "blocks", "--finetune-steps", 1, "--out", out]  # fmt: skip
    done = call(*how, "--time-steps", 4)
    assert done.exit_code == 0, done.output
    # A machine of another precision goes on with the clips that are there.
    other = {"32-true": "bf16-mixed", "bf16-mixed": "32-true"}[fast_precision()]
    monkeypatch.setattr("bench.convert.parents.fast_precision", lambda: other)
    done = call(*how, "--time-steps", 4)
    assert done.exit_code == 0, done.output
    report = (out / "conversion.md").read_text()
    assert "2 steps of 32 images, for 4 spiking time steps" in report
    assert "1 steps of fine-tuning of each block" in report
    # What is compared with is the network that was given, not the one with clips.
    rows = list(csv.DictReader((out / "conversion.csv").open()))
    plain = tmp_path / "plain"
    assert call("convert", "--ann", ann, *SMALL, "--time-steps", 1, "--out", plain).exit_code == 0
    first = next(csv.DictReader((plain / "conversion.csv").open()))
    assert float(rows[0]["denoising_loss"]) == pytest.approx(float(first["denoising_loss"]))
    done = call("sample", "--ckpt", out / "clipped" / "checkpoint", "--num", 1, "--sampler",
                "ddim:2", "--grid", tmp_path / "grid.png")  # fmt: skip
    assert done.exit_code == 0, done.output


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A tiny DDPM in diffusers' format, with GroupNorm, SiLU and attention."""
    torch.manual_seed(0)
    folder = tmp_path / "diffusers"
    UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8),
        layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=4, attention_head_dim=4,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_another_network_is_distilled_into_a_twin(
    suite: Path, foreign: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = call("convert", "--ann", foreign, "--out", out)
    assert done.exit_code == 2
    for word in ("GroupNorm", "SiLU", "attention", "--distill"):
        assert word in done.output
    given = ["convert", "--ann", foreign, "--distill", "smoke", "--distill-steps", 4, *SMALL]
    for more, words in (
        ([], "--dataset"),
        (["--dataset", "cifar11"], "cifar10"),
        (["--dataset", "digits", "--distill", "big"], "choose one of smoke"),
    ):
        done = call(*given, *more, "--out", out)
        assert done.exit_code == 2, done.output
        assert words in done.output
    assert not out.exists()

    done = call(*given, "--dataset", "digits", "--time-steps", 16, "--out", out)
    assert done.exit_code == 0, done.output
    assert "ReLU twin of diffusers, trained for 4 steps" in (out / "conversion.md").read_text()
    twin = Checkpoint.read(out / "twin" / "checkpoint").load(Machine("cpu"))
    teacher = from_diffusers(foreign).eval()
    images = to_float(load("digits", "test", image_size=8, limit=4).__getitems__(range(4)))
    said = f"differ by {100 * prediction_error(teacher, twin, images, seed=0):.1f} % on 4"
    assert said in (out / "conversion.md").read_text()

    scheduler = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}
    (foreign / "scheduler_config.json").write_text(json.dumps(scheduler))
    done = call(*given, "--dataset", "digits", "--out", tmp_path / "other")
    assert done.exit_code == 2
    assert "squaredcos_cap_v2" in done.output


def test_break_even_by_hand() -> None:
    def row(steps: int | None, mj: float) -> tuple[float | None, ...]:
        return steps, 0.1, 0.5, 1.0, 0.2, mj, 2 * mj

    networks = [row(None, 4.0), row(2, 1.0), row(8, 4.0), row(16, 9.0), row(4, 99.0)]
    curve = read_curve(conversion(networks, schedules={4: (2, 6)}), "")
    assert breakeven(curve, "published") == (8, 16), "a schedule is no T"
    assert breakeven(read_curve(conversion(networks[:2]), ""), "strict") == (2, None)
    assert "at T=16 (not yet at T=8) as published" in sentence(curve)
    assert rows(curve)[-1][0] == "2/6"
    scored = read_curve(conversion(networks[:2], (1.5, 2.5)), "")
    assert headings(scored)[7:9] == ["FD (efflite0) ↓", "KID (efflite0) ↓"]
    # The stored record's energies of an image: 0.0382 and 0.0556 mJ.
    assert [line[7:] for line in rows(scored)] == [
        ["1.50", "0.0150", "0.0382", "0.05563"],
        ["2.50", "0.0250", "0.0382", "0.05563"],
    ]
    # The parent was scored by a version that had one metric fewer.
    parent, child = conversion(networks[:2], (1.5, 2.5))
    newer = child.model_copy(update={"metrics": {**child.metrics, "contrast": 1.25}})
    mixed = read_curve([parent, newer], "")
    assert headings(mixed)[7:10] == ["FD (efflite0) ↓", "KID (efflite0) ↓", "Contrast → 1"]
    assert [line[9] for line in rows(mixed)] == ["-", "1.25"]


def test_fast_snn_from_a_trained_quantised_twin(suite: Path, tmp_path: Path) -> None:
    home = tmp_path / "quantised"
    done = call(
        "train", "--suite", suite, "--preset", "smoke", "--system", "quantised_twin", "--out", home
    )
    assert done.exit_code == 0, done.output
    done = call("convert", "--ann", home / "checkpoint", "--method", "fast-snn", "--signed",
                "--time-steps", 3, "--calibration-images", 8, "--held-out", 4,
                "--finetune-steps", 1, "--device", "cpu", "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "out" / "layers.csv").open()))
    first = next(row for row in rows if row["layer"] == "stem.act")
    assert float(first["threshold"]) != 1, "the clips start at the parent's activations"


def test_a_suite_calibrates_once_for_every_time_step(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = call("run", "--suite", suite, "--preset", "smoke", "--out", out, "--system",
                "converted", "--device", "cpu", "--extractor", "embedded")  # fmt: skip
    assert done.exit_code == 0, done.output
    trainings = sorted(path.name.split("-")[0] for path in (out / "trainings").iterdir())
    assert trainings == ["ann_twin", "converted"]
