"""Data sets by name: where the pictures come from, how they are cropped and resized, which
split is which, and what a table calls them.

Pictures come from ``<data root>/<name>`` where a data root is given and from the Hub where none
is: tables are read through Hugging Face ``datasets``, a folder's pictures by
:mod:`bench.data.folders`. What leaves this file is uint8 ``[n, channels, size, size]``; nothing
here knows a system or a metric.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.folders import Files, Surveyed, split_folders, survey
from bench.data.listing import ARCHIVE, Archives, Listing, list_files, printable
from bench.data.parquet import Table, first_line, raise_if_disk_full, read_parquet, split_files
from bench.data.pictures import Encoded, Images, Pixels, Transform
from bench.data.points import FOLDER as PLACES
from bench.data.points import POINT_SETS, Points, load_points
from bench.data.splits import random_order

__all__ = [
    "DATASETS", "SPLITS", "DatasetSpec", "Images", "Points", "brief_hash", "find_spec", "load",
    "open_data",
]  # fmt: skip

SPLITS = ("train", "test")
FOLDER = "folder:"
"""Before the path of a user's own pictures."""
JPEG_START = b"\xff\xd8\xff"
BRIEF_IMAGES = 256
"""Most pictures that :func:`brief_hash` looks at."""
TEST_SPLIT_NAMES = ("test", "validation", "valid")
"""Names that sources use for the split that was kept from training, in order of preference."""
DIGITS_TRAIN_IMAGES = 1_500
OUTSIDE = "outside the splits' folders"
"""Reason for which an image beside ``train/`` and ``test/`` is not used."""

Stored = Encoded | Surveyed


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
    """1 (grey) or 3 (RGB); None: as the pictures have it (see :func:`load`)."""
    image_size: int
    """Height and width in pixels, unless the caller asks for others."""
    horizontal_flip: bool
    """Whether training mirrors half of the pictures."""
    crop: int | None = None
    """Side in pixels of the centre square that is kept before resizing; None: the largest."""
    lossless: bool = False
    """Whether the original images were never JPEG. JPEG files are then a variant, and the label
    says so."""
    train_images: int | None = None
    """Pictures in the official training split; another count is labelled a subset."""
    test_images: int | None = None
    """Pictures in the official test split."""
    holds_out: bool = False
    """A source without a test split gives some of its pictures as one (see :func:`load`)."""
    mixed: bool = False
    """The source's tables are mixed, so the first pictures of a split are a random sample."""
    path: Path | None = None
    """The folder of a user's own pictures; None for a named data set."""
    label: str | None = None
    """Column that holds the pictures' classes, whole numbers from 0; None: none is used."""
    origin: str = "inside scikit-learn"
    """Place where a set without a repository comes from."""
    manifold: str | None = None
    """Manifold on which the data are points, a key of :data:`sddpm.manifolds.MANIFOLDS`;
    ``image_size`` is then its size. None for images."""


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        # The 1,797 digits inside scikit-learn: the first 1,500 train, the last 297 test. They
        # stand in the writers' order; a limited number are the first ones even so, since the
        # published figures were measured against those.
        DatasetSpec(
            "digits", None, "image", 1, 8, False,
            lossless=True, train_images=DIGITS_TRAIN_IMAGES, test_images=297,
        ),
        # Not mixed: the first half of its test images are of neater writers.
        DatasetSpec(
            "mnist", "ylecun/mnist", "image", 1, 32, False,
            lossless=True, label="label", train_images=60_000, test_images=10_000,
        ),
        DatasetSpec(
            "fashion_mnist", "zalando-datasets/fashion_mnist", "image", 1, 32, False,
            lossless=True, label="label", mixed=True, train_images=60_000, test_images=10_000,
        ),
        DatasetSpec(
            "cifar10", "uoft-cs/cifar10", "img", 3, 32, True,
            lossless=True, label="label", mixed=True, train_images=50_000, test_images=10_000,
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
        *(
            DatasetSpec(
                name, None, "", 1, found.shape.size, False,
                origin=f"{PLACES}/{found.file} of a data root" if found.file else "drawn",
                manifold=found.shape.manifold,
            )
            for name, found in POINT_SETS.items()
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
    is_path = name.startswith(FOLDER) or os.sep in name or Path(name).is_dir()
    if is_path:
        path = Path(name.removeprefix(FOLDER)).expanduser()
        title = FOLDER + printable(path.resolve().name)
        return DatasetSpec(title, None, "image", None, 64, False, holds_out=True, path=path)
    near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.5)
    hint = f" (near: {', '.join(near)})" if near else ""
    raise ValueError(
        f"data set {name!r} is unknown{hint}; legal are {', '.join(DATASETS)}, "
        "and folder:PATH for a folder of images"
    )


def open_data(
    name: str,
    split: str,
    *,
    image_size: int | None = None,
    data_root: str | Path | None = None,
    limit: int | None = None,
) -> Images | Points:
    """The ``split`` of the data set ``name``, of images as :func:`load` opens them, or of points.

    Raises:
        ValueError, FileNotFoundError: as :func:`load`; points of another size than theirs.
    """
    point_set = POINT_SETS.get(name)
    if point_set is None:
        return load(name, split, image_size=image_size, data_root=data_root, limit=limit)
    _check_request(split, image_size, limit)
    if image_size not in (None, point_set.shape.size):
        raise ValueError(
            f"image_size is {image_size}; the points of {name} are of size {point_set.shape.size}"
        )
    return load_points(point_set, split, data_root, limit)


def load(
    name: str,
    split: str,
    *,
    image_size: int | None = None,
    data_root: str | Path | None = None,
    limit: int | None = None,
) -> Images:
    """The ``split`` ("train" or "test") of the data set ``name``, at most ``limit`` images.

    ``name`` is one of :data:`DATASETS`, or a folder (or ZIP archive) of images as
    ``folder:PATH`` or a path. ``image_size`` is in pixels (default: the data set's own, 64 for a
    folder).

    CelebA, LSUN and a user's folder may come without a test split. Where the whole official set
    is there, the test images are then the official number of last ones in file-name order (which
    is CelebA's own split), else a random tenth, the same at every call.

    With ``limit`` the images are a random sample, the same at every call, in random order: a
    smaller limit gives the first images of a larger one. Of a data set that its source mixed
    (:attr:`DatasetSpec.mixed`) they are the first ones, which is as random.

    A user's folder is labelled by its name and the hash of its content, ``folder:cats
    (1a2b3c4d)``; it is grey where every picture of all its splits is, else RGB.

    Raises:
        ValueError: an unknown name, split or number; a file that cannot be read, named.
        FileNotFoundError: no data at the place that was tried; both ways to get it are said.
    """
    _check_request(split, image_size, limit)
    spec = find_spec(name)
    if spec.manifold is not None:
        raise ValueError(f"data set {name!r} holds points of a manifold, expected images")
    size = image_size or spec.image_size
    if spec.name == "digits":
        transform = Transform(1, None, size)
        return Images(_digits(split, limit), transform, label="digits", horizontal_flip=False)
    opened, listing, where = _open(spec, data_root)
    splits: Mapping[str, Stored] = opened
    label, channels = spec.name, spec.channels
    if spec.path is not None:
        surveyed = {name: survey(source) for name, source in opened.items()}
        label += f" ({_identity(surveyed)})"
        channels = 1 if all(source.grey for source in surveyed.values()) else 3
        splits = surveyed
    parts = _parts(splits, spec)
    if split not in parts:
        raise FileNotFoundError(
            f"{where} has no {split} split (it has {', '.join(splits)}); {_both_ways(spec)}"
        )
    notes = _notes(label, parts, listing) if listing else ()
    part = parts[split]
    if variants := _variants(part, spec, split):
        label += f" ({', '.join(variants)})"
    if limit is not None and limit < len(part):
        # A folder of pictures is sorted by name, and so by class, whoever mixed the original.
        mixed = spec.mixed and isinstance(part, Table)
        part = part.select(range(limit) if mixed else random_order(len(part))[:limit])
    transform = Transform(channels or 3, spec.crop, size)
    return Images(part, transform, label=label, horizontal_flip=spec.horizontal_flip, notes=notes)


def brief_hash(images: Images | Points) -> str:
    """32 hex digits of how many pictures there are and of an even selection of them, as they are
    trained on: enough to notice, in a fraction of a second, that a set was exchanged.

    Of points, and of a user's folder, whose every picture was read when it was opened, it is the
    fingerprint, which reads them all.
    """
    if isinstance(images, Points) or isinstance(images.source, Surveyed):
        return images.fingerprint
    count = len(images)
    chosen = sorted({i * count // BRIEF_IMAGES for i in range(BRIEF_IMAGES)}) if count else []
    digest = hashlib.sha256(str(count).encode())
    # Not by index: that would decode a whole set that fits into memory.
    for picture in images.source.pictures(chosen):
        digest.update(images.transform(picture).tobytes())
    return digest.hexdigest()[:32]


def _check_request(split: str, image_size: int | None, limit: int | None) -> None:
    """Raise ValueError for an unknown split or a number below 1."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; legal are {', '.join(SPLITS)}")
    for option, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}; it must be at least 1")


def _digits(split: str, limit: int | None) -> Pixels:
    """scikit-learn's 8x8 digits, whose values 0..16 become 0..255, rounded half up."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.floor(digits.images * (255 / 16) + 0.5).astype(np.uint8)
    first, end = (0, DIGITS_TRAIN_IMAGES) if split == "train" else (DIGITS_TRAIN_IMAGES, None)
    classes = digits.target.astype(np.int64)
    return Pixels(pixels[first:end][:limit], classes[first:end][:limit])


def _open(
    spec: DatasetSpec, data_root: str | Path | None
) -> tuple[Mapping[str, Encoded], Listing | None, str]:
    """Every split of a stored data set, the files of its folder where what they are is to be
    said, and words for where it was found."""
    if spec.path is None and data_root is None:
        where = f"{spec.hub} on the Hugging Face Hub"
        rows = _fetch(spec)
        return {name: _table(part, spec, where, None) for name, part in rows.items()}, None, where
    place = spec.path or Path(data_root or "", spec.name)
    place = place.expanduser()
    archive = spec.path is not None and place.suffix.lower() == ARCHIVE and place.is_file()
    if not place.is_dir() and not archive:
        raise FileNotFoundError(f"no images of {spec.name} at {place}; {_both_ways(spec)}")
    where, listing = printable(str(place)), list_files(place)
    if listing.parquet:
        files = split_files(listing.parquet)
        used = {entry.name for part in files.values() for entry in part}
        listing.skip("beside parquet files", *(entry.name for entry in listing.pictures))
        listing.skip(OUTSIDE, *(e.name for e in listing.parquet if e.name not in used))
        rows = read_parquet(files)
        splits = {name: _table(part, spec, where, place) for name, part in rows.items()}
        return splits, listing if spec.path else None, where
    if not listing.pictures:
        raise FileNotFoundError(
            f"no images of {spec.name} at {place} ({listing.skipped_words()}); {_both_ways(spec)}"
        )
    everything = Files(listing.pictures, where, Archives())
    found = split_folders([entry.name for entry in listing.pictures])
    inside = {index for indices in found.values() for index in indices}
    listing.skip(OUTSIDE, *(e.name for i, e in enumerate(listing.pictures) if i not in inside))
    return {name: everything.select(part) for name, part in found.items()}, listing, where


def _fetch(spec: DatasetSpec) -> Any:
    """Every split of a data set of the Hub."""
    # Seconds to import, and the digits do without it.
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(spec.hub)
    except (OSError, ValueError, DatasetsError) as error:
        raise_if_disk_full(error)
        raise FileNotFoundError(
            f"{spec.name} could not be fetched as {spec.hub} from the Hugging Face Hub "
            f"({first_line(error)}); {_both_ways(spec)}"
        ) from error


def _table(rows: Any, spec: DatasetSpec, where: str, folder: Path | None) -> Table:
    known = spec.label is not None and spec.label in rows.features
    classes = rows.select_columns([spec.label]) if known else None
    rows, column = _image_column(rows, spec, where)
    return Table(rows, column, where, folder, classes)


def _parts(splits: Mapping[str, Stored], spec: DatasetSpec) -> dict[str, Stored]:
    """The training and the test pictures, as far as there are any."""
    if spec.holds_out and list(splits) == ["train"] and len(splits["train"]) > 1:
        whole = splits["train"]
        return {name: whole.select(part) for name, part in _hold_out(len(whole), spec).items()}
    test = next((name for name in TEST_SPLIT_NAMES if name in splits), None)
    names = {"train": "train" if "train" in splits else None, "test": test}
    return {split: splits[name] for split, name in names.items() if name is not None}


def _hold_out(count: int, spec: DatasetSpec) -> dict[str, Sequence[int]]:
    """Indices of the ``count`` images that train, and of those that are held out (see
    :func:`load`)."""
    train, test = spec.train_images, spec.test_images
    if train is not None and test is not None and count >= train + test:
        return {"train": range(train), "test": range(count - test, count)}
    order = random_order(count)
    test = max(1, count // 10)
    return {"train": sorted(order[test:]), "test": sorted(order[:test])}


def _identity(splits: Mapping[str, Surveyed]) -> str:
    """8 hex digits of every picture of every split."""
    facts = sorted((name, source.content_hash()) for name, source in splits.items())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:8]


def _variants(part: Stored, spec: DatasetSpec, split: str) -> list[str]:
    """Words that tell the pictures of a named data set from the original ones."""
    official = spec.train_images if split == "train" else spec.test_images
    variants = ["subset"] if official is not None and len(part) != official else []
    if spec.lossless and isinstance(part, Encoded):
        first = part.encoded(range(min(16, len(part))))
        if any(file.startswith(JPEG_START) for file in first):
            variants.insert(0, "jpeg")
    return variants


def _notes(label: str, parts: Mapping[str, Stored], listing: Listing) -> tuple[str, ...]:
    """Lines for a person that state which images of a folder are used and which files are not."""
    counts = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    used = sum(map(len, parts.values()))
    note = f"{label}: {used} pictures used ({counts}), {listing.skipped_words()}"
    return (note, *([f"{label}: {words}"] if (words := listing.links_words()) else []))


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
