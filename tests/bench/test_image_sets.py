"""Images in files for other tools: ADM's arrays, folders of PNG, and exported references."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torch_fidelity.datasets import ImagesPathDataset
from torch_fidelity.utils import glob_samples_paths

from bench.data.datasets import load
from bench.run.image_sets import read_set, write_set
from tests.support.calling import call, call_run, refused

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 10), np.uint8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SDDPM_DATA_ROOT", raising=False)


def test_a_npz_file_is_read_as_adm_s_evaluator_reads_it(tmp_path: Path) -> None:
    """guided-diffusion's ``open_npz_array(path, "arr_0")`` gives batches of [n, H, W, 3]."""
    write_set(COLOURS, tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as archive:
        assert archive.files == ["arr_0"]
        found = archive["arr_0"]
    assert found.dtype == np.uint8
    assert found.shape == (12, 8, 10, 3)
    assert found[3, 1, 2].tolist() == COLOURS[3, :, 1, 2].tolist()
    assert np.array_equal(read_set(tmp_path / "s.npz"), COLOURS)


def test_grey_images_have_three_channels_there_and_one_again_when_compared(tmp_path: Path) -> None:
    grey = COLOURS[:, :1]
    write_set(grey, tmp_path / "s.npz")
    assert np.load(tmp_path / "s.npz")["arr_0"].shape == (12, 8, 10, 3)
    assert np.array_equal(read_set(tmp_path / "s.npz", channels=1), grey)
    assert read_set(tmp_path / "s.npz", channels=3).shape == (12, 3, 8, 10)
    write_set(COLOURS, tmp_path / "c.npz")
    assert read_set(tmp_path / "c.npz", channels=1).shape == (12, 3, 8, 10)


@pytest.mark.parametrize(
    ("arrays", "shape"),
    [
        ({"arr_0": COLOURS}, COLOURS.shape),  # numpy's own name, channels first
        ({"images": COLOURS}, COLOURS.shape),
        ({"arr_0": COLOURS.transpose(0, 2, 3, 1), "labels": np.zeros(12)}, COLOURS.shape),
    ],
)
def test_arrays_of_other_tools_are_read(
    arrays: dict[str, np.ndarray], shape: tuple[int, ...], tmp_path: Path
) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    assert np.array_equal(read_set(tmp_path / "s.npz"), COLOURS)


@pytest.mark.parametrize("images", [COLOURS, COLOURS[:, :1]], ids=["colours", "grey"])
def test_a_folder_is_read_by_torch_fidelity_in_the_same_order(
    images: np.ndarray, tmp_path: Path
) -> None:
    write_set(images, tmp_path / "pictures")
    paths = glob_samples_paths(str(tmp_path / "pictures"), False, "png", verbose=False)
    assert [Path(path).name for path in paths][:2] == ["00000.png", "00001.png"]
    read = [ImagesPathDataset(paths)[number].numpy() for number in range(12)]
    assert np.array_equal(np.stack(read), np.broadcast_to(images, COLOURS.shape))
    write_set(images[:3], tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 3, "pictures of the set before stay"


def test_sampled_pictures_are_those_of_the_array(tmp_path: Path) -> None:
    how = ["sample", "--ckpt", "fashion-mnist", "--num", 3, "--sampler", "ddim:2", "--device",
           "cpu", "--out"]  # fmt: skip
    for name in ("s.npy", "pictures"):
        done = call(*how, tmp_path / name)
        assert done.exit_code == 0, done.output
    drawn = np.load(tmp_path / "s.npy")
    for number, path in enumerate(sorted((tmp_path / "pictures").iterdir())):
        assert np.array_equal(np.asarray(Image.open(path)), drawn[number, 0])
    (tmp_path / "pictures" / "thesis.tex").write_text("years of work")
    refused(call(*how, tmp_path / "pictures"), "--out", "thesis.tex", "give a new folder")
    assert (tmp_path / "pictures" / "thesis.tex").exists()


def test_exported_references_are_the_data_set_s_pixels(tmp_path: Path) -> None:
    """scikit-learn's digits, 0 to 16, stretched to 0 to 255: each exported image is one of them."""
    how = ["export-references", "--dataset", "digits", "--references", 40, "--out"]
    done = call(*how, tmp_path / "r.npz")
    assert done.exit_code == 0, done.output
    exported = np.load(tmp_path / "r.npz")["arr_0"][..., 0]
    stored = load_digits().images
    shown = {tuple(np.rint(image.ravel() * 255 / 16).astype(int)) for image in stored}
    assert len(exported) == 40
    assert all(tuple(image.ravel().astype(int)) in shown for image in exported)
    real = load("digits", "train", limit=40).__getitems__(range(40)).numpy()
    assert np.array_equal(exported, real[:, 0])


def test_references_are_exported_without_the_extras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(package: str) -> str:
        if "lite2" in package:
            raise metadata.PackageNotFoundError(package)
        return metadata.version(package)

    monkeypatch.setattr("bench.quality.extractors.version", without)
    monkeypatch.setattr("bench.quality.fidelity.version", without)
    how = ["export-references", "--dataset", "digits", "--references", 20, "--out"]
    done = call(*how, tmp_path / "r.npz")
    assert done.exit_code == 0, done.output


SUITE = """\
name: floor
title: A floor
dataset: digits
image_size: 8
systems: [pixel_gaussian]
time_steps: [2]
sampling: [{sampler: ddim, steps: 2}]
presets:
  smoke: {budget: {train_steps: 2, batch_size: 8}, samples: 12, references: 20, energy_images: 1}
"""


def test_the_hash_of_a_record_names_the_references(tmp_path: Path) -> None:
    (tmp_path / "floor.yaml").write_text(SUITE)
    ran = call_run(tmp_path / "floor.yaml", tmp_path / "run")
    assert ran.exit_code == 0, ran.output
    record = json.loads((tmp_path / "run" / "records.jsonl").read_text())
    how = ["export-references", "--dataset", "digits", "--out", tmp_path / "pictures",
           "--expect", record["reference_hash"]]  # fmt: skip
    refused(call(*how, "--references", 30), "--expect", record["reference_hash"], "30 train images")
    assert not (tmp_path / "pictures").exists()
    done = call(*how, "--references", 20)
    assert done.exit_code == 0, done.output
    assert record["reference_hash"] in done.stdout
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 20
    scored = call("score", tmp_path / "pictures", "--dataset", "digits", "--references", 20,
                  "--extractor", "embedded", "--device", "cpu")  # fmt: skip
    assert abs(float(scored.stdout.split("fd_efflite0")[1].split()[0])) < 0.1


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_a_damaged_file_is_named_whatever_bit_is_wrong(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"s.{ending}"
    write_set(COLOURS, path)
    good = path.read_bytes()
    refused: list[str] = []
    # The header of the array or of the archive, and the archive's list of files at its end.
    for place in [*range(140), *range(len(good) - 100, len(good))]:
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            read_set(path)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(message.startswith(f"{path}: ") for message in refused)
