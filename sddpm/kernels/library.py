"""Native kernels are compiled on first use, with the machine's own compiler.

A source is built once a machine (some seconds; the log says so) into the user's cache directory,
and called through plain pointers, so it depends on no version of torch. Where there is no
compiler, there is no library and callers use their torch formulas. ``SDDPM_KERNELS=0`` in the
environment does the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_FLAGS = [
    *("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-fopenmp"),
    *("-fno-math-errno", "-fno-trapping-math"),
]
_log = logging.getLogger(__name__)


def compiled(source: Path, *flags: str) -> ctypes.CDLL | None:
    """The library of a source, built if it is not in the cache; None where that fails."""
    if os.environ.get("SDDPM_KERNELS") == "0":
        return None
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        _log.info("no C++ compiler found: %s is left out, slower", source.name)
        return None
    try:
        return ctypes.CDLL(str(_build(compiler, source, [*_FLAGS, *flags])))
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("%s could not be built, torch operators are used: %s", source.name, error)
        return None


def _build(compiler: str, source: Path, flags: list[str]) -> Path:
    """Path of the shared library for this source, compiler and processor; built if missing."""
    key = hashlib.sha256()
    for part in (source.read_bytes(), " ".join([compiler, *flags]).encode(), _processor()):
        key.update(part)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sddpm"
    target = root / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if target.is_file():
        return target
    # A warning, because logging shows it without being asked: the first use waits for this.
    _log.warning("compiling %s for this processor: some seconds, once (%s)", source.name, target)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        built = Path(folder) / "kernels.so"
        command = [compiler, *flags, str(source), "-o", str(built)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        os.replace(built, target)  # atomic: another process sees all of it or nothing
    return target


def _processor() -> bytes:
    """What -march=native depends on, so that a shared cache never serves another machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return os.uname().machine.encode()
    return "".join(x for x in lines[:40] if x.startswith(("model name", "flags"))).encode()
