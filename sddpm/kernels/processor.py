"""Instruction sets of the processor, and the limit that a user may put on them.

``SDDPM_KERNELS`` in the environment decides which native kernels run:

- unset: those of the installed package that suit the processor, else compiled ones;
- ``build``: compiled for exactly this processor;
- a level of :data:`LEVELS`, as ``x86-64-v3``: none that need more than that level;
- ``0``: none.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SWITCH = "SDDPM_KERNELS"
"""Variable of the environment that chooses the kernels."""
OFF, BUILD = "0", "build"
"""Values of the switch that are no level."""


@dataclass(frozen=True)
class Level:
    """A set of instructions that kernels are built for."""

    name: str
    flags: tuple[str, ...]
    """Flags of the compiler for this level."""
    needs: frozenset[str]
    """The processor's features, as Linux names them in ``/proc/cpuinfo``."""


_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = (
    Level(
        "x86-64-v4-vnni-bf16",
        ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"),
        _V4 | {"avx512_vnni", "avx512_bf16"},
    ),
    Level("x86-64-v4", ("-march=x86-64-v4",), _V4),
    Level("x86-64-v3", ("-march=x86-64-v3",), _V3),
)
"""Levels that the package may carry kernels for, the most demanding first."""


@cache
def features() -> frozenset[str]:
    """The processor's features; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def name() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def switch() -> str:
    """The switch's value, empty if it is not set.

    Raises:
        ValueError: it has no such value, or the processor lacks what the level needs.
    """
    value = os.environ.get(SWITCH, "")
    levels = {level.name: level for level in LEVELS}
    if value in ("", OFF, BUILD):
        return value
    if value not in levels:
        raise ValueError(f"{SWITCH}={value}: expected {OFF}, {BUILD}, {', '.join(levels)}")
    if missing := levels[value].needs - features():
        raise ValueError(f"{SWITCH}={value}: this processor lacks {', '.join(sorted(missing))}")
    return value


def limit() -> Level | None:
    """The level that the user set as the most, if one."""
    value = switch()
    return next((level for level in LEVELS if level.name == value), None)


def allows(feature: str) -> bool:
    """Whether the user's limit leaves a feature in use; true without a limit. It does not ask
    whether the processor has it."""
    most = limit()
    return most is None or feature in most.needs


def usable_levels() -> list[Level]:
    """Levels whose code runs on this processor and that the limit allows, the most demanding
    first."""
    most = limit()
    known = features()
    return [
        level
        for level in LEVELS
        if level.needs <= known and (most is None or level.needs <= most.needs)
    ]


def kind() -> str:
    """The widest vector instructions in use, in words, as ``AVX2`` or
    ``AVX-512 with VNNI and bfloat16``: processors of one kind take the same paths of the code."""
    levels = usable_levels()
    if not levels:
        return platform.machine()
    names = {
        "x86-64-v4-vnni-bf16": "AVX-512 with VNNI and bfloat16",
        "x86-64-v4": "AVX-512",
        "x86-64-v3": "AVX2",
    }
    return names[levels[0].name]
