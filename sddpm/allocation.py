"""Large blocks of memory, which this process keeps for the next tensor instead of giving them back.

glibc maps every block above 32 MiB anew and unmaps it when it is freed; it also gives the end of
its heap back once that is free. The kernel then clears each new block page by page, though a
network asks for the same sizes in every layer of every batch. So :func:`keep` raises both limits.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping

MAPPED_ABOVE = 1 << 30
"""Bytes above which a block is mapped by itself. glibc's own limit grows to 32 MiB at most."""
KEPT = 1 << 30
"""Bytes at the end of the heap that stay with the process when they are free."""
# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
_TUNABLES = "GLIBC_TUNABLES"


def keep(environment: Mapping[str, str] = os.environ) -> bool:
    """Let glibc keep freed memory for this process: blocks of up to 1 GiB inside its heap, and up
    to 1 GiB at the end of it.

    Nothing happens where the user set one of glibc's own limits, and without glibc.

    Args:
        environment: where a user would have set them.

    Returns:
        Whether the limits are set now.
    """
    mallopt = None if chosen(environment) else _mallopt()
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_ABOVE) and mallopt(_M_TRIM_THRESHOLD, KEPT))


def chosen(environment: Mapping[str, str]) -> str | None:
    """Name of the variable in which the user chose limits of glibc's memory, if there is one."""
    for name in _VARIABLES:
        if name in environment:
            return name
    return _TUNABLES if "glibc.malloc." in environment.get(_TUNABLES, "") else None


def describe() -> tuple[str, str]:
    """Fate of freed memory, and why."""
    variable = chosen(os.environ)
    if variable is not None:
        return "by your limits", f"{variable} is set"
    if _mallopt() is None:
        return "by the system", "the C library is not glibc"
    return "kept", f"up to {MAPPED_ABOVE >> 30} GiB a block: layers ask for the same sizes"


def _mallopt() -> Callable[[int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    # musl and others have no such function.
    return getattr(ctypes.CDLL(None), "mallopt", None)
