"""Folders that are replaced whole, and what a process that was killed in between leaves.

A file system swaps no two folders in one step: the old one moves to ``.NAME.PID.old``, the new
one from ``.NAME.PID.tmp`` to its name, then the old one is removed. A kill between the first two
leaves nothing under the name, but both folders complete.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path


def replace_folder(path: Path, new: Path) -> None:
    """Put the complete folder ``new``, a ``.NAME.PID.tmp`` of ``path``, in its place."""
    if not path.exists():
        new.rename(path)
        return
    old = new.with_suffix(".old")
    path.rename(old)
    new.rename(path)
    shutil.rmtree(old)


def recover_folder(path: Path) -> None:
    """Finish what killed processes began with ``path``; a process at work is left alone.

    A folder that was to be replaced becomes the new one, which was complete.
    """
    for old in _left(path, "old"):
        new = old.with_suffix(".tmp")
        if not path.exists():
            (new if new.is_dir() else old).rename(path)
        shutil.rmtree(old, ignore_errors=True)


def sweep_unfinished(path: Path) -> None:
    """Remove what killed processes left of a file or folder that was to become ``path``."""
    for left in _left(path, "tmp"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _left(path: Path, ending: str) -> Iterator[Path]:
    """The ``.NAME.PID.ending`` beside ``path`` whose process is no more."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.{ending}")
    if not path.parent.is_dir():
        return
    for found in sorted(path.parent.iterdir()):
        match = pattern.fullmatch(found.name)
        if match and not _alive(int(match[1])):
            yield found


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
