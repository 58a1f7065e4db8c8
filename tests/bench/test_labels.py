"""Labels of data sets: each image keeps its own, in every selection."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from bench.data.datasets import load


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


def write(root: Path, name: str, split: str, column: str, labels: list[Any]) -> None:
    """Pictures of one grey level: 10 times the row's number."""
    rows = []
    for level in range(len(labels)):
        buffer = io.BytesIO()
        picture = Image.new("L", (4, 4), 10 * level)
        picture.convert("RGB" if name == "cifar10" else "L").save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    table = datasets.Dataset.from_dict({column: rows, "label": labels})
    (root / name).mkdir(parents=True, exist_ok=True)
    path = root / name / f"{split}-00000-of-00001.parquet"
    table.cast_column(column, datasets.Image()).to_parquet(path)


def test_digits_have_scikit_learns() -> None:
    target = torch.from_numpy(load_digits().target)
    train, test = load("digits", "train").labels, load("digits", "test").labels
    assert torch.equal(torch.cat([train, test]), target)
    assert torch.equal(load("digits", "test", limit=7).labels, target[1500:1507])
    assert train.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "column"), [("mnist", "image"), ("fashion_mnist", "image"), ("cifar10", "img")]
)
def test_an_image_keeps_its_label(tmp_path: Path, name: str, column: str) -> None:
    labels = [3, 1, 4, 1, 5, 9, 2, 6]
    write(tmp_path, name, "train", column, labels)
    for limit in (None, 5):
        images = load(name, "train", data_root=tmp_path, image_size=4, limit=limit)
        rows = images.__getitems__(range(len(images)))[:, 0, 0, 0] // 10
        assert len(images) == (limit or 8)
        assert images.labels.tolist() == [labels[row] for row in rows.tolist()]


def test_words_are_no_labels(tmp_path: Path) -> None:
    write(tmp_path, "mnist", "train", "image", ["one", "two"])
    images = load("mnist", "train", data_root=tmp_path)
    assert len(images) == 2  # which systems without classes can train on
    with pytest.raises(
        ValueError, match=r"column 'label' of .*mnist holds .*expected whole numbers"
    ):
        _ = images.labels


def test_a_folder_of_pictures_has_none(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(np.full((4, 4), index, np.uint8)).save(tmp_path / f"{index}.png")
    assert load(f"folder:{tmp_path}", "train").labels is None
