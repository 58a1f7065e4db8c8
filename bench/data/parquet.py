"""Pictures in the rows of a table: parquet files on disk, or a data set of the Hub."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.listing import Entry, printable, read_file
from bench.data.pictures import Encoded

PARQUET_MARK = b"PAR1"
"""First and last bytes of every parquet file."""
SPLIT_WORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation",
    "val": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test",
    "evaluation": "test",
}  # fmt: skip
"""Word in a parquet file's name, or in its folders' -> the split it belongs to."""


class Table(Encoded):
    """One split of a Hugging Face data set; each row is a picture file's bytes or its path.

    Args:
        rows: rows of a ``datasets.Dataset`` with undecoded pictures.
        folder: paths in the rows are relative to it and may not leave it; None for a data set
            of the Hub, whose paths lead into the library's cache.
        classes: rows of another ``datasets.Dataset``, whose one column is the pictures' classes;
            None where there is none.
    """

    def __init__(
        self, rows: Any, column: str, where: str, folder: Path | None = None, classes: Any = None
    ) -> None:
        self.rows, self.column, self.where, self.folder = rows, column, where, folder
        self.classes = classes

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        return [self._bytes(cell) for cell in self.rows[list(indices)][self.column]]

    def _bytes(self, cell: dict[str, Any] | None) -> bytes:
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise ValueError(f"{self.where} has a row without a picture")
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        path = Path(cell["path"])
        try:
            if self.folder is not None:
                path = (self.folder / path).resolve()
                if not path.is_relative_to(self.folder.resolve()):
                    raise ValueError("it lies outside the data set's folder")
            return read_file(path)
        except (OSError, ValueError, RuntimeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            shown = printable(cell["path"])
            raise ValueError(f"picture {shown} of {self.where}: {reason}") from error

    def name(self, index: int) -> str:
        path = (self.rows[index][self.column] or {}).get("path")
        return f"picture {index}{f' ({printable(path)})' if path else ''} of {self.where}"

    def stamp(self) -> str | None:
        cells = self.rows[self.column]
        if any(cell is None or cell["bytes"] is None for cell in cells):
            return None  # pictures in files of their own, which may change
        # The library's fingerprint changes with the files' times.
        return str(self.rows._fingerprint)

    def select(self, indices: Sequence[int]) -> Table:
        classes = None if self.classes is None else self.classes.select(indices)
        return Table(self.rows.select(indices), self.column, self.where, self.folder, classes)

    def labels(self) -> NDArray[np.int64] | None:
        if self.classes is None:
            return None
        column = self.classes.column_names[0]
        classes = np.asarray(self.classes[:][column])
        if classes.dtype.kind not in "iu":
            raise ValueError(
                f"column {column!r} of {self.where} holds {classes.dtype}: expected whole numbers"
            )
        return classes.astype(np.int64)


def split_files(files: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Parquet files by split, as words in their names and folders say; all are ``train`` where
    none has such a word. Files without a word beside files with one are of no split.
    """
    splits: dict[str, list[Entry]] = {}
    for entry in files:
        # The file's own name counts before its folders'.
        parts = reversed(PurePosixPath(entry.name.lower()).parts)
        words = (word for part in parts for word in re.split(r"[^a-z]+", part))
        split = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)
        if split is not None:
            splits.setdefault(split, []).append(entry)
    return splits or {"train": list(files)}


def read_parquet(splits: dict[str, list[Entry]]) -> dict[str, Any]:
    """Rows of each split, as ``datasets.Dataset``.

    The library is handed the very files: it looks into no folder, reads no README and asks no
    network.

    Raises:
        ValueError: a file is cut short or damaged; the message names it.
        OSError: no room for the library's copy.
    """
    files = [entry for entries in splits.values() for entry in entries]
    for entry in files:
        _check_whole(entry.path)
    try:
        return _read(splits)
    except Exception as error:  # the library lets any error of damaged data through
        raise_if_disk_full(error)
        culprit, reason = _culprit(files) or (f"{files[0].shown} and the files beside it", error)
        raise ValueError(
            f"{culprit} cannot be read as images: {first_line(reason.__cause__ or reason)}"
        ) from error


def raise_if_disk_full(error: BaseException) -> None:
    """A full disk is not missing or damaged data: let it through under its own name."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            raise cause
        cause = cause.__cause__


def first_line(error: BaseException) -> str:
    """An error's words in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _culprit(files: Sequence[Entry]) -> tuple[str, Exception] | None:
    """The first file that cannot be read by itself, and why."""
    for entry in files:
        try:
            _read({"train": [entry]})
        except Exception as error:
            return entry.shown, error
    return None


def _read(splits: dict[str, list[Entry]]) -> dict[str, Any]:
    from datasets import DownloadConfig
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules.parquet.parquet import Parquet

    # Made by hand, since load_dataset would take brackets in a path for a pattern, and would
    # not notice a file that was exchanged and kept its time stamp.
    files = DataFilesDict(
        {
            split: DataFilesList(
                [str(entry.path.absolute()) for entry in entries],
                [(str(entry.path.absolute()), entry.stamp) for entry in entries],
            )
            for split, entries in splits.items()
        }
    )
    builder = Parquet(data_files=files)
    builder.download_and_prepare(download_config=DownloadConfig(download_desc="Opening files"))
    return dict(builder.as_dataset())


def _check_whole(path: Path) -> None:
    content = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(PARQUET_MARK))
        file.seek(max(0, content - len(PARQUET_MARK)))
        end = file.read()
    if start != PARQUET_MARK or end != PARQUET_MARK:
        raise ValueError(f"{path} is not a whole parquet file ({content} bytes)")
