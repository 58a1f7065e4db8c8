"""Files of the harness: JSON written completely, outputs tested before the work, one run at a time
in a folder."""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sddpm.replacing import atomic_write, sweep_folder, sweep_unfinished, temporary_path


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_text(path: Path) -> str:
    """The text of a file; ValueError if it is not in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason})") from error


def csv_rows(
    text: str, where: str, needed: Collection[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of a CSV, behind its place: ``where`` and the line that it ends in.

    Raises:
        ValueError: a column of ``needed`` is missing, a row has more or fewer cells than there are
            columns, or the text is no CSV.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = list(reader.fieldnames or [])
        if lacking := [name for name in needed if name not in columns]:
            wanted = f"expected the columns {', '.join(needed)}"
            raise ValueError(f"{where}: has no column {', '.join(lacking)}; {wanted}")
        for row in reader:
            place = f"{where}, line {reader.line_num}"
            # What is too much stands under None; what is too little is None.
            if None in row or None in row.values():
                raise ValueError(f"{place}: expected {len(columns)} columns")
            yield place, row
    except csv.Error as error:
        raise ValueError(f"{where}, line {reader.line_num}: not CSV ({error})") from error


def read_json(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON object; ValueError if the file is damaged or lacks one of ``keys``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete it to redo it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object; delete it to redo it")
    lacking = [key for key in keys if key not in content]
    if lacking:
        raise ValueError(f"{path}: does not say {', '.join(lacking)}; delete it to redo it")
    return content


def check_file(option: str, path: Path) -> None:
    """Check that a file can be written at ``path``, before the work that it is for.

    Nothing is left behind, by this process or by a killed one.

    Args:
        option: names where the path was given, for the message.

    Raises:
        ValueError: ``path`` is a folder, or cannot be written.
        OSError: the disk is full.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder, expected a file")
    sweep_unfinished(path)
    _try_write(option, path, temporary_path(path))


def check_folder(option: str, path: Path) -> None:
    """Check that files can be written in the folder ``path``, as :func:`check_file` does."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} {path}: is a file, expected a folder")
    probe = path / "writable"
    sweep_unfinished(probe)
    _try_write(option, path, temporary_path(probe))


def _try_write(option: str, path: Path, probe: Path) -> None:
    folder = probe.parent
    made = [home for home in (folder, *folder.parents) if not home.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ValueError(f"{option} {path}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
            for home in made:
                home.rmdir()


@contextmanager
def lock_folder(root: Path, first: bool) -> Iterator[None]:
    """Keep every other run out of the folder ``root``, and clear up after a killed one.

    The operating system releases the lock when the process ends, however it ends.

    Args:
        first: whether this is the process that writes; the others of its run take no lock.

    Raises:
        ValueError: another run is at work there.
    """
    if not first:
        yield
        return
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"--out {root}: another run is at work there") from error
    try:
        sweep(root)
        yield
    finally:
        lock.release()


def sweep(root: Path) -> None:
    """Remove the unfinished files of killed processes in the run's or training's folder ``root``.

    Only this run's own folders are searched: a run in another folder below may be at work.
    """
    sweep_folder(root)
    for place in ("trainings", "cells", "steps", "parents"):
        sweep_folder(root / place, below=True)
