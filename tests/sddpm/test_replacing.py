"""Files and folders that are replaced whole: what killed processes left goes, nothing else does."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sddpm.replacing import (
    STALE_SECONDS,
    atomic_directory,
    atomic_write,
    recover_folder,
    sweep_folder,
    temporary_path,
)

DEAD = 999_999_999
"""More than a process can be numbered."""
HERE = platform.node()


def test_a_name_says_who_writes(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.txt") as temporary:
        assert temporary.name == f".a.txt.{os.getpid()}@{HERE}.tmp"
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_processs_left_over_goes_at_the_next_write(kind: str, tmp_path: Path) -> None:
    for left in (f".a.{DEAD}@{HERE}.tmp", f".a.{DEAD}.tmp"):
        path = tmp_path / left
        if kind == "folder":
            path.mkdir()
            (path / "part").touch()
        else:
            path.touch()
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    """Of a process at work, of another machine, of another name, and what only looks alike."""
    names = [
        f".a.{os.getppid()}@{HERE}.tmp", f".a.{DEAD}@elsewhere.tmp", f".ab.{DEAD}@{HERE}.tmp",
        f"a.{DEAD}.tmp", ".a.tmp", ".a.12x.tmp", f".a.{DEAD}@{HERE}.old", f".b.a.{DEAD}.tmp",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {*names, "a"}


def test_another_machines_file_goes_when_it_is_a_day_old(tmp_path: Path) -> None:
    left = tmp_path / f".a.{DEAD}@elsewhere.tmp"
    left.mkdir()
    (left / "part").touch()
    old = time.time() - STALE_SECONDS - 60
    os.utime(left, (old, old))
    sweep_folder(tmp_path)
    assert left.exists(), "what is inside was written a moment ago"
    os.utime(left / "part", (old, old))
    os.utime(left, (old, old))
    sweep_folder(tmp_path)
    assert not left.exists()


def test_a_folder_is_swept_below_where_that_is_asked(tmp_path: Path) -> None:
    inside = tmp_path / "cells" / f".x.{DEAD}@{HERE}.tmp"
    inside.parent.mkdir()
    inside.touch()
    sweep_folder(tmp_path)
    assert inside.exists()
    sweep_folder(tmp_path, below=True)
    assert not inside.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="Linux tells a process's state")
def test_a_killed_process_that_nobody_asked_after_is_no_process_at_work(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    left = tmp_path / f".a.{child.pid}@{HERE}.tmp"
    left.touch()
    try:
        sweep_folder(tmp_path)
        assert left.exists(), "it is at work"
        child.kill()
        end = time.monotonic() + 10
        while left.exists() and time.monotonic() < end:
            sweep_folder(tmp_path)
            time.sleep(0.02)
        assert not left.exists()
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_was_being_replaced_is_recovered(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    new = temporary_path(folder)
    new = new.with_name(new.name.replace(str(os.getpid()), str(DEAD)))
    for path, text in ((new, "new"), (new.with_suffix(".old"), "old")):
        path.mkdir()
        (path / "x").write_text(text)
    recover_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (folder / "x").read_text() == "new"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "m") as temporary:
            (temporary / text).write_text(text)
    with pytest.raises(IsADirectoryError), atomic_directory(tmp_path / "m") as temporary:
        temporary.write_text("half")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["new"]


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="Linux tells a process's start")
def test_a_number_that_another_process_had_before_is_no_process_at_work(tmp_path: Path) -> None:
    """A restarted container gives its numbers anew: this process's to a killed one of before."""
    left, older = tmp_path / f".a.{os.getpid()}@{HERE}.tmp", time.time() - 30 * STALE_SECONDS
    left.touch()
    sweep_folder(tmp_path)
    assert left.exists(), "this process may be writing it"
    os.utime(left, (older, older))
    sweep_folder(tmp_path)
    assert not left.exists()
