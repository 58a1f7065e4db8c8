"""Folders of built kernels, from which nothing is loaded that another user could have put there.

A file is called ``PREFIX-CONTENT.so``: the prefix says what it was built from, and the last part
is a hash of the content, so a file that is cut short or damaged is known before it is loaded.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sddpm.kernels.build import digest

_WAIT_SECONDS = 300.0
"""The longest that a process waits for another one's compilation."""
_STALE_SECONDS = 3600.0
"""Age from which a compilation's folder counts as abandoned."""
_BUILDING = "building-"
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class RefusedError(PermissionError):
    """Another user owns a file or can write it."""


@dataclass(frozen=True)
class Store:
    """One folder of built kernels."""

    folder: Path
    like: Path | None = None
    """A file of the program. Its owner, and users who may write it, could change the code anyway,
    so they may own and write the folder too. None: the user and root alone."""

    def load(self, prefix: str) -> ctypes.CDLL | None:
        """The library that was built from the source that ``prefix`` identifies. None if there is
        none, or if its content has changed since it was built.

        Raises:
            RefusedError: another user owns the folder or the file, or can write it.
            OSError: the folder cannot be read, or the library cannot be loaded.
        """
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            return self._load(folder, prefix)
        finally:
            os.close(folder)

    def _load(self, folder: int, prefix: str) -> ctypes.CDLL | None:
        self._check(os.fstat(folder), self.folder)
        for name in sorted(os.listdir(folder)):
            if not (name.startswith(f"{prefix}-") and name.endswith(".so")):
                continue
            path = self.folder / name
            try:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            except FileNotFoundError:  # another process found it damaged
                continue
            except OSError as error:
                raise RefusedError(f"{path}: {error.strerror}") from error
            with open(file, "rb") as opened:
                self._check(os.fstat(file), path)
                content = opened.read()
            if digest(content) == name.removeprefix(f"{prefix}-").removesuffix(".so"):
                # By the open folder: its path could lead elsewhere by now.
                held = f"/proc/self/fd/{folder}"
                return ctypes.CDLL(f"{held if os.path.isdir(held) else self.folder}/{name}")
        return None

    def _check(self, found: os.stat_result, path: Path) -> None:
        owners, writable = {os.geteuid(), 0}, 0
        if self.like is not None:
            program = self.like.stat()
            owners.add(program.st_uid)
            writable = program.st_mode & _OTHERS
        if found.st_uid not in owners:
            raise RefusedError(f"{path}: belongs to another user (number {found.st_uid})")
        if found.st_mode & _OTHERS & ~writable:
            mode = stat.S_IMODE(found.st_mode)
            raise RefusedError(f"{path}: others can write it (mode {mode:o}); chmod go-w it")

    def build(self, prefix: str, compile_into: Callable[[Path], Path]) -> None:
        """Put a library into the folder, unless another process does so meanwhile.

        Args:
            prefix: the first part of the file's name.
            compile_into: makes the library in the folder it is given.

        Raises:
            RefusedError: another user owns the folder or can write it.
            OSError: the folder cannot be written, or the compilation failed.
        """
        _make_private(self.folder)
        self._check(self.folder.stat(), self.folder)
        with _alone(self.folder):
            self._sweep()
            if self._is_there(prefix):
                return
            with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=self.folder) as place:
                built = compile_into(Path(place))
                content = built.read_bytes()
                built.chmod(0o700)
                _to_disk(built)
                # Atomic: another process sees all of it or nothing.
                os.replace(built, self.folder / f"{prefix}-{digest(content)}.so")
            _to_disk(self.folder)

    def _is_there(self, prefix: str) -> bool:
        """Whether the library is there and whole; one that is not is removed."""
        for path in self.folder.glob(f"{prefix}-*.so"):
            if path.name == f"{prefix}-{digest(path.read_bytes())}.so":
                return True
            path.unlink()
        return False

    def _sweep(self) -> None:
        """Remove the folders of killed compilations."""
        for place in self.folder.glob(f"{_BUILDING}*"):
            with suppress(OSError):
                if time.time() - place.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(place)


def _make_private(folder: Path) -> None:
    """Make a folder and those above it that are missing, for the user alone whatever the umask."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time compile. After a long wait, or on a file system without locks,
    several may compile."""
    import fcntl  # here, since Windows has none and need not: it gets no native kernels

    opened = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < end:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(opened)


def _to_disk(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
