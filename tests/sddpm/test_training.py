"""Training: resume after SIGKILL, averaged weights, schedules, checkpoints that are not ours."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baselines import ann_twin, pixel_gaussian
from baselines.fsddim import system as fsddim
from sddpm import checkpoint, precision
from sddpm import system as sddpm_system
from sddpm.checkpoint import load_generator, read_config, save_checkpoint
from sddpm.denoising import Denoiser, DenoiserTraining, learning_rate
from sddpm.protocol import ImageShape
from sddpm.replacing import atomic_directory
from sddpm.training import StepSampler, TrainConfig, fit
from tests.support.images import GeneratedImages
from tests.support.systems import TINY, tiny_system

SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from tests.support.images import GeneratedImages
from tests.support.systems import tiny_system
from sddpm.training import TrainConfig, fit

class Slow(GeneratedImages):
    def __getitems__(self, indices):
        time.sleep(0.05)
        return super().__getitems__(indices)

config = TrainConfig(steps=40, batch_size=8, horizontal_flip=True, checkpoint_seconds=0.2)
fit(tiny_system(), Slow(), config=config, folder=sys.argv[1], description={{}}, progress=False)
"""


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """A real SIGKILL after the first checkpoint; weights, averages and optimiser are equal."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[2])))
    command = [sys.executable, str(script)]

    killed = tmp_path / "killed"
    process = subprocess.Popen([*command, str(killed)])
    deadline = time.monotonic() + 90
    while not list(killed.glob("steps/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = sorted(p.name for p in killed.glob("steps/step-*"))
    assert steps
    assert not (killed / "checkpoint").exists()
    assert 0 < int(steps[-1].removeprefix("step-")) < 40

    subprocess.run([*command, str(killed)], check=True)
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    for name in (checkpoint.MODEL, checkpoint.TRAINER):
        resumed = load_file(killed / "checkpoint" / name)
        whole = load_file(tmp_path / "whole" / "checkpoint" / name)
        assert resumed.keys() == whole.keys()
        for key, value in whole.items():
            assert torch.equal(resumed[key], value), key
    assert not (killed / "steps").exists()


def test_a_finished_run_is_not_trained_again(tmp_path: Path, blobs: GeneratedImages) -> None:
    config = TrainConfig(steps=3, batch_size=4)
    first = fit(
        tiny_system(), blobs, config=config, folder=tmp_path, description={}, progress=False
    )

    class NoImages(GeneratedImages):
        def __getitems__(self, indices: list[int]) -> torch.Tensor:
            raise AssertionError("read an image")

    again = fit(
        tiny_system(), NoImages(), config=config, folder=tmp_path, description={}, progress=False
    )
    assert again == first
    assert again.train_images == 12


@pytest.mark.parametrize(
    ("config", "description", "words"),
    [
        ({"steps": 4}, {}, "its steps is 3, not 4"),
        ({"seed": 1}, {}, "its seed is 0, not 1"),
        ({}, {"config": {"channels": 16}}, "its channels is 8, not 16"),
        ({}, {"system": "vae"}, "its system is 'sddpm', not 'vae'"),
    ],
)
def test_a_folder_of_another_run_is_not_taken_for_this_one(
    config: dict[str, int],
    description: dict[str, Any],
    words: str,
    tmp_path: Path,
    blobs: GeneratedImages,
) -> None:
    own = {"system": "sddpm", "config": {"channels": 8}}

    def train(config: dict[str, int], description: dict[str, Any]) -> None:
        settings = TrainConfig(**{"steps": 3, "batch_size": 4, **config})
        fit(tiny_system(), blobs, config=settings, folder=tmp_path, description=description,
            progress=False)  # fmt: skip

    train({}, own)
    # A field that one side does not state is one of another version.
    train({}, {**own, "config": {"channels": 8, "event_weight": 0.0}})
    with pytest.raises(ValueError, match=f"is of another training: {words}"):
        train(config, {**own, **description})


def test_training_lowers_the_loss(tmp_path: Path, blobs: GeneratedImages) -> None:
    config = TrainConfig(steps=150, batch_size=16, log_every=10)
    report = fit(tiny_system(), blobs, config=config, folder=tmp_path, description={})
    modes = {file.stat().st_mode for file in (tmp_path / "checkpoint").iterdir()}
    assert len(modes) == 1, "whoever may read the configuration may read the weights"
    assert report.losses["loss"] < 0.5  # predicting no noise at all costs 1
    assert list((tmp_path / "log").glob("events.out.tfevents.*"))


def test_bf16_trains_with_nearly_the_same_loss(tmp_path: Path, blobs: GeneratedImages) -> None:
    losses = {}
    for name in ("32-true", "bf16-mixed"):
        config = TrainConfig(steps=60, batch_size=16, precision=name, log_every=5)
        folder = tmp_path / name
        report = fit(tiny_system(), blobs, config=config, folder=folder, description={})
        losses[name] = report.losses["loss"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.1)


def test_averaged_weights_carry_the_batchnorm_statistics(
    tmp_path: Path, blobs: GeneratedImages
) -> None:
    """After two updates the average is w1 + (1 - d)(w2 - w1), in parameters and in buffers."""
    system = tiny_system()
    snapshots = []
    update = system.averaged.update_parameters

    def spy(net: torch.nn.Module) -> None:
        update(net)
        snapshots.append({k: v.clone() for k, v in net.state_dict().items()})

    system.averaged.update_parameters = spy
    fit(system, blobs, config=TrainConfig(2, 4), folder=tmp_path, description={}, progress=False)
    weight = 1 - min(TINY.ema_decay, 2 / 11)
    average = system.generator.state_dict()
    for key in ("stem.bn1.running_var", "stem.bn1.weight", "head.conv.weight"):
        first, second = (s[key] for s in snapshots)
        assert not torch.equal(first, second)
        torch.testing.assert_close(average[key], first + weight * (second - first))
    assert int(average["stem.bn1.num_batches_tracked"]) == 2


def test_learning_rate_by_hand() -> None:
    linear = DenoiserTraining(learning_rate=1.0, warmup_steps=10, decay="linear")
    assert learning_rate(linear, 0, 100) == pytest.approx(0.1)
    assert learning_rate(linear, 9, 100) == pytest.approx(1.0)
    assert learning_rate(linear, 55, 100) == pytest.approx(0.5)
    assert learning_rate(linear, 99, 100) == pytest.approx(1 / 90)
    assert learning_rate(DenoiserTraining(learning_rate=2.0), 99, 100) == 2.0


def test_every_image_is_seen_once_an_epoch_and_processes_share_a_batch() -> None:
    config = TrainConfig(steps=7, batch_size=6, seed=3)
    whole = list(StepSampler(21, config, 0, 0, 1))
    flat = [index for batch in whole for index in batch]
    assert sorted(flat[:21]) == list(range(21))
    assert sorted(flat[21:]) == list(range(21))
    assert flat[:21] != flat[21:]
    assert list(StepSampler(21, config, 4, 0, 1)) == whole[4:]
    halves = [list(StepSampler(21, config, 0, rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_batch_that_processes_cannot_share() -> None:
    with pytest.raises(ValueError, match="batch_size=7"):
        StepSampler(10, TrainConfig(1, 7), 0, 0, 2)


@pytest.mark.parametrize("flip", [False, True])
def test_half_of_the_pictures_are_mirrored_if_asked(flip: bool, tmp_path: Path) -> None:
    """One picture whose left side is white, seen a few hundred times."""
    seen: list[torch.Tensor] = []

    class Watching(Denoiser):
        def train_step(self, images, step):
            seen.append(images.clone())
            return super().train_step(images, step)

    class Halves(GeneratedImages):
        def __getitems__(self, indices: list[int]) -> torch.Tensor:
            picture = torch.zeros(len(indices), 1, 8, 8, dtype=torch.uint8)
            picture[..., :4] = 255
            return picture

    system = tiny_system()
    watching = Watching(system.net, system.shape, TINY)
    config = TrainConfig(steps=20, batch_size=16, horizontal_flip=flip)
    fit(watching, Halves(), config=config, folder=tmp_path, description={}, progress=False)
    pictures = torch.cat(seen)
    left = (pictures[..., :4] == 1).flatten(1).all(1) & (pictures[..., 4:] == -1).flatten(1).all(1)
    right = (pictures[..., 4:] == 1).flatten(1).all(1) & (pictures[..., :4] == -1).flatten(1).all(1)
    assert (left | right).all()
    # 320 fair draws: five standard deviations are 45.
    assert abs(int(right.sum()) - 160) < 45 if flip else not right.any()


def test_a_rate_too_high_is_reported_not_saved(tmp_path: Path, blobs: GeneratedImages) -> None:
    system = tiny_system()
    with torch.no_grad():
        system.net.head.conv.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN at step 1"):
        fit(system, blobs, config=TrainConfig(1, 4), folder=tmp_path, description={})
    assert not (tmp_path / "checkpoint").exists()


def test_save_and_load_give_the_same_samples(tmp_path: Path, blobs: GeneratedImages) -> None:
    system = tiny_system()
    report = fit(system, blobs, config=TrainConfig(5, 8), folder=tmp_path, description={"a": 1})
    fresh = sddpm_system.build(TINY, ImageShape(1, 8))
    load_generator(fresh, report.checkpoint)
    options = {"sampler": "ddim", "steps": 3}
    assert torch.equal(fresh.sample([1, 2], options), system.sample([1, 2], options))
    assert read_config(report.checkpoint)["a"] == 1


@pytest.mark.parametrize("damage", ["truncated", "other width", "no weights", "json", "format"])
def test_bad_checkpoints_are_named(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    save_checkpoint(folder, tiny_system(), {})
    other = tiny_system()
    model, config = folder / checkpoint.MODEL, folder / checkpoint.CONFIG
    if damage == "truncated":
        model.write_bytes(model.read_bytes()[:-100])
    elif damage == "other width":
        wide = sddpm_system.Config(time_steps=2, channels=8, multipliers=(1,), blocks=1)
        other = sddpm_system.build(wide, ImageShape(1, 8))
    elif damage == "no weights":
        model.unlink()
    elif damage == "json":
        config.write_text("{")
    else:
        config.write_text(json.dumps({"format": 99}))

    def load() -> None:
        read_config(folder)
        load_generator(other, folder)

    with pytest.raises((ValueError, FileNotFoundError), match="ckpt") as caught:
        load()
    assert "\n" not in str(caught.value).strip()


def test_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ckpt"
    save_checkpoint(folder, tiny_system(), {"generation": 1})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="no space left on the disk"):
        save_checkpoint(folder, tiny_system(), {"generation": 2})
    monkeypatch.undo()
    assert read_config(folder)["generation"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt"]


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    def block() -> None:
        with atomic_directory(tmp_path / "new") as folder:
            (folder / "half").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        block()
    assert list(tmp_path.iterdir()) == []


def test_weights_only_checkpoints_do_not_resume(tmp_path: Path, blobs: GeneratedImages) -> None:
    save_checkpoint(tmp_path / "steps" / "step-000000002", tiny_system(), {})
    with pytest.raises(ValueError, match="weights only"):
        fit(tiny_system(), blobs, config=TrainConfig(3, 4), folder=tmp_path, description={})


def test_pixel_gaussian_equals_the_mean_and_deviation_of_what_it_saw(
    tmp_path: Path, blobs: GeneratedImages
) -> None:
    shape = blobs.shape
    system = pixel_gaussian.build(pixel_gaussian.Config(), shape)
    fit(system, blobs, config=TrainConfig(4, 16), folder=tmp_path, description={}, progress=False)
    images = blobs.images.double() / 127.5 - 1
    torch.testing.assert_close(system.statistics.mean, images.mean(0), atol=1e-6, rtol=0)
    drawn = system.sample(range(4000)).double()
    torch.testing.assert_close(drawn.mean(0), images.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), images.std(0, correction=0), atol=0.05, rtol=0)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ValueError, match="ema_decay=1"):
        sddpm_system.build(sddpm_system.Config(channels=4, ema_decay=1.0), ImageShape(1, 8))
    with pytest.raises(ValueError, match="multiple of 8"):
        sddpm_system.build(sddpm_system.Config(channels=4), ImageShape(1, 12))


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_automatic_precision_follows_the_processor(
    native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "bfloat16_runs", lambda: native)
    assert precision.fast_precision() == expected


@pytest.mark.parametrize("module", [sddpm_system, ann_twin, fsddim])
@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("gradient_clip", 0.0, "a number above 0"),
        ("gradient_clip", float("nan"), "a number above 0"),
        ("ema_decay", 1.0, r"a number in \[0, 1\)"),
        ("decay", "cosine", "'constant' or 'linear'"),
    ],
)
def test_an_option_of_the_training_out_of_its_range_is_refused(
    module: Any, option: str, value: Any, expected: str
) -> None:
    config = replace(module.Config(**module.PRESETS["smoke"]), **{option: value})
    with pytest.raises(ValueError, match=f"{option}=.*: expected {expected}"):
        module.build(config, ImageShape(1, 8))
