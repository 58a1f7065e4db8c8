"""Native kernels: which of them run here, and why.

The installed package contains kernels for common processors. On other processors, and with
``SDDPM_KERNELS=build``, the user's compiler builds them once (some seconds, with a line in the log)
into the user's cache folder. They are called through plain pointers, so they depend on no version
of torch. If there are neither kernels nor a compiler, one line says so, and callers use their
torch formulas. :mod:`sddpm.kernels.processor` explains the switch.
"""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch  # noqa: F401  # its OpenMP runtime must be there when a kernel is loaded

from sddpm.kernels.build import (
    HERE,
    SOURCES,
    cleaning_up,
    compile_kernel,
    find_compiler,
    fingerprint,
    packaged_prefix,
)
from sddpm.kernels.processor import BUILD, OFF, SWITCH, Level, limit, switch, usable_levels
from sddpm.kernels.store import RefusedError, Store

PACKAGED = HERE / "built"
"""Folder of the kernels that the installed package carries."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """Source of the kernels."""

    way: Literal["packaged", "compiled", "none"]
    level: str
    """One of :data:`sddpm.kernels.processor.LEVELS`; ``native`` for exactly this processor; empty
    without kernels."""
    why: str
    """A clause that a user can read."""


def choose() -> Choice:
    """The kernels that :func:`load` tries first.

    Raises:
        ValueError: the switch has no such value, or one that the processor cannot run.
    """
    asked = switch()
    if asked == OFF:
        return Choice("none", "", f"{SWITCH}={OFF}")
    if os.name != "posix":
        return Choice("none", "", "they are built for Linux and other Unix systems alone")
    if asked != BUILD:
        for level in usable_levels():
            if _is_packaged(level):
                return Choice(
                    "packaged",
                    level.name,
                    "the most that this processor runs" if not asked else f"{SWITCH}={asked}",
                )
    compiler = find_compiler()
    if compiler is None:
        return Choice("none", "", "the package has none for this processor and there is no C++ "
                      "compiler; install g++, or the wheel of an x86-64 Linux")  # fmt: skip
    why = f"{SWITCH}={asked}" if asked else "the package has none built for this processor"
    most = limit()
    return Choice("compiled", "native" if most is None else most.name, f"{why}, by {compiler}")


def _is_packaged(level: Level) -> bool:
    return all(any(PACKAGED.glob(f"{packaged_prefix(name, level)}-*.so")) for name in SOURCES)


@cache
def load(name: str) -> ctypes.CDLL | None:
    """The library of a source of :data:`sddpm.kernels.build.SOURCES`, or None where it cannot be
    had. May compile, at the first call."""
    choice = choose()
    try:
        if choice.way == "packaged":
            level = next(x for x in usable_levels() if x.name == choice.level)
            loaded = Store(PACKAGED, like=Path(__file__)).load(packaged_prefix(name, level))
            if loaded is not None:
                return loaded
            raise OSError(f"{PACKAGED}: {name} is damaged; install the package again")
        if choice.way == "compiled":
            return _compiled(name)
    except RefusedError as error:
        _say_once(f"native kernels are not loaded, torch operators are used (slower): {error}")
    except (OSError, RuntimeError) as error:
        _say_once(f"{name}.cpp could not be built or loaded, torch operators are used: {error}")
    else:
        if switch() != OFF:
            _say_once(f"no native kernels, torch operators are used (slower): {choice.why}")
    return None


def _compiled(name: str) -> ctypes.CDLL | None:
    compiler, most = find_compiler(), limit()
    assert compiler is not None, "choose() found one"
    flags = ("-march=native",) if most is None else most.flags
    prefix = f"{name}-{fingerprint(name, compiler, *flags, _processor())}"
    store = Store(cache_folder())
    loaded = store.load(prefix)
    if loaded is None:
        # A warning, because logging shows it without being asked: the first use waits for this.
        _log.warning(
            "compiling %s.cpp for this processor: some seconds, once (%s)", name, store.folder
        )
        with cleaning_up():
            store.build(prefix, lambda place: compile_kernel(compiler, name, flags, place))
        loaded = store.load(prefix)
    return loaded


def cache_folder() -> Path:
    """Folder of compiled kernels: ``$XDG_CACHE_HOME/sddpm/kernels`` or below ``~/.cache``.

    Raises:
        RuntimeError: the user has no home folder.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "sddpm" / "kernels"


@cache
def _say_once(text: str) -> None:
    _log.warning(text)


def _processor() -> str:
    """Description of all that -march=native depends on, so that another machine does not reuse a
    kernel from a shared cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return os.uname().machine
    return "".join(x for x in lines[:40] if x.startswith(("model name", "flags")))
