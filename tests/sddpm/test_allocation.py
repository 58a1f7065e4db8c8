"""Memory that is freed and asked for again: the kernel's page faults tell whether it was kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from sddpm import allocation

_FAULTS = """
import resource, sys
import sddpm, torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def layer():
    torch.empty(12 << 20).fill_(1)  # 48 MiB: more than glibc's own limit grows to
# The first few still move: what is left over by alignment waits in a cache of 7 a size.
for _ in range(12):
    layer()
before = faults()
for _ in range(5):
    layer()
print(faults() - before)
"""
_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def faults(**variables: str) -> int:
    """Page faults of five tensors of 48 MiB, each freed before the next, in a new process."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if allocation.chosen({name: value}) is None
    }
    run = [sys.executable, "-c", _FAULTS]
    ran = subprocess.run(run, env=ours | variables, capture_output=True, text=True, check=True)
    return int(ran.stdout)


@_glibc
def test_a_tensor_gets_the_pages_of_the_one_before() -> None:
    # Of 4 KiB pages, 48 MiB have 12,288; huge pages of 2 MiB would be 24.
    kept, given_back = faults(), faults(MALLOC_MMAP_THRESHOLD_=str(1 << 20))
    assert given_back >= 5 * 24
    assert kept < given_back / 4


def test_limits_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("asked glibc")

    monkeypatch.setattr(allocation, "_mallopt", refuse)
    for name, value in (
        ("MALLOC_MMAP_THRESHOLD_", "65536"),
        ("MALLOC_TRIM_THRESHOLD_", "0"),
        ("MALLOC_TOP_PAD_", "4096"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    ):
        assert not allocation.keep({name: value})
        monkeypatch.setenv(name, value)
        assert allocation.describe() == ("by your limits", f"{name} is set")
        monkeypatch.delenv(name)
    # A tunable of another part of the library is no choice of ours.
    assert allocation.chosen({"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}) is None


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_mallopt", lambda: None)
    assert not allocation.keep({})


def test_both_limits_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, int] = {}

    def mallopt(parameter: int, value: int) -> int:
        asked[parameter] = value
        return 1

    monkeypatch.setattr(allocation, "_mallopt", lambda: mallopt)
    assert allocation.keep({})
    # malloc.h: M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD is -3; 1 GiB each.
    assert asked == {-1: 1073741824, -3: 1073741824}
