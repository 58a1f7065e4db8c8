"""One run at a time in a folder, which begins by clearing up after a killed one."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(root: Path, first: bool) -> Iterator[None]:
    """Hold the folder for this run or training. The lock goes with the process, however it ends.

    Args:
        first: whether this is the process that writes; the others of its run pass.

    Raises:
        ValueError: another run is at work there.
    """
    if not first:
        yield
        return
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"--out {root}: another run is at work there") from error
        sweep(root)
        yield


def sweep(root: Path) -> None:
    """Remove what a killed run or training had begun to write; a run in a folder below may be at
    work, so only in this one's own places."""
    places = ("trainings", "cells", "steps", "parents")
    below = [path for place in places for path in (root / place).rglob(".*.tmp")]
    for path in (*root.glob(".*.tmp"), *below):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
