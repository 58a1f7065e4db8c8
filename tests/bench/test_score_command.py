"""Pictures without a checkpoint, and networks of another project, on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from baselines.ann_ddpm import from_diffusers
from bench.data.datasets import load
from sddpm.protocol import to_uint8
from sddpm.rng import image_seeds
from tests.support.calling import call, refused

pytestmark = pytest.mark.usefixtures("own_cache")

HOW = ["--extractor", "embedded", "--device", "cpu", "--references", 40]


def figures(output: str) -> dict[str, str]:
    """The last word of each line, by the first."""
    return {words[0]: words[-1] for line in output.splitlines() if (words := line.split())}


def test_the_references_themselves_are_at_no_distance(tmp_path: Path) -> None:
    digits = load("digits", "train", limit=40).__getitems__(range(40)).numpy()
    folder = tmp_path / "mine"
    for number, picture in enumerate(digits):
        below = folder / f"class {number % 3}"
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[0]).save(below / f"{number}.png")
    (folder / "notes.txt").write_text("about them")
    done = call("score", folder, "--dataset", "digits", *HOW)
    assert done.exit_code == 0, done.output
    assert "40 pictures used, 1 skipped" in done.stderr
    assert "notes.txt" in done.stderr
    shown = figures(done.stdout)
    assert shown["images"] == "40"
    assert abs(float(shown["fd_efflite0"])) < 0.1

    # Others, here as a file of samples, are further away.
    np.savez(tmp_path / "dark.npz", images=digits // 4)
    darker = call("score", tmp_path / "dark.npz", "--dataset", "digits", *HOW)
    assert float(figures(darker.stdout)["fd_efflite0"]) > 1


def test_what_cannot_be_scored_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    refused(call("score", tmp_path, "--dataset", "digits", *HOW), str(tmp_path), "no pictures")
    refused(call("score", tmp_path / "b", "--dataset", "digits", *HOW), "no such folder or file")
    refused(call("score", tmp_path, "--dataset", "cifar11", *HOW), "cifar11", "cifar10")


def test_a_diffusers_folder_is_sampled_scored_and_metered(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "ddpm"
    UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8),
        layers_per_block=1, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"), norm_num_groups=4, attention_head_dim=4,
    ).save_pretrained(folder)  # fmt: skip
    how = ["--ckpt", folder, "--sampler", "ddim:2", "--device", "cpu"]
    done = call("sample", *how, "--num", 3, "--out", tmp_path / "s.npy")
    assert done.exit_code == 0, done.output
    sampling = {"sampler": "ddim", "steps": 2, "eta": 0.0}
    wanted = to_uint8(from_diffusers(folder).eval().sample(image_seeds(0, 0, 3), sampling))
    drawn = np.load(tmp_path / "s.npy").astype(int)
    assert np.abs(drawn - wanted.numpy()).max() <= 1
    assert "accelerate" not in capfd.readouterr().err + done.stderr

    metered = call("energy", *how, "--num", 1)
    assert metered.exit_code == 0, metered.output
    assert "GMAC per evaluation" in metered.stdout
    references = ["--num", 10, "--extractor", "embedded", "--references", 40]
    scored = call("evaluate", *how, *references, "--dataset", "digits")
    assert scored.exit_code == 0, scored.output
    assert "40 train images of digits" in scored.stdout
    refused(call("evaluate", *how, *references), str(folder), "--dataset NAME")
    refused(call("guide", "--ckpt", folder, "--out", tmp_path / "g"), "names no data set")
