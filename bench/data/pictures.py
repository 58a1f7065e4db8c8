"""Stored pictures to uint8 tensors: reading, decoding, cropping, resizing, keeping the result.

Knows no data set by name; :mod:`bench.data.datasets` does.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from bench.data.decoding import decode
from sddpm.progress import progress_bar
from sddpm.protocol import ImageShape
from sddpm.replacing import atomic_write

RAM_LIMIT_BYTES = 2 * 1024**3
"""A set that is larger than this once decoded is decoded batch by batch instead."""
DISK_CACHE_FLOOR_BYTES = 4 * 1024**2
"""A set smaller than this is decoded again at each start: that is quicker than a file."""
CHUNK_IMAGES = 1024
"""Pictures read at a time."""

T = TypeVar("T")


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
        """The stored pictures, decoded (mode ``L`` or ``RGB``) but not transformed."""

    def content_hash(self) -> str:
        """Hash of every stored picture in order: the same on any machine."""

    def labels(self) -> NDArray[np.int64] | None:
        """The class of every picture; None where none is stored.

        Raises:
            ValueError: a label is no whole number.
        """


class Pixels:
    """Grey pictures that are in memory already, uint8 ``[n, height, width]``, and their classes."""

    def __init__(self, pixels: NDArray[np.uint8], classes: NDArray[np.int64] | None = None) -> None:
        self.pixels, self.classes = pixels, classes

    def __len__(self) -> int:
        return len(self.pixels)

    def pictures(self, indices: Sequence[int]) -> list[Image.Image]:
        return [Image.fromarray(self.pixels[index]) for index in indices]

    def content_hash(self) -> str:
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()

    def labels(self) -> NDArray[np.int64] | None:
        return self.classes


class Encoded(ABC):
    """Pictures as bytes of picture files."""

    where: str
    """Words for where they are."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        """The picture files' bytes.

        Raises:
            ValueError: a picture's file is gone, or no file; the message names it.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Words for one picture in an error."""

    @abstractmethod
    def stamp(self) -> str | None:
        """Text that changes when any picture changes, and is quick to compute. None: not known
        yet."""

    @abstractmethod
    def select(self, indices: Sequence[int]) -> Encoded:
        """Some of the pictures, in the order of ``indices``."""

    def labels(self) -> NDArray[np.int64] | None:
        """None: files of pictures name no class."""
        return None

    def pictures(self, indices: Sequence[int]) -> list[Image.Image]:
        """Decoded pictures.

        Raises:
            ValueError: a file is no picture or is cut short; the message names it.
        """
        return self.each(decode, self.encoded(indices), indices)

    def each(
        self, read: Callable[[bytes], T], files: Sequence[bytes], indices: Sequence[int]
    ) -> list[T]:
        """Results of ``read`` for each of ``files``, which are those of ``indices``.

        Raises:
            ValueError: ``read`` did; the message names the picture.
        """

        def one(file: bytes, index: int) -> T:
            try:
                return read(file)
            except ValueError as error:
                raise ValueError(f"{self.name(index)} cannot be decoded: {error}") from error

        # PIL frees the interpreter while it decodes, so threads pay off on photographs.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(one, files, indices))

    def content_hash(self) -> str:
        # Reading every byte takes seconds on a large set, so it is done once per version of
        # the source.
        stamp = self.stamp()
        memo = cache_folder() / "content" / f"{stamp}.txt"
        if stamp and memo.is_file() and len(known := memo.read_text().strip()) == 64:
            return known
        digest = hashlib.sha256()
        for chunk in chunks(len(self), f"reading {self.where}"):
            for file in self.encoded(chunk):
                digest.update(len(file).to_bytes(8, "little"))
                digest.update(file)
        if stamp:
            keep(memo, lambda path: path.write_text(digest.hexdigest()))
        return digest.hexdigest()


class Images(Dataset[Tensor]):
    """Pictures of one split as uint8, in a fixed order.

    A set of up to 2 GiB is decoded into memory at the first access and kept on disk under the
    user's cache folder; a larger one is decoded for each batch. With a ``DataLoader`` give
    ``collate_fn=torch.as_tensor``, since a batch arrives as one tensor.
    """

    def __init__(
        self, source: Source, transform: Transform, *, label: str, horizontal_flip: bool,
        notes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.source, self.transform = source, transform
        self.label = label
        """Name of the data in tables, with its variant: ``cifar10 (jpeg)``."""
        self.horizontal_flip = horizontal_flip
        """Whether training mirrors half of the pictures."""
        self.notes = notes
        """Lines for a person: which files were used and which were not."""

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

    @cached_property
    def labels(self) -> Tensor | None:
        """The class of every image, ``[len]`` int64; None where none is stored."""
        classes = self.source.labels()
        return None if classes is None else torch.from_numpy(classes)

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
        except Exception:
            pass  # absent, or damaged by another program: decode again
        pixels = np.empty(shape, np.uint8)
        for chunk in chunks(len(self), f"decoding {self.label}"):
            pixels[chunk.start : chunk.stop] = self._decode(chunk)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.save(file, pixels)

        keep(path, write)
        return pixels

    def _decode(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return np.stack([self.transform(picture) for picture in self.source.pictures(indices)])


def cache_folder() -> Path:
    """Folder of decoded data sets: ``$XDG_CACHE_HOME/sddpm-bench`` or ``~/.cache/sddpm-bench``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sddpm-bench"


def chunks(count: int, what: str) -> Iterator[range]:
    """[0, count) in pieces, behind a progress bar where a person watches."""
    starts = range(0, count, CHUNK_IMAGES)
    with progress_bar(what, count, "images", shown=len(starts) > 1, passing=True) as bar:
        for start in starts:
            chunk = range(start, min(start + CHUNK_IMAGES, count))
            yield chunk
            bar.advance(len(chunk))


def keep(path: Path, write: Callable[[Path], object]) -> None:
    """Write a cache file whole or not at all; a cache that cannot be written is only slower."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            write(temporary)
    except OSError as error:
        warnings.warn(f"cache {path} could not be written: {error.strerror}", stacklevel=2)
