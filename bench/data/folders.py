"""A folder of pictures as a source, and what identifies a user's own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.decoding import is_grey
from bench.data.listing import Archives, Entry, digest, read_file
from bench.data.pictures import Encoded, cache_folder, chunks, keep

TEST_FOLDERS = ("test", "validation", "valid", "val")
"""Folders beside ``train/`` whose pictures are kept from training, in order of preference."""
SURVEY_VERSION = b"decoded upright, on white"
"""Part of a surveyed set's identity: exchange it when files would decode to other pixels."""
SETTLED_SECONDS = 2.0
"""A file that changed less long ago can change again within the same tick of its time stamp."""
DIGEST_BYTES = 32


class Files(Encoded):
    """Pictures in files of their own, or in ZIP archives."""

    def __init__(self, entries: Sequence[Entry], where: str, archives: Archives) -> None:
        self.entries, self.where, self.archives = entries, where, archives

    def __len__(self) -> int:
        return len(self.entries)

    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        return [self._bytes(self.entries[index], index) for index in indices]

    def _bytes(self, entry: Entry, index: int) -> bytes:
        try:
            if entry.member is not None:
                return self.archives.read(entry.path, entry.member)
            return read_file(entry.path)
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise ValueError(f"{self.name(index)} cannot be read: {reason}") from error

    def name(self, index: int) -> str:
        return f"picture {self.entries[index].shown}"

    def stamp(self) -> str | None:
        newest = max((entry.changed for entry in self.entries), default=0.0)
        return digest(self.entries) if newest < time.time() - SETTLED_SECONDS else None

    def select(self, indices: Sequence[int]) -> Files:
        return Files([self.entries[index] for index in indices], self.where, self.archives)


def split_folders(names: Sequence[str]) -> dict[str, list[int]]:
    """Indices of the pictures of each split, by the paths ``names`` of all pictures.

    ``train/`` beside one of :data:`TEST_FOLDERS` (in upper or lower case, at the top or below
    folders that hold everything) are the splits, and pictures elsewhere are of none. In any
    other folder all pictures are ``train``.
    """
    parts = [name.casefold().split("/") for name in names]
    depth = 0
    while parts and all(len(p) > depth + 1 and p[depth] == parts[0][depth] for p in parts):
        depth += 1
    tops = [p[depth] if len(p) > depth + 1 else "" for p in parts]
    test = next((name for name in TEST_FOLDERS if name in tops), None)
    if test is None or "train" not in tops:
        return {"train": list(range(len(names)))}
    wanted = {"train": "train", "test": test}
    return {
        split: [index for index, top in enumerate(tops) if top == folder]
        for split, folder in wanted.items()
    }


@dataclass(frozen=True)
class Surveyed:
    """Pictures whose files were all read once, so that their content is known."""

    source: Encoded
    digests: Sequence[bytes]
    """SHA-256 of each picture's file."""
    grey: bool
    """Whether every picture of all splits is stored without colour."""

    def __len__(self) -> int:
        return len(self.source)

    def pictures(self, indices: Sequence[int]) -> list[Image.Image]:
        return self.source.pictures(indices)

    def labels(self) -> NDArray[np.int64] | None:
        return self.source.labels()

    def content_hash(self) -> str:
        return hashlib.sha256(SURVEY_VERSION + b"".join(self.digests)).hexdigest()

    def select(self, indices: Sequence[int]) -> Surveyed:
        """Some of the pictures, in the order of ``indices``."""
        digests = [self.digests[index] for index in indices]
        return Surveyed(self.source.select(indices), digests, self.grey)


def survey(source: Encoded) -> Surveyed:
    """Read every picture's file of ``source``, or use the stored result of an earlier reading.

    Raises:
        ValueError: a file is no picture, by its head; the message names it.
    """
    stamp = source.stamp()
    memo = cache_folder() / "surveys" / f"{stamp}.bin"
    known = _recall(memo, len(source)) if stamp else None
    if known is None:
        facts = []
        for chunk in chunks(len(source), f"reading {source.where}"):
            files = source.encoded(chunk)
            greys = source.each(is_grey, files, chunk)
            facts += [
                hashlib.sha256(file).digest() + bytes([grey])
                for file, grey in zip(files, greys, strict=True)
            ]
        known = b"".join(facts)
        if stamp:
            keep(memo, partial(_write, hashlib.sha256(known).digest() + known))
    rows = range(0, len(known), DIGEST_BYTES + 1)
    digests = [known[row : row + DIGEST_BYTES] for row in rows]
    return Surveyed(source, digests, all(known[row + DIGEST_BYTES] for row in rows))


def _recall(memo: Path, count: int) -> bytes | None:
    try:
        content = memo.read_bytes()
    except OSError:
        return None
    check, known = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    whole = len(known) == count * (DIGEST_BYTES + 1) and hashlib.sha256(known).digest() == check
    return known if whole else None


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)
