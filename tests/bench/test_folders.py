"""A user's own folder of pictures: every one is used or named, and nothing else decides."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import folders
from bench.data.datasets import Images, brief_hash, load
from bench.data.folders import split_folders
from tests.support.calling import call

SIDE = 4


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from, or left in, the user's own caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    folder.mkdir()
    return folder


def paint(path: Path, value: int, mode: str = "RGB") -> Path:
    """A picture of one level, by which a test knows it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (SIDE, SIDE), value).convert(mode).save(path)
    return path


def levels(images: Images) -> list[int]:
    return [int(image.float().mean().round()) for image in images.__getitems__(range(len(images)))]


def both(folder: Path) -> list[int]:
    """The levels of all pictures, of both splits."""
    return sorted(
        levels(load(f"folder:{folder}", "train", image_size=SIDE))
        + levels(load(f"folder:{folder}", "test", image_size=SIDE))
    )


def note(folder: Path) -> str:
    return " | ".join(load(f"folder:{folder}", "train").notes)


# --- every picture is used, or named as skipped


def test_names_and_class_folders_decide_nothing(tmp_path: Path) -> None:
    for index in range(20):
        paint(tmp_path / f"flat/train_{index}.png", index)
        paint(tmp_path / f"flat/bus_{index}.png", 20 + index)
    assert both(tmp_path / "flat") == list(range(40))
    for index in range(40):
        for number, name in enumerate(("bus", "train", "car")):
            paint(tmp_path / f"classes/{name}/{index}.png", 40 * number + index)
    assert both(tmp_path / "classes") == list(range(120))
    for index in range(5):
        paint(tmp_path / f"stages/dev/{index}.png", index)
        paint(tmp_path / f"stages/prod/{index}.png", 5 + index)
    assert both(tmp_path / "stages") == list(range(10))


def test_files_beside_pictures_are_named_and_decide_nothing(pets: Path) -> None:
    for index in range(10):
        paint(pets / f"{index}.png", index)
        (pets / f"{index}.txt").write_text("a caption")
    (pets / "captions.json").write_text("{}")
    (pets / "metadata.csv").write_text("file_name,split\n0.png,train\n")
    (pets / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: ['0.png', '../secret.png']\n---\n"
    )
    (pets / ".DS_Store").write_bytes(b"x")
    assert both(pets) == list(range(10))
    said = note(pets)
    assert "10 pictures used (9 train, 1 test), 14 skipped" in said
    assert "13 no picture: 0.txt, 1.txt, 2.txt and 10 more" in said
    assert "1 hidden: .DS_Store" in said


@pytest.mark.parametrize("name", ["a [b] c", "x::y", "*?", "train"])
def test_a_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    for index in range(10):
        paint(tmp_path / name / f"{index}[1].png", index)
    assert both(tmp_path / name) == list(range(10))


@pytest.mark.parametrize("kind", ["avif", "webp", "gif", "bmp", "tif", "TIFF", "jpg", "ppm", "PNG"])
def test_every_documented_format_is_read(pets: Path, kind: str) -> None:
    for index in range(3):
        paint(pets / f"{index}.{kind}", 100 * index)
    assert np.abs(np.subtract(both(pets), [0, 100, 200])).max() <= 2


def test_archives_are_read_as_folders(tmp_path: Path) -> None:
    for index in range(6):
        paint(tmp_path / f"raw/{index}.png", index)
    for place in ("mixed/more.zip", "alone.zip"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / place, "w", zipfile.ZIP_DEFLATED) as archive:
            for index in range(5):
                archive.write(tmp_path / f"raw/{index}.png", f"photos/{index}.png")
            archive.writestr("__MACOSX/photos/._0.png", b"resource fork")
            archive.writestr("photos/notes.txt", b"text")
    paint(tmp_path / "mixed/5.png", 5)
    assert both(tmp_path / "mixed") == list(range(6))
    assert both(tmp_path / "alone.zip") == list(range(5))
    assert "1 hidden: more/__MACOSX" in note(tmp_path / "mixed")
    (tmp_path / "mixed/more.zip").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"more\.zip is no whole ZIP archive"):
        load(str(tmp_path / "mixed"), "train")


def test_splits_are_train_beside_test_and_nothing_else() -> None:
    def indices(*names: str) -> dict[str, list[int]]:
        return split_folders(names)

    assert indices("train/a/1.png", "test/1.png") == {"train": [0], "test": [1]}
    assert indices("x/Train/1.png", "x/VAL/1.png") == {"train": [0], "test": [1]}
    assert indices("train/1.png", "val/1.png", "test/1.png", "extra/1.png", "2.png") == {
        "train": [0],
        "test": [2],
    }
    for pool in (["train/1.png", "car/1.png"], ["test/1.png", "car/1.png"], ["train/1.png"]):
        assert indices(*pool) == {"train": list(range(len(pool)))}


def test_pictures_outside_the_splits_are_named(pets: Path) -> None:
    for index, name in enumerate(("train/1", "train/2", "test/3", "stray")):
        paint(pets / f"{name}.png", index)
    assert both(pets) == [0, 1, 2]
    said = note(pets)
    assert "3 pictures used (2 train, 1 test), 1 skipped" in said
    assert "(1 outside the splits' folders: stray.png)" in said


def test_a_folder_without_pictures_says_what_it_has(pets: Path) -> None:
    (pets / "a.heic").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"1 skipped \(1 no picture: a\.heic\)"):
        load(str(pets), "train")


# --- nothing outside the folder, no pipe, no network


def test_links_are_followed_and_said(tmp_path: Path, pets: Path) -> None:
    for index in range(4):
        paint(tmp_path / f"elsewhere/{index}.png", index)
    paint(pets / "own.png", 9)
    (pets / "album").symlink_to(tmp_path / "elsewhere")
    (pets / "loop").symlink_to(pets)
    (pets / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert both(pets) == [0, 1, 2, 3, 9]
    said = note(pets)
    assert f"1 link followed: album -> {tmp_path / 'elsewhere'}" in said
    assert "broken link: gone.png" in said
    assert "link to a folder that is read already: loop" in said


def test_pipes_are_skipped(pets: Path) -> None:
    paint(pets / "1.png", 1)
    paint(pets / "2.png", 2)
    os.mkfifo(pets / "3.png")
    assert both(pets) == [1, 2]
    assert "1 no regular file: 3.png" in note(pets)


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    table = datasets.Dataset.from_dict({"image": rows})
    # Written undecoded: to_parquet would read the files that the rows name.
    feature = datasets.Image(decode=False)
    import pyarrow.parquet as pq

    pq.write_table(table.cast_column("image", feature).data.table, folder / "train-0.parquet")


def test_rows_of_a_table_stay_inside_the_folder(tmp_path: Path, pets: Path) -> None:
    inside = [paint(pets / f"files/{index}.png", index) for index in range(10)]
    rows = [{"bytes": None, "path": str(path.relative_to(pets))} for path in inside]
    write_rows(pets, rows)
    assert both(pets) == list(range(10))
    assert "10 beside parquet files" in note(pets)
    secret = paint(tmp_path / "secret.png", 200)
    (pets / "link.png").symlink_to(secret)
    for path in (str(secret), "../secret.png", "link.png"):
        write_rows(pets, [*rows, {"bytes": None, "path": path}])
        with pytest.raises(ValueError, match=r"lies outside the data set's folder"):
            load(str(pets), "train")


def test_exchanged_pictures_beside_a_table_are_noticed(pets: Path) -> None:
    paths = [paint(pets / f"files/{index}.png", index) for index in range(10)]
    write_rows(pets, [{"bytes": None, "path": str(path.relative_to(pets))} for path in paths])
    before = load(str(pets), "train")
    known = before.fingerprint
    for path in paths:
        paint(path, 200)
    after = load(str(pets), "train")
    assert after.fingerprint != known
    assert int(after.__getitems__([0]).max()) == 200


@pytest.mark.parametrize("path", ["pipe.png", "/dev/zero"])
def test_rows_of_a_table_name_regular_files(pets: Path, path: str) -> None:
    os.mkfifo(pets / "pipe.png")
    write_rows(pets, [{"bytes": None, "path": path}])
    with pytest.raises(ValueError, match=r"no regular file|outside the data set's folder"):
        load(str(pets), "train")


def test_a_local_folder_downloads_nothing(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for index in range(40):
        write_rows(pets, [{"bytes": paint(pets / "1.png", index).read_bytes(), "path": None}])
        (pets / "train-0.parquet").rename(pets / f"data-{index:02d}.parquet")
    (pets / "1.png").unlink()
    (pets / "README.md").write_text("---\nconfigs:\n- data_files: https://127.0.0.1:1/a\n---\n")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    assert both(pets) == list(range(40))
    assert "Downloading" not in "".join(capfd.readouterr())


# --- identity


def test_a_folders_label_is_its_name_and_content(tmp_path: Path) -> None:
    for name in ("one/cifar10", "two/cifar10", "three/cifar10"):
        for index in range(6):
            paint(tmp_path / name / f"{index}.png", index + (name[0] == "o"))
    one, two, three = (
        load(str(tmp_path / f"{n}/cifar10"), "train").label for n in ("one", "two", "three")
    )
    assert one != two == three
    assert one.startswith("folder:cifar10 (")
    assert load(str(tmp_path / "two/cifar10"), "test").label == two


@pytest.mark.parametrize("exchange", ["written", "moved"])
def test_an_exchanged_picture_with_its_time_stamp_kept_is_noticed(
    pets: Path, monkeypatch: pytest.MonkeyPatch, exchange: str
) -> None:
    # Facts of files are kept even if the files are new, so that they would be used.
    monkeypatch.setattr(folders, "SETTLED_SECONDS", -60.0)
    for index in range(12):
        paint(pets / f"{index:02d}.png", index)
    before = load(str(pets), "train")
    known, checked = before.fingerprint, brief_hash(before)
    assert load(str(pets), "train").fingerprint == known
    path = pets / "03.png"
    status, size = path.stat(), path.stat().st_size
    if exchange == "written":
        paint(path, 77)
    else:
        shutil.move(paint(pets.parent / "other.png", 77), path)
    assert path.stat().st_size == size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = load(str(pets), "train")
    assert after.fingerprint != known
    assert after.label != before.label
    assert brief_hash(after) != checked


# --- samples and channels


def test_held_out_and_limited_pictures_are_a_seeded_sample(pets: Path) -> None:
    for index in range(200):
        paint(pets / f"{'abcd'[index // 50]}/{index:03d}.png", index)
    test = load(str(pets), "test", image_size=SIDE)
    held_out = levels(test)
    assert len(held_out) == 20
    # Sorted by class, so a run of neighbours would be of one class.
    assert {level // 50 for level in held_out} == {0, 1, 2, 3}
    train = load(str(pets), "train", image_size=SIDE)
    assert sorted(levels(train) + held_out) == list(range(200))
    few = load(str(pets), "train", image_size=SIDE, limit=20)
    assert {level // 50 for level in levels(few)} == {0, 1, 2, 3}
    assert levels(load(str(pets), "train", image_size=SIDE, limit=8)) == levels(few)[:8]
    assert few.fingerprint == load(str(pets), "train", image_size=SIDE, limit=20).fingerprint
    assert len(set(levels(few))) == 20


def test_a_named_sets_folder_of_pictures_is_sampled_too(tmp_path: Path) -> None:
    for index in range(100):
        paint(tmp_path / f"mnist/train/{index // 50}/{index:03d}.png", index, "L")
    few = levels(load("mnist", "train", data_root=tmp_path, image_size=SIDE, limit=12))
    assert {level // 50 for level in few} == {0, 1}


def test_channels_are_decided_once_for_all_splits(pets: Path) -> None:
    paint(pets / "train/0.png", 10, "L")
    paint(pets / "train/1.png", 20, "L")
    paint(pets / "test/0.png", 30, "RGB")
    assert load(str(pets), "train").shape.channels == load(str(pets), "test").shape.channels == 3
    paint(pets / "test/0.png", 30, "L")
    assert load(str(pets), "train").shape.channels == load(str(pets), "test").shape.channels == 1


def test_a_loader_of_archives_works_in_workers(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for index in range(12):
            archive.write(paint(tmp_path / "1.png", index), f"{index:02d}.png")
    images = load(str(tmp_path / "pets.zip"), "train", image_size=SIDE)
    expected = levels(images)
    del images.__dict__["_decoded"]
    loader = torch.utils.data.DataLoader(
        images, batch_size=3, collate_fn=torch.as_tensor, num_workers=2
    )
    assert [int(image.float().mean()) for batch in loader for image in batch] == expected


def test_a_run_says_which_pictures_it_uses(pets: Path) -> None:
    for index in range(30):
        paint(pets / f"{index:02d}.png", index, "L")
    (pets / "notes.txt").write_text("text")
    suite = pets.parent / "pets.yaml"
    suite.write_text(
        f"extends: digits\nname: pets\ntitle: Pets\ndataset: folder:{pets}\nimage_size: 8\n"
        "systems: [pixel_gaussian]\n"
    )
    result = call("run", "--suite", suite, "--preset", "smoke", "--dry-run")
    assert result.exit_code == 0, result.output
    label = load(str(pets), "train").label
    assert f"{label}: 30 pictures used (27 train, 3 test), 1 skipped" in result.output
    assert "(1 no picture: notes.txt)" in result.output
