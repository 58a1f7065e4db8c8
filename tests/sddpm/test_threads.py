"""The number of threads and their waiting, by what a machine says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sddpm import threads


def machine(root: Path, files: dict[str, str]) -> Path:
    """A file system that says this."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cores", "load", "expected"),
    [
        (1, 0, 1),
        (1, 9, 1),
        (2, 0, 2),
        (2, 4, 2),  # one would get half of the time that two get
        (8, 0.3, 8),
        (8, 8, 4),
        (64, 60, 33),  # 64² / 124
        (64, 1000, 4),
    ],
)
def test_threads_are_the_cores_that_as_many_as_cores_would_get(
    cores: int, load: float, expected: int
) -> None:
    assert threads.threads(cores, load) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        # The limit of a group above holds too.
        (
            {
                "proc/self/cgroup": "0::/user/me\n",
                "sys/fs/cgroup/user/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/user/me/cpu.max": "400000 100000\n",
            },
            2.0,
        ),
        # A container that sees its host's path, which it has not mounted.
        (
            {
                "proc/self/cgroup": "0::/docker/abc\n",
                "sys/fs/cgroup/cpu.max": "300000 100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/a\n2:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_the_quota_is_the_lowest_of_the_control_groups(
    files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    root = machine(tmp_path, files)
    assert threads.quota(root) == expected
    if expected is not None:
        assert threads.cores(root) == max(1, min(len(os.sched_getaffinity(0)), int(expected)))


@pytest.mark.parametrize(
    ("loadavg", "allowed", "there", "expected"),
    [
        ("0.10 0.10 0.10 1/200 99", 4, 4, 0.0),
        ("5.00 3.00 1.00 6/200 99", 4, 4, 5.0),
        ("4.00 4.00 4.00 1/200 99", 4, 4, 0.0),  # a command that has just ended
        ("0.20 0.00 0.00 9/200 99", 4, 4, 0.2),  # a burst
        ("32.0 32.0 32.0 33/900 99", 2, 64, 1.0),  # of a host with 64 cores, 2 of them ours
    ],
)
def test_the_load_is_that_of_others_on_these_cores(
    loadavg: str,
    allowed: int,
    there: int,
    expected: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "cores", lambda _root: allowed)
    monkeypatch.setattr(os, "cpu_count", lambda: there)
    assert threads.load(machine(tmp_path, {"proc/loadavg": loadavg})) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "load", "expected"),
    [
        ({}, 0.0, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "300000"}),
        (
            {},
            8.0,
            {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "4", "SDDPM_THREADS_CHOSEN": "4"},
        ),
        ({"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "3"}, 8.0, {}),
        ({"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": "3"}, 0.0, {}),
    ],
)
def test_nothing_of_the_users_is_changed(
    given: dict[str, str],
    load: float,
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "load", lambda: load)
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr(threads, "_affinity", lambda: 8)
    environment = dict(given)
    threads.settle(environment)
    assert environment == {**given, **expected}


def test_where_torch_is_loaded_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", os)
    environment: dict[str, str] = {}
    threads.settle(environment)
    assert environment == {}


@pytest.mark.parametrize(
    ("given", "processes", "expected"),
    [
        ({}, 1, None),
        ({}, 3, 2),
        ({}, 16, 1),
        ({"OMP_NUM_THREADS": "4", "SDDPM_THREADS_CHOSEN": "4"}, 2, 2),
        ({"OMP_NUM_THREADS": "4"}, 2, None),  # the user's
        ({"LOCAL_RANK": "1"}, 2, None),
    ],
)
def test_processes_share_the_threads(
    given: dict[str, str],
    processes: int,
    expected: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr(os, "environ", dict(given))
    assert threads.share(processes) == expected
    if expected is not None:
        assert os.environ["OMP_NUM_THREADS"] == str(expected)  # for those that are started


@pytest.mark.parametrize("package", ["sddpm", "bench", "bench.run.workers"])
def test_the_runtime_of_a_fresh_process_waits_passively(package: str) -> None:
    """By what the OpenMP runtime itself says that it read."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "SDDPM_"))
    }
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_DISPLAY_ENV": "VERBOSE"}
    ran = subprocess.run(
        [sys.executable, "-c", f"import {package}, torch; torch.ones(2).sum()"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    if "OMP_WAIT_POLICY" not in ran.stderr:
        pytest.skip("this torch's OpenMP runtime does not tell")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in ran.stderr
    spins = [line for line in ran.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert spins
    assert int(spins[0].split("'")[1]) in (0, 300_000)
