"""Whether an output can be written, asked before the work that it is for."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path


def check_file(option: str, path: Path) -> None:
    """See whether ``path`` can become a file or be replaced by one; nothing is left behind.

    Args:
        option: where the path was given, for the message.

    Raises:
        ValueError: it is a folder, or cannot be written.
        OSError: the disk is full.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder, expected a file")
    # As atomic_write names what it begins with.
    _try(option, path, path.with_name(f".{path.name}.{os.getpid()}.tmp"))


def check_folder(option: str, path: Path) -> None:
    """See whether files can be written in the folder ``path``, as :func:`check_file`."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} {path}: is a file, expected a folder")
    _try(option, path, path / f".{os.getpid()}.tmp")


def _try(option: str, path: Path, probe: Path) -> None:
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
