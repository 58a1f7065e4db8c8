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
import io
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sddpm.checkpoint import atomic_write
from sddpm.protocol import ImageShape

RAM_LIMIT_BYTES = 2 * 1024**3
"""A set that is larger than this once decoded is decoded batch by batch instead."""
DISK_CACHE_FLOOR_BYTES = 4 * 1024**2
"""A set smaller than this is decoded again at each start: that is quicker than a file."""
CHUNK_IMAGES = 1024
"""Pictures read from the table at a time."""
JPEG_START = b"\xff\xd8\xff"
SPLITS = ("train", "test")
TEST_SPLIT_NAMES = ("test", "validation", "valid")
"""What sources call the pictures that were kept from training, in order of preference."""


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set before a file is opened."""

    name: str
    """What the command line calls it, and its folder under the data root."""
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
        DatasetSpec("digits", None, "image", 1, 8, False, lossless=True),
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
DIGITS_TRAIN_IMAGES = 1_500


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


@dataclass(frozen=True)
class Transform:
    """Centre square, then resize. Its text is part of the fingerprint.

    Resizing is PIL's antialiased bilinear filter: what torchvision's ``Resize`` does to a PIL
    picture by default, and so what the published pipelines do to CelebA and MNIST.
    """

    channels: int
    crop: int | None
    size: int

    def __call__(self, picture: Image.Image) -> NDArray[np.uint8]:
        """uint8 ``[channels, size, size]`` of a picture of any size and mode.

        A picture smaller than ``crop`` keeps its largest centre square: it was cropped before.
        """
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        width, height = picture.size
        side = min(width, height, self.crop or width)
        if (width, height) != (side, side):
            left, top = round((width - side) / 2), round((height - side) / 2)
            picture = picture.crop((left, top, left + side, top + side))
        if side != self.size:
            picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.uint8)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


class Source(Protocol):
    """Pictures as they are stored, in a fixed order."""

    def __len__(self) -> int: ...

    def pictures(self, indices: Sequence[int]) -> list[Image.Image]:
        """The stored pictures, decoded but not transformed."""

    def content_hash(self) -> str:
        """Hash of every stored picture in order: the same on any machine."""


class Digits:
    """The 8x8 digits inside scikit-learn, values 0..16 scaled to 0..255 and rounded half up."""

    def __init__(self, split: str, limit: int | None) -> None:
        from sklearn.datasets import load_digits

        values = np.floor(load_digits().images * (255 / 16) + 0.5).astype(np.uint8)
        train, test = values[:DIGITS_TRAIN_IMAGES], values[DIGITS_TRAIN_IMAGES:]
        self.pixels = (train if split == "train" else test)[:limit]

    def __len__(self) -> int:
        return len(self.pixels)

    def pictures(self, indices: Sequence[int]) -> list[Image.Image]:
        return [Image.fromarray(self.pixels[index]) for index in indices]

    def content_hash(self) -> str:
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


class Table:
    """One split of a Hugging Face data set; each row is a picture file's bytes or its path."""

    def __init__(self, rows: Any, column: str, where: str) -> None:
        self.rows, self.column, self.where = rows, column, where

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, indices: Iterable[int]) -> list[bytes]:
        """The picture files' bytes.

        Raises:
            ValueError: a picture's file is gone.
        """
        return [self._bytes(cell) for cell in self.rows[list(indices)][self.column]]

    def _bytes(self, cell: dict[str, Any]) -> bytes:
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        try:
            return Path(cell["path"]).read_bytes()
        except OSError as error:
            raise ValueError(f"picture {cell['path']} of {self.where}: {error.strerror}") from error

    def pictures(self, indices: Sequence[int]) -> list[Image.Image]:
        """Decoded pictures.

        Raises:
            ValueError: a file is no picture or is cut short; the message names it.
        """
        files = self.encoded(indices)
        # PIL frees the interpreter while it decodes, so threads pay off on photographs.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(self._decode, files, indices))

    def _decode(self, file: bytes, index: int) -> Image.Image:
        try:
            picture = Image.open(io.BytesIO(file))
            picture.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            path = self.rows[index][self.column]["path"]
            name = f" ({path})" if path else ""
            raise ValueError(
                f"picture {index}{name} of {self.where} cannot be decoded: {error}"
            ) from error
        return picture

    def content_hash(self) -> str:
        # Reading every byte takes seconds on a large set, so it is done once per version of
        # the source; the library's own fingerprint changes with the files' times.
        memo = cache_folder() / "content" / f"{self.rows._fingerprint}.txt"
        if memo.is_file() and len(known := memo.read_text().strip()) == 64:
            return known
        digest = hashlib.sha256()
        for chunk in _chunks(len(self), f"reading {self.where}"):
            for file in self.encoded(chunk):
                digest.update(len(file).to_bytes(8, "little"))
                digest.update(file)
        _keep(memo, lambda path: path.write_text(digest.hexdigest()))
        return digest.hexdigest()


class Images(Dataset[Tensor]):
    """Pictures of one split as uint8, in a fixed order.

    A set of up to 2 GiB is decoded into memory at the first access and kept on disk under the
    user's cache folder; a larger one is decoded for each batch. With a ``DataLoader`` give
    ``collate_fn=torch.as_tensor``, since a batch arrives as one tensor.
    """

    def __init__(
        self, source: Source, transform: Transform, *, label: str, horizontal_flip: bool
    ) -> None:
        self.source, self.transform = source, transform
        self.label = label
        """What a table calls the data, variants named: ``cifar10 (jpeg)``."""
        self.horizontal_flip = horizontal_flip
        """Whether training mirrors half of the pictures."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor:
        """uint8 ``[channels, size, size]``."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """uint8 ``[len(indices), channels, size, size]``; indices in [0, len)."""
        count = len(self)
        for index in indices:
            if not 0 <= index < count:
                raise IndexError(f"image {index} of {self.label}: legal are 0 to {count - 1}")
        if self.decoded_bytes > RAM_LIMIT_BYTES:
            return torch.from_numpy(self._decode(list(indices)))
        return torch.from_numpy(self._decoded[np.asarray(indices, dtype=np.int64)])

    @property
    def shape(self) -> ImageShape:
        """Channels and size of every image."""
        return ImageShape(self.transform.channels, self.transform.size)

    @property
    def decoded_bytes(self) -> int:
        """Size of the whole set once decoded."""
        return len(self) * self.transform.channels * self.transform.size**2

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all stored pictures and the transform, 32 hex digits, the same anywhere."""
        text = f"{self.source.content_hash()} {self.transform}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @cached_property
    def _decoded(self) -> NDArray[np.uint8]:
        shape = (len(self), self.transform.channels, self.transform.size, self.transform.size)
        if self.decoded_bytes < DISK_CACHE_FLOOR_BYTES:
            return self._decode(range(len(self)))
        path = cache_folder() / "decoded" / f"{self.fingerprint}.npy"
        try:
            known = np.load(path)
            if known.shape == shape and known.dtype == np.uint8:
                return known
        except (OSError, ValueError, EOFError):
            pass  # absent, or cut short by another program: decode again
        pixels = np.empty(shape, np.uint8)
        for chunk in _chunks(len(self), f"decoding {self.label}"):
            pixels[chunk.start : chunk.stop] = self._decode(chunk)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.save(file, pixels)

        _keep(path, write)
        return pixels

    def _decode(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return np.stack([self.transform(picture) for picture in self.source.pictures(indices)])


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
        digits = Digits(split, limit)
        return Images(digits, Transform(1, None, size), label="digits", horizontal_flip=False)
    table, variants = _open_table(spec, split, data_root, limit)
    channels = spec.channels or (1 if table.pictures([0])[0].mode in ("1", "L") else 3)
    label = f"{spec.name} ({', '.join(variants)})" if variants else spec.name
    transform = Transform(channels, spec.crop, size)
    return Images(table, transform, label=label, horizontal_flip=spec.horizontal_flip)


def cache_folder() -> Path:
    """Where decoded sets are kept: ``$XDG_CACHE_HOME/sddpm-bench`` or ``~/.cache/sddpm-bench``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sddpm-bench"


def _open_table(
    spec: DatasetSpec, split: str, data_root: str | Path | None, limit: int | None
) -> tuple[Table, list[str]]:
    """One split of a stored data set, and the words that tell it from the original."""
    splits, where = _load_splits(spec, data_root)
    names = [split] if split == "train" else [a for a in TEST_SPLIT_NAMES if a in splits][:1]
    if names and names[0] in splits:
        rows = splits[names[0]]
    elif spec.holds_out and list(splits) == ["train"] and len(splits["train"]) > 1:
        rows = _hold_out(splits["train"], spec, split)
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
        raise ValueError(f"{folder} cannot be read as images: {_first_line(error)}") from error


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
    """Name the broken file, which the library's own error does not."""
    import pyarrow
    import pyarrow.parquet

    for path in sorted(folder.rglob("*.parquet")):
        try:
            pyarrow.parquet.read_metadata(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(
                f"{path} is not a readable parquet file: {_first_line(error)}"
            ) from error


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


def _chunks(count: int, what: str) -> Iterable[range]:
    starts = tqdm(range(0, count, CHUNK_IMAGES), what, unit="chunk", leave=False, disable=None)
    for start in starts:
        yield range(start, min(start + CHUNK_IMAGES, count))


def _keep(path: Path, write: Any) -> None:
    """Write a cache file whole or not at all; a cache that cannot be written is only slower."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            write(temporary)
    except OSError as error:
        warnings.warn(f"cache {path} could not be written: {error.strerror}", stacklevel=2)


def _raise_if_disk_full(error: BaseException) -> None:
    """A full disk is not missing data: let it through under its own name."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            raise cause
        cause = cause.__cause__


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
