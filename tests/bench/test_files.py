"""The folder's lock holds across processes and goes with the one that held it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.files import check_file, check_folder, lock_folder

HOLD = """
import sys
from pathlib import Path
from bench.files import lock_folder
with lock_folder(Path(sys.argv[1]), first=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_processs_until_that_process_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(ValueError, match="another run is at work there"),
            lock_folder(tmp_path, first=True),
        ):
            pass
        with lock_folder(tmp_path, first=False):
            pass  # another process of the same run
    finally:
        holder.kill()
        holder.communicate()
    with lock_folder(tmp_path, first=True):
        pass


def test_trying_an_output_clears_up_after_a_killed_command(tmp_path: Path) -> None:
    dead = 999_999_999
    for name in (f".grid.png.{dead}.tmp", f".writable.{dead}.tmp"):
        (tmp_path / name).touch()
    check_file("--grid", tmp_path / "grid.png")
    check_folder("--out", tmp_path)
    assert not list(tmp_path.iterdir())
