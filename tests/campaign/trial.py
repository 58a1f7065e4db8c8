"""One command in a process of its own, which dies at the n-th change of a file.

Everything heavy is imported here, and the compiled kernels are loaded, so that a fork server that
loads this module makes a trial cost no more than the command's own work.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers  # noqa: F401
import scipy.stats  # noqa: F401
import seaborn  # noqa: F401
import timm  # noqa: F401
import torch

import bench.convert.run
import bench.guide.run
import bench.report.write
import bench.run.runner  # noqa: F401
from bench.cli import main
from sddpm.kernels.build import SOURCES
from sddpm.kernels.library import load

for source in SOURCES:  # once, where a trial's empty cache would have each compile them anew
    load(source)

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}
"""Audit events of Python that change a folder; and "open", where it is for writing."""


def run(arguments: Sequence[str], home: str, report: str, last: int | None) -> None:
    """Run a command in this process, and write its exit code, its words and the number of changes
    under ``home`` to the file ``report``.

    Args:
        last: the change before which the process is killed; None: it ends by itself.
    """
    count = 0

    def watch(event: str, facts: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = facts
            change = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            path, change = (facts[0] if facts else None), event in CHANGES
        named = change and isinstance(path, str | bytes | os.PathLike)
        if named and os.path.abspath(os.fsdecode(path)).startswith(home):
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = f"{home}/cache"
    os.environ.pop("SDDPM_DATA_ROOT", None)
    os.chdir(home)
    code: Any = 0
    with open(f"{report}.log", "w", encoding="utf-8") as words:
        sys.addaudithook(watch)
        with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
            try:
                main([str(argument) for argument in arguments])
            except SystemExit as stop:
                code = stop.code or 0
    said = Path(f"{report}.log").read_text(encoding="utf-8")
    Path(report).write_text(json.dumps({"code": code, "changes": count, "said": said}))
