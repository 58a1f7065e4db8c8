"""Files and folders that are written completely or not at all, and the removal of unfinished ones.

A file or folder called NAME is made as ``.NAME.PID@HOST.tmp`` beside it and takes its name in one
step. A file system cannot swap two folders in one step. So the old folder first moves to
``.NAME.PID@HOST.old``, and is removed last. A kill between the two moves leaves no folder of the
name, but both folders complete.

Files of a killed process are removed before the same name is written again. Files of a running
process are never touched.
"""

from __future__ import annotations

import errno
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STALE_SECONDS = 86400.0
"""Age of another machine's unfinished file from which on no process is taken to work on it."""
CLOCKS_DIFFER_SECONDS = 60.0
"""Largest difference between the clocks of files and of processes."""
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)(?:@(?P<host>.*))?\.(?P<ending>tmp|old)")
# Names without a host are of older versions.


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes ``path``'s place in one step,
    on failure (a full disk, a kill) ``path`` is as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_unfinished(path)
    temporary = temporary_path(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _name_path(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` when the block succeeds.
    An existing ``path`` is replaced."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    sweep_unfinished(path)
    temporary = temporary_path(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        _replace_folder(path, temporary)
    except OSError as error:
        raise _name_path(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """Temporary path where this process writes the content of ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}@{platform.node()}.tmp")


def recover_folder(path: Path) -> None:
    """Finish the replacement of ``path`` that a killed process began; running processes are left
    alone.

    A folder that was to be replaced becomes the new one, which was complete.
    """
    for old in _left(path, "old"):
        new = old.with_suffix(".tmp")
        if not path.exists():
            (new if new.is_dir() else old).rename(path)
        shutil.rmtree(old, ignore_errors=True)


def sweep_unfinished(path: Path) -> None:
    """Remove the temporary files that killed processes left for ``path``."""
    for left in _left(path, "tmp"):
        _remove(left)


def sweep_folder(folder: Path, *, below: bool = False) -> None:
    """Remove the temporary files that killed processes left in ``folder``.

    Args:
        below: search the folders inside as well.
    """
    for found in list(folder.rglob(".*.tmp") if below else folder.glob(".*.tmp")):
        match = _UNFINISHED.fullmatch(found.name)
        if match and _is_abandoned(found, match):
            _remove(found)


def _replace_folder(path: Path, new: Path) -> None:
    """Put the complete folder ``new``, the temporary one of ``path``, in its place."""
    if not path.exists():
        new.rename(path)
        return
    old = new.with_suffix(".old")
    path.rename(old)
    new.rename(path)
    shutil.rmtree(old)


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with suppress(OSError):  # another process's sweep, or a folder that cannot be written
            left.unlink()


def _left(path: Path, ending: str) -> Iterator[Path]:
    """Temporary files with this ending that killed processes left beside ``path``."""
    if not path.parent.is_dir():
        return
    for found in sorted(path.parent.iterdir()):
        match = _UNFINISHED.fullmatch(found.name)
        ours = match and (match["name"], match["ending"]) == (path.name, ending)
        if match and ours and _is_abandoned(found, match):
            yield found


def _is_abandoned(found: Path, match: re.Match[str]) -> bool:
    """Whether no running process works on a file or folder whose name matched."""
    inside = found.iterdir() if found.is_dir() else ()
    try:
        changed = max(place.stat().st_mtime for place in (found, *inside))
    except OSError:  # it is finished, or swept, meanwhile
        return False
    if match["host"] in (None, platform.node()):
        process = int(match["process"])
        # A restarted container gives its numbers anew.
        return not _alive(process) or changed < _began(process) - CLOCKS_DIFFER_SECONDS
    return time.time() - changed > STALE_SECONDS


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        # A killed process whose parent has not asked after it yet writes no more.
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or ended meanwhile
        return True
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")


def _began(process: int) -> float:
    """Time at which a process began, as ``time.time()``; before all times if not known."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        ticks = float(state.rpartition(")")[2].split()[19])
        machine = Path("/proc/stat").read_text(encoding="utf-8", errors="replace")
        booted = float(machine.partition("\nbtime ")[2].split()[0])
    except (OSError, IndexError, ValueError):
        return -math.inf
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def _name_path(error: OSError, path: Path) -> OSError:
    """Rewrite ``error`` with the requested path in place of the temporary one."""
    if error.errno == errno.ENOSPC:
        return OSError(errno.ENOSPC, "no space left on the disk; nothing was changed", str(path))
    if error.errno is not None and str(error.filename).startswith(str(temporary_path(path))):
        return OSError(error.errno, error.strerror, str(path))
    return error
