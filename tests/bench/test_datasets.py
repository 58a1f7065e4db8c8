"""bench.data.datasets: pictures the tests make, in the layouts that users have."""

from __future__ import annotations

import errno
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from bench.data import pictures
from bench.data.datasets import DATASETS, Images, find_spec, load
from bench.data.parquet import Table
from sddpm.protocol import ImageShape

Picture = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is read from, or left in, the user's own caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return tmp_path / "cache" / "sddpm-bench"


def random_pictures(count: int, *shape: int) -> list[Picture]:
    rng = np.random.default_rng(sum(shape) + count)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


def encode(picture: Picture, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(path: Path, images: list[Picture], column: str, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": encode(image, kind), "path": None} for image in images]
    table = datasets.Dataset.from_dict({column: rows, "label": [0] * len(rows)})
    table.cast_column(column, datasets.Image()).to_parquet(path)


def write_folder(folder: Path, images: list[Picture], kind: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:06d}.{kind}")


def stacked(images: list[Picture]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.fixture
def cifar_root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    write_parquet(
        root / "cifar10/train-00000-of-00001.parquet", random_pictures(20, 32, 32, 3), "img"
    )
    write_parquet(
        root / "cifar10/test-00000-of-00001.parquet", random_pictures(7, 32, 32, 3), "img"
    )
    return root


def everything(images: Images) -> torch.Tensor:
    return images.__getitems__(range(len(images)))


# --- what comes out


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    from sklearn.datasets import load_digits

    raw = load_digits().images
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1500, 297)
    assert train.shape == ImageShape(1, 8)
    got = torch.cat([everything(train), everything(test)])[:, 0].numpy()
    # 16 sixteenths are 255; half a grey level goes up.
    assert got.dtype == np.uint8
    assert [got[raw == level][0] for level in (0, 1, 8, 15, 16)] == [0, 16, 128, 239, 255]
    assert np.abs(got - raw * 255 / 16).max() <= 0.5
    assert not train.horizontal_flip
    assert train.label == "digits"


def test_parquet_comes_back_to_the_bit(cifar_root: Path) -> None:
    train = load("cifar10", "train", data_root=cifar_root)
    assert train.shape == ImageShape(3, 32)
    assert train.horizontal_flip
    assert torch.equal(everything(train), stacked(random_pictures(20, 32, 32, 3)))
    test = load("cifar10", "test", data_root=cifar_root)
    assert torch.equal(
        test.__getitems__([6, 0, 6]), stacked(random_pictures(7, 32, 32, 3))[[6, 0, 6]]
    )
    assert torch.equal(test[3], everything(test)[3])
    assert len(load("cifar10", "train", data_root=cifar_root, limit=5)) == 5
    assert len(load("cifar10", "train", data_root=cifar_root, limit=500)) == 20


def test_a_loader_takes_whole_batches(cifar_root: Path) -> None:
    images = load("cifar10", "train", data_root=cifar_root)
    batches = list(DataLoader(images, batch_size=8, collate_fn=torch.as_tensor))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert torch.equal(torch.cat(batches), everything(images))


def test_grey_pictures_are_resized_as_torchvision_does(tmp_path: Path) -> None:
    made = random_pictures(6, 28, 28)
    write_parquet(tmp_path / "mnist/train-00000-of-00001.parquet", made, "image")
    got = load("mnist", "train", data_root=tmp_path)
    assert got.shape == ImageShape(1, 32)
    resize = transforms.Compose([transforms.Resize(32), transforms.PILToTensor()])
    assert torch.equal(everything(got), torch.stack([resize(Image.fromarray(a)) for a in made]))
    as_stored = load("mnist", "train", data_root=tmp_path, image_size=28)
    assert torch.equal(everything(as_stored)[:, 0], torch.from_numpy(np.stack(made)))


def test_celeba_keeps_the_centre_148(tmp_path: Path) -> None:
    face = np.zeros((218, 178, 3), np.uint8)
    face[..., 0] = 255  # red outside the crop
    face[35:183, 15:163] = random_pictures(1, 148, 148, 3)[0]
    face[35:183, 15:163, 0] = 0  # no red inside
    write_folder(tmp_path / "celeba", [face] * 4)
    got = load("celeba", "train", data_root=tmp_path)
    assert got.shape == ImageShape(3, 64)
    assert got.horizontal_flip
    published = transforms.Compose(
        [transforms.CenterCrop(148), transforms.Resize(64), transforms.PILToTensor()]
    )
    assert torch.equal(got[0], published(Image.fromarray(face)))
    assert got[0][0].max() == 0
    untouched = load("celeba", "train", data_root=tmp_path, image_size=148)
    assert torch.equal(untouched[0], stacked([face[35:183, 15:163]])[0])


def test_a_picture_smaller_than_the_crop_keeps_its_centre_square(tmp_path: Path) -> None:
    made = random_pictures(2, 80, 64, 3)
    write_folder(tmp_path / "celeba", made)
    got = load("celeba", "train", data_root=tmp_path, image_size=64)
    assert torch.equal(got[0], stacked([made[0][8:72]])[0])


# --- splits and layouts


def test_a_whole_official_set_is_split_officially(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CelebA's own split, to scale: 6 train, 2 validation, 2 test, by file name.
    small = replace(DATASETS["celeba"], train_images=6, test_images=2)
    monkeypatch.setitem(DATASETS, "celeba", small)
    made = random_pictures(10, 64, 64, 3)
    write_folder(tmp_path / "celeba", made)
    train = load("celeba", "train", data_root=tmp_path)
    assert torch.equal(everything(train), stacked(made[:6]))
    test = load("celeba", "test", data_root=tmp_path)
    assert torch.equal(everything(test), stacked(made[8:]))
    assert train.label == test.label == "celeba"


def test_train_and_test_subfolders_are_the_splits(tmp_path: Path) -> None:
    train, test = random_pictures(5, 9, 9), random_pictures(3, 9, 9)
    write_folder(tmp_path / "glyphs/train", train)
    write_folder(tmp_path / "glyphs/test", test)
    got = load(str(tmp_path / "glyphs"), "test", image_size=9)
    assert got.shape == ImageShape(1, 9)
    assert torch.equal(everything(got)[:, 0], torch.from_numpy(np.stack(test)))
    assert len(load(str(tmp_path / "glyphs"), "train")) == 5


def test_class_subfolders_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets/cat", random_pictures(4, 8, 8, 3), "jpg")
    write_folder(tmp_path / "pets/dog", random_pictures(6, 8, 8, 3), "jpg")
    got = load(str(tmp_path / "pets"), "train")
    assert len(got) == 9
    assert "jpeg" not in got.label  # a user's pictures have no original to depart from


def test_labels_tell_variants_apart(tmp_path: Path, cifar_root: Path) -> None:
    assert load("cifar10", "train", data_root=cifar_root).label == "cifar10 (subset)"
    jpegs = random_pictures(4, 32, 32, 3)
    write_parquet(tmp_path / "j/cifar10/train-0.parquet", jpegs, "img", "JPEG")
    assert load("cifar10", "train", data_root=tmp_path / "j").label == "cifar10 (jpeg, subset)"
    # CelebA was published as JPEG.
    write_folder(tmp_path / "j/celeba", jpegs, "jpg")
    assert load("celeba", "train", data_root=tmp_path / "j").label == "celeba (subset)"


# --- fingerprints and caches


def test_fingerprint_is_the_content_and_the_transform(tmp_path: Path, cifar_root: Path) -> None:
    known = load("cifar10", "train", data_root=cifar_root).fingerprint
    shutil.copytree(cifar_root, tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere/cifar10/train-00000-of-00001.parquet", (0, 0))
    assert load("cifar10", "train", data_root=tmp_path / "elsewhere").fingerprint == known
    others = [
        load("cifar10", "test", data_root=cifar_root),
        load("cifar10", "train", data_root=cifar_root, limit=19),
        load("cifar10", "train", data_root=cifar_root, image_size=16),
    ]
    assert len({known, *(images.fingerprint for images in others)}) == 4


def test_a_changed_picture_changes_the_fingerprint(tmp_path: Path) -> None:
    made = random_pictures(12, 8, 8, 3)
    write_folder(tmp_path / "pets", made)
    before = load(str(tmp_path / "pets"), "train", image_size=8)
    known, pixels = before.fingerprint, everything(before)
    made[5][0, 0, 0] ^= 1
    write_folder(tmp_path / "pets", made)
    os.utime(tmp_path / "pets/000005.png", (1, 1))
    after = load(str(tmp_path / "pets"), "train", image_size=8)
    assert after.fingerprint != known
    assert (everything(after) != pixels).sum() == 1


def test_the_second_start_decodes_nothing(
    cifar_root: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "DISK_CACHE_FLOOR_BYTES", 0)
    pixels = everything(load("cifar10", "train", data_root=cifar_root))
    (kept,) = (caches / "decoded").iterdir()
    decode = Table.pictures

    def refuse(self: Table, indices: Any) -> list[Image.Image]:
        raise AssertionError("decoded again")

    monkeypatch.setattr(Table, "pictures", refuse)
    assert torch.equal(everything(load("cifar10", "train", data_root=cifar_root)), pixels)
    # A cache file that was cut short is no reason to stop, nor to trust it.
    kept.write_bytes(kept.read_bytes()[:-100])
    monkeypatch.setattr(Table, "pictures", decode)
    assert torch.equal(everything(load("cifar10", "train", data_root=cifar_root)), pixels)


def test_an_unwritable_cache_only_warns(cifar_root: Path, caches: Path) -> None:
    caches.parent.mkdir(parents=True)
    caches.write_text("a file where the folder should be")
    images = load("cifar10", "train", data_root=cifar_root)
    with pytest.warns(UserWarning, match="could not be written"):
        assert images.fingerprint
    assert len(everything(images)) == 20


def test_a_large_set_is_decoded_by_the_batch(
    cifar_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = everything(load("cifar10", "train", data_root=cifar_root))
    monkeypatch.setattr(pictures, "RAM_LIMIT_BYTES", 20 * 3 * 32 * 32 - 1)
    large = load("cifar10", "train", data_root=cifar_root)
    assert torch.equal(large.__getitems__([19, 2, 3]), pixels[[19, 2, 3]])
    assert "_decoded" not in vars(large)


# --- unhappy paths


def test_an_unknown_name_gets_near_and_legal_ones() -> None:
    with pytest.raises(
        ValueError, match=r"'fashon_mnist' is unknown \(near: fashion_mnist"
    ) as info:
        load("fashon_mnist", "train")
    assert all(name in str(info.value) for name in [*DATASETS, "folder:PATH"])
    assert find_spec("cifar10") is DATASETS["cifar10"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split 'val' is unknown; legal are train, test"),
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"image_size": -1}, "image_size is -1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("digits", **{"split": "train", **options})


@pytest.mark.parametrize("index", [-1, 297])
def test_an_index_outside_is_an_error(index: int) -> None:
    with pytest.raises(IndexError, match="legal are 0 to 296"):
        load("digits", "test")[index]


def test_a_data_root_without_the_data_says_both_ways(tmp_path: Path) -> None:
    for prepare in (lambda: None, lambda: (tmp_path / "cifar10").mkdir()):
        prepare()
        with pytest.raises(FileNotFoundError) as info:
            load("cifar10", "train", data_root=tmp_path)
        message = str(info.value)
        for part in (str(tmp_path / "cifar10"), "cifar10/train-*.parquet", "uoft-cs/cifar10"):
            assert part in message
        assert "\n" not in message
    (tmp_path / "cifar10/notes.txt").write_text("no pictures")
    with pytest.raises((FileNotFoundError, ValueError), match="cifar10"):
        load("cifar10", "train", data_root=tmp_path)


def test_no_network_says_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(path: str) -> None:
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(FileNotFoundError, match=r"flwrlabs/celeba.*data root") as info:
        load("celeba", "train")
    assert "\n" not in str(info.value)


def test_a_full_disk_is_not_missing_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str) -> None:
        raise ValueError("generating") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(OSError, match="No space left") as info:
        load("celeba", "train")
    assert info.value.errno == errno.ENOSPC


def test_a_named_set_does_not_make_up_a_test_split(cifar_root: Path) -> None:
    (cifar_root / "cifar10/test-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"no test split \(it has train\)"):
        load("cifar10", "test", data_root=cifar_root)


def test_a_broken_parquet_file_is_named(cifar_root: Path) -> None:
    path = cifar_root / "cifar10/test-00000-of-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"test-00000-of-00001.parquet is not a whole parquet"):
        load("cifar10", "train", data_root=cifar_root)
    path.write_bytes(whole[:-200] + bytes(192) + whole[-8:])
    with pytest.raises(ValueError, match=r"test-00000-of-00001.parquet cannot be read"):
        load("cifar10", "train", data_root=cifar_root)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets", random_pictures(5, 8, 8, 3))
    bad = tmp_path / "pets/000003.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"picture .*000003\.png.* cannot be decoded"):
        everything(load(str(tmp_path / "pets"), "train"))


def test_a_table_without_pictures_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    path = tmp_path / "cifar10/train-0.parquet"
    datasets.Dataset.from_dict({"label": [1], "text": ["a"]}).to_parquet(path)
    with pytest.raises(ValueError, match="no column of images: wanted 'img', found label, text"):
        load("cifar10", "train", data_root=tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(f"folder:{tmp_path / 'nowhere'}", "train")


# --- real pictures, where the machine has them


@pytest.mark.parametrize(
    ("name", "label", "train_images", "channels"),
    [("cifar10", "cifar10 (jpeg)", 50_000, 3), ("fashion_mnist", "fashion_mnist", 60_000, 1)],
)
def test_real_sets(
    data_root: Path, name: str, label: str, train_images: int, channels: int
) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"the data root has no {name}")
    images = load(name, "train", data_root=data_root)
    if images.label != label:
        pytest.skip(f"another variant of {name} is here: {images.label}")
    assert len(images) == train_images
    few = load(name, "train", data_root=data_root, limit=64)
    assert few.shape == ImageShape(channels, 32)
    assert few.label == label
    assert 20 < everything(few).float().mean() < 200
