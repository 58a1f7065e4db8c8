"""Data sets by name: where the pictures come from, how they are cropped and resized, which
split is which, and what a table calls them.

Pictures are read through Hugging Face ``datasets``, from ``<data root>/<name>`` where a data
root is given and from the Hub where none is. What leaves this file is uint8
``[n, channels, size, size]``; nothing here knows a system or a metric.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.pictures import JPEG_START, Images, Pixels, Table, Transform

__all__ = ["DATASETS", "SPLITS", "DatasetSpec", "Images", "brief_hash", "find_spec", "load"]

SPLITS = ("train", "test")
PARQUET_MARK = b"PAR1"
"""First and last bytes of every parquet file."""
BRIEF_IMAGES = 256
"""Most pictures that :func:`brief_hash` looks at."""
TEST_SPLIT_NAMES = ("test", "validation", "valid")
"""Names that sources use for the split that was kept from training, in order of preference."""
DIGITS_TRAIN_IMAGES = 1_500


@dataclass(frozen=True)
class DatasetSpec:
    """Facts about a data set that are known before a file is opened."""

    name: str
    """Name on the command line and in suites, and name of its folder under the data root."""
    hub: str | None
    """Repository on the Hugging Face Hub; None where there is none."""
    column: str
    """Column that holds the pictures."""
    channels: int | None
    """1 (grey) or 3 (RGB); None: as the first picture has it."""
    image_size: int
    """Height and width in pixels, unless the caller asks for others."""
    horizontal_flip: bool
    """Whether training mirrors half of the pictures."""
    crop: int | None = None
    """Side in pixels of the centre square that is kept before resizing; None: the largest."""
    lossless: bool = False
    """The original pictures were never JPEG, so JPEG files are a variant and the label says so."""
    train_images: int | None = None
    """Pictures in the official training split; another count is labelled a subset."""
    test_images: int | None = None
    """Pictures in the official test split."""
    holds_out: bool = False
    """A source without a test split gives its last pictures as one (see :func:`load`)."""
    path: Path | None = None
    """The folder of a user's own pictures; None for a named data set."""


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        # The 1,797 digits inside scikit-learn: the first 1,500 train, the last 297 test.
        DatasetSpec(
            "digits", None, "image", 1, 8, False,
            lossless=True, train_images=DIGITS_TRAIN_IMAGES, test_images=297,
        ),
        DatasetSpec(
            "mnist", "ylecun/mnist", "image", 1, 32, False,
            lossless=True, train_images=60_000, test_images=10_000,
        ),
        DatasetSpec(
            "fashion_mnist", "zalando-datasets/fashion_mnist", "image", 1, 32, False,
            lossless=True, train_images=60_000, test_images=10_000,
        ),
        DatasetSpec(
            "cifar10", "uoft-cs/cifar10", "img", 3, 32, True,
            lossless=True, train_images=50_000, test_images=10_000,
        ),
        DatasetSpec(
            "celeba", "flwrlabs/celeba", "image", 3, 64, True,
            crop=148, train_images=162_770, test_images=19_962, holds_out=True,
        ),
        # The Hub's copy is a fifth of the bedrooms, so its label says subset.
        DatasetSpec(
            "lsun_bedroom", "pcuenq/lsun-bedrooms", "image", 3, 64, True,
            train_images=3_033_042, test_images=300, holds_out=True,
        ),
    )
}  # fmt: skip


def find_spec(name: str) -> DatasetSpec:
    """The data set called ``name``: one of :data:`DATASETS`, ``folder:PATH``, or a path.

    Raises:
        ValueError: no such name and no such folder; near matches and legal names are listed.
    """
    if name in DATASETS:
        return DATASETS[name]
    is_path = name.startswith("folder:") or os.sep in name or Path(name).is_dir()
    if is_path:
        path = Path(name.removeprefix("folder:")).expanduser()
        return DatasetSpec(
            path.resolve().name, None, "image", None, 64, False, holds_out=True, path=path
        )
    near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.5)
    hint = f" (near: {', '.join(near)})" if near else ""
    raise ValueError(
        f"data set {name!r} is unknown{hint}; legal are {', '.join(DATASETS)}, "
        "and folder:PATH for a folder of images"
    )


def load(
    name: str,
    split: str,
    *,
    image_size: int | None = None,
    data_root: str | Path | None = None,
    limit: int | None = None,
) -> Images:
    """The ``split`` ("train" or "test") of the data set ``name``, at most ``limit`` images.

    ``name`` is one of :data:`DATASETS`, or a folder of images as ``folder:PATH`` or a path.
    ``image_size`` is in pixels (default: the data set's own, 64 for a folder). CelebA, LSUN
    and a user's folder may come without a test split: then the test images are the last ones
    in file-name order, the official number of them where the whole official set is there
    (which is CelebA's own split), else a tenth.

    Raises:
        ValueError: an unknown name, split or number; a file that cannot be read, named.
        FileNotFoundError: no data at the place that was tried; both ways to get it are said.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; legal are {', '.join(SPLITS)}")
    for option, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}; it must be at least 1")
    spec = find_spec(name)
    size = image_size or spec.image_size
    if spec.name == "digits" and spec.path is None:
        transform = Transform(1, None, size)
        return Images(_digits(split, limit), transform, label="digits", horizontal_flip=False)
    table, variants = _open_table(spec, split, data_root, limit)
    channels = spec.channels or (1 if table.pictures([0])[0].mode in ("1", "L") else 3)
    label = f"{spec.name} ({', '.join(variants)})" if variants else spec.name
    transform = Transform(channels, spec.crop, size)
    return Images(table, transform, label=label, horizontal_flip=spec.horizontal_flip)


def brief_hash(images: Images) -> str:
    """32 hex digits of how many pictures there are and of an even selection of them, as they are
    trained on: enough to notice, in a fraction of a second, that a set was exchanged.

    :attr:`Images.fingerprint` reads every picture.
    """
    count = len(images)
    chosen = sorted({i * count // BRIEF_IMAGES for i in range(BRIEF_IMAGES)}) if count else []
    digest = hashlib.sha256(str(count).encode())
    # Not by index: that would decode a whole set that fits into memory.
    for picture in images.source.pictures(chosen):
        digest.update(images.transform(picture).tobytes())
    return digest.hexdigest()[:32]


def _digits(split: str, limit: int | None) -> Pixels:
    """scikit-learn's 8x8 digits, whose values 0..16 become 0..255, rounded half up."""
    from sklearn.datasets import load_digits

    pixels = np.floor(load_digits().images * (255 / 16) + 0.5).astype(np.uint8)
    train, test = pixels[:DIGITS_TRAIN_IMAGES], pixels[DIGITS_TRAIN_IMAGES:]
    return Pixels((train if split == "train" else test)[:limit])


def _open_table(
    spec: DatasetSpec, split: str, data_root: str | Path | None, limit: int | None
) -> tuple[Table, list[str]]:
    """One split of a stored data set, and the words that tell it from the original."""
    splits, where = _load_splits(spec, data_root)
    names = ("train",) if split == "train" else TEST_SPLIT_NAMES
    found = next((name for name in names if name in splits), None)
    if spec.holds_out and list(splits) == ["train"] and len(splits["train"]) > 1:
        rows = _hold_out(splits["train"], spec, split)
    elif found is not None:
        rows = splits[found]
    else:
        raise FileNotFoundError(
            f"{where} has no {split} split (it has {', '.join(splits)}); {_both_ways(spec)}"
        )
    rows, column = _image_column(rows, spec, where)
    official = spec.train_images if split == "train" else spec.test_images
    variants = ["subset"] if official is not None and len(rows) != official else []
    rows = rows.select(range(min(limit, len(rows)))) if limit else rows
    table = Table(rows, column, where)
    first = table.encoded(range(min(16, len(rows))))
    if spec.lossless and any(file.startswith(JPEG_START) for file in first):
        variants.insert(0, "jpeg")
    return table, variants


def _load_splits(spec: DatasetSpec, data_root: str | Path | None) -> tuple[Any, str]:
    """Every split of a data set, and words for where it was found."""
    # Seconds to import, and the digits do without it.
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    if spec.path is None and data_root is None:
        try:
            return load_dataset(spec.hub), f"{spec.hub} on the Hugging Face Hub"
        except (OSError, ValueError, DatasetsError) as error:
            _raise_if_disk_full(error)
            raise FileNotFoundError(
                f"{spec.name} could not be fetched as {spec.hub} from the Hugging Face Hub "
                f"({_first_line(error)}); {_both_ways(spec)}"
            ) from error
    folder = spec.path or Path(data_root or "", spec.name).expanduser()
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(f"no images of {spec.name} at {folder}; {_both_ways(spec)}")
    _check_parquet(folder)
    try:
        return load_dataset(str(folder)), str(folder)
    except (OSError, ValueError, DatasetsError) as error:
        _raise_if_disk_full(error)
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(
                f"no images of {spec.name} at {folder} ({_first_line(error)}); {_both_ways(spec)}"
            ) from error
        raise ValueError(
            f"{_culprit(folder)} cannot be read as images: {_first_line(error.__cause__ or error)}"
        ) from error


def _both_ways(spec: DatasetSpec) -> str:
    if spec.path is not None:
        return "give a folder that holds pictures, in train/ and test/ or without either"
    layout = f"{spec.name}/train-*.parquet and {spec.name}/test-*.parquet"
    if spec.holds_out:
        layout += f", or pictures in {spec.name}/"
    return (
        f"give a data root that holds {layout}, or go online without a data root to fetch "
        f"{spec.hub} from the Hugging Face Hub"
    )


def _check_parquet(folder: Path) -> None:
    """Stop at a foreign or truncated file under its own name, before the library reads any."""
    for path in sorted(folder.rglob("*.parquet")):
        content = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(PARQUET_MARK))
            file.seek(max(0, content - len(PARQUET_MARK)))
            end = file.read()
        if start != PARQUET_MARK or end != PARQUET_MARK:
            raise ValueError(f"{path} is not a whole parquet file ({content} bytes)")


def _culprit(folder: Path) -> Path:
    """The first parquet file that cannot be read by itself, else the folder."""
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    for path in sorted(folder.rglob("*.parquet")):
        try:
            Dataset.from_parquet(str(path))
        except (OSError, ValueError, DatasetsError):
            return path
    return folder


def _image_column(rows: Any, spec: DatasetSpec, where: str) -> tuple[Any, str]:
    """The rows with nothing but undecoded pictures, and the column's name."""
    from datasets import Image as ImageFeature

    features = rows.features
    columns = [spec.column] if spec.column in features else []
    columns += [name for name, kind in features.items() if isinstance(kind, ImageFeature)]
    if not columns:
        raise ValueError(
            f"{where} has no column of images: wanted {spec.column!r}, found {', '.join(features)}"
        )
    column = columns[0]
    rows = rows.select_columns([column])
    try:
        return rows.cast_column(column, ImageFeature(decode=False)), column
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {column!r} of {where} holds no images: {error}") from error


def _hold_out(rows: Any, spec: DatasetSpec, split: str) -> Any:
    """The train or test part of a source that has one split only (see :func:`load`)."""
    count = len(rows)
    train, test = spec.train_images, spec.test_images
    if train is None or test is None or count < train + test:
        test = max(1, count // 10)
        train = count - test
    return rows.select(range(train) if split == "train" else range(count - test, count))


def _raise_if_disk_full(error: BaseException) -> None:
    """A full disk is not missing data: let it through under its own name."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            raise cause
        cause = cause.__cause__


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
