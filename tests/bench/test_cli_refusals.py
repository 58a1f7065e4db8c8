"""What the command line refuses before any work: options that nothing would read, options that
came out empty, outputs that cannot be written, a folder that another process trains in."""

from __future__ import annotations

import errno
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from filelock import FileLock
from PIL import Image

from bench.machine import Machine
from bench.run.image_sets import read_set
from sddpm.checkpoint import save_checkpoint
from sddpm.protocol import ImageShape
from sddpm.replacing import atomic_write
from sddpm.system import Config, build
from tests.support.calling import call, refused


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SDDPM_DATA_ROOT", raising=False)
    config = Config(time_steps=1, channels=8, multipliers=(1, 2), blocks=1)
    facts: dict[str, Any] = {
        "system": "sddpm", "config": asdict(config), "shape": {"channels": 1, "size": 8},
        "dataset": "digits", "hash": "0" * 64,
    }  # fmt: skip
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, build(config, ImageShape(1, 8)), facts)
    return folder


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be drawn, trained or searched."""

    def work(*_given: object, **_options: object) -> None:
        raise AssertionError("work was begun")

    for place in ("run.drawing.Drawer.draw", "run.stages.fit", "look.show.draw_everything",
                  "guide.run.run_guide", "convert.run.open_parent"):  # fmt: skip
        monkeypatch.setattr(f"bench.{place}", work)


# Options that nothing would read.


@pytest.mark.parametrize(
    ("option", "value"),
    [("--sampler", "nonsense:abc"), ("--threshold", 5), ("--time-steps", 99), ("--engine", "fast"),
     ("--num", 5000), ("--seed", 1), ("--batch", 3)],
)  # fmt: skip
def test_scoring_drawn_samples_takes_no_way_of_drawing(
    checkpoint: Path, tmp_path: Path, option: str, value: object
) -> None:
    np.save(tmp_path / "s.npy", np.zeros((12, 1, 8, 8), np.uint8))
    scored = call("evaluate", "--ckpt", checkpoint, "--samples", tmp_path / "s.npy", option, value)
    refused(scored, f"{option} {value}", "--samples")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--system", ""], ["--system", "empty"]),
        (["run", "--system="], ["--system", "empty"]),
        (["run", "--system", ","], ["--system", "expected names"]),
        (["run", "--out", ""], ["--out", "empty"]),
        (["run", "--checkpoint-seconds", "nan"], ["--checkpoint-seconds", "finite"]),
        (["run", "--checkpoint-seconds", "inf"], ["--checkpoint-seconds", "finite"]),
        (["run", "--worker-cpus", 2], ["--worker-cpus 2", "--workers"]),
        (["run", "--system", "vae", "--time-steps", 9], ["--time-steps 9", "spiking time"]),
        (["run", "--system", "vae", "--sampler", "ddim:3"], ["--sampler ddim:3", "denoises"]),
        (["train", "--system", "converted", "--time-steps", 7], ["--time-steps 7", "sample"]),
        (["train", "--system", "ann_twin", "--time-steps", 7], ["--time-steps 7", "ann_twin"]),
    ],
)
def test_options_without_effect_or_value(
    arguments: list[object], words: list[str], tmp_path: Path, idle: None
) -> None:
    command, *rest = arguments
    out = tmp_path / "out"
    refused(call(command, "--suite", "digits", "--out", out, *rest), *words)
    assert not out.exists()


def test_one_system_with_the_axis_is_enough(tmp_path: Path) -> None:
    done = call("run", "--suite", "digits", "--system", "vae,sddpm", "--time-steps", 9, "--dry-run",
                "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "sddpm-T9" in done.stdout


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (["--grid", "g.bmp"], ["--grid", "g.bmp", ".png, .jpg, .jpeg, .webp"]),
        (["--grid", "g"], ["--grid", ".png"]),
        (["--strip", "s.gif"], ["--strip", "s.gif", ".png"]),
        (["--gif", "g.png"], ["--gif", "g.png", ".gif, .webp"]),
        (["--out", "s.csv"], ["--out", "s.csv", ".npy, .npz"]),
        (["--grid", "g.png", "--strip", "./g.png"], ["--strip", "--grid too"]),
    ],
)
def test_the_ending_says_the_format(
    outputs: list[str], words: list[str], checkpoint: Path, tmp_path: Path, idle: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    refused(call("sample", "--ckpt", checkpoint, *outputs), *words)


def test_files_are_what_their_endings_say(checkpoint: Path, tmp_path: Path) -> None:
    files = {"--grid": "g.jpg", "--out": "s.npz", "--gif": "a.webp", "--strip": "t.webp"}
    where = [word for option, name in files.items() for word in (option, tmp_path / name)]
    done = call("sample", "--ckpt", checkpoint, "--num", 12, "--sampler", "ddim:2", "--device",
                "cpu", *where)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "g.jpg").format == "JPEG"
    assert Image.open(tmp_path / "t.webp").format == "WEBP"
    with Image.open(tmp_path / "a.webp") as animation:
        assert (animation.format, animation.n_frames) == ("WEBP", 3)
    drawn = np.load(tmp_path / "s.npz")["arr_0"]
    assert drawn.shape == (12, 8, 8, 3)
    assert np.array_equal(read_set(tmp_path / "s.npz", channels=1)[:, 0], drawn[..., 0])


def test_an_interrupt_promises_what_is_true(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.run.drawing.Drawer.draw", interrupted)
    monkeypatch.setattr("bench.guide.run.run_guide", interrupted)
    stopped = call("sample", "--ckpt", checkpoint, "--grid", tmp_path / "g.png", "--device", "cpu")
    assert stopped.exit_code == 130
    assert "Stopped; the same command starts anew." in stopped.stderr
    stopped = call("guide", "--ckpt", checkpoint, "--out", tmp_path / "out")
    assert "Stopped; the same command goes on from here." in stopped.stderr


def test_a_scheduler_s_variables_stop_no_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "study", "SLURM_PROCID": "2", "SLURM_LOCALID": "2",
        "SLURM_NODEID": "0", "SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "4",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    machine = Machine("cpu")
    assert (machine.world, machine.rank, machine.first) == (1, 0, True)


# What a run can know before it trains.


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_run_is_checked_before_it_trains(
    dry: list[str], tmp_path: Path, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def run(*more: object) -> Result:
        return call("run", "--suite", "digits", "--system", "sddpm", "--out", out, *more, *dry)

    refused(run("--sampler", "ddim:1001"), "ddim", "1001 steps", "1000 diffusion steps")
    refused(run("--sampler", "ddim_published:1000"), "ddim_published", "1 to 999 times")
    refused(run("--sampler", "ddpm_published:1"), "ddpm_published", "2 to 1000 times")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def unreachable(*_given: object, **_options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    line = refused(run("--extractor", "inception"), "--extractor inception", "no route to host")
    assert str(tmp_path / "torch") in line

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(9):
        Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(pictures / f"{number}.png")
    suite = tmp_path / "few.yaml"
    suite.write_text(f"extends: digits\nname: few\ntitle: Few\ndataset: 'folder:{pictures}'\n")
    refused(run("--suite", suite), "train images are too few references", "at least 10")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["guide", "--method", "gradient", "--values", "0.9,1.1"], ["--values 0.9,1.1"]),
        (["guide", "--method", "loss", "--confirm"], ["--confirm", "--method loss"]),
        (["convert", "--dataset", "nodata"], ["--dataset nodata", "--distill"]),
        (["convert", "--method", "ltb", "--percentile", 99], ["--percentile 99", "ltb"]),
        (["convert", "--percentile", "nan"], ["--percentile", "finite"]),
        (["convert", "--levels", 4], ["--levels 4", "qcfs"]),
        (["convert", "--finetune", "blocks"], ["--finetune blocks", "--finetune-steps"]),
        (["convert", "--sampler", "ddim:2"], ["--sampler ddim:2", "--evaluate"]),
    ],
)
def test_options_of_another_method(
    arguments: list[object], words: list[str], checkpoint: Path, tmp_path: Path, idle: None
) -> None:
    command, *rest = arguments
    name = "--ann" if command == "convert" else "--ckpt"
    refused(call(command, name, checkpoint, "--out", tmp_path / "out", *rest), *words)


# Outputs that cannot be written.


def test_outputs_are_tried_before_the_work(checkpoint: Path, tmp_path: Path, idle: None) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    file.touch()
    endings = {"--grid": ".png", "--out": ".npy", "--gif": ".gif", "--strip": ".png"}
    for option, ending in endings.items():
        taken, below = folder / f"taken{ending}", file / "new" / f"x{ending}"
        taken.mkdir(parents=True, exist_ok=True)
        for path, words in ((taken, "is a folder"), (below, "cannot be written")):
            refused(call("sample", "--ckpt", checkpoint, option, path), f"{option} {path}", words)
    for command, name in (("show", "--ckpt"), ("guide", "--ckpt"), ("convert", "--ann")):
        for path in (file, file / "new"):
            refused(call(command, name, checkpoint, "--out", path), f"--out {path}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "file", "folder"]


def test_a_tried_output_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "s.npy"
    done = call("sample", "--ckpt", checkpoint, "--out", out, "--sampler", "absent:2")
    refused(done, "'absent'")
    assert not out.parent.exists()
    drawn = call("sample", "--ckpt", checkpoint, "--out", out, "--sampler", "ddim:1", "--num", 2)
    assert drawn.exit_code == 0, drawn.output
    assert [path.name for path in out.parent.iterdir()] == ["s.npy"]


def test_a_failed_write_names_what_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(IsADirectoryError) as caught, atomic_write(target) as temporary:
        temporary.touch()
    assert caught.value.filename == str(target)
    assert caught.value.filename2 is None
    other = FileNotFoundError(errno.ENOENT, "No such file or directory", "elsewhere")
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_write(tmp_path / "x"):
        raise other


# A folder that is taken.


def test_two_trainings_do_not_work_in_one_folder(tmp_path: Path, idle: None) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"):
        taken = call(
            "train", "--suite", "digits", "--preset", "smoke", "--system", "sddpm", "--out", out
        )
        refused(taken, f"--out {out}", "at work there")
    assert {path.name for path in out.iterdir()} <= {".lock"}
