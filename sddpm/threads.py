"""Number of computing threads, and the way in which they wait for each other.

OpenMP's threads spin while they wait, and by default there is one for each core. Where other
programs use the cores too, spinning takes from them and from ourselves, and the slowest thread
holds up all. So :func:`settle` asks for threads that sleep at once where the machine is not idle,
and for as many as cores are likely to be had: by the process's affinity, its container's quota and
the load of the moment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables with which a user may have set the waiting."""
COUNT = "OMP_NUM_THREADS"
CHOSEN = "SDDPM_THREADS_CHOSEN"
"""Holds the number of threads where it is :func:`settle`'s choice and not the user's."""
_SPINS = "300000"
"""Turns of the waiting loop before a thread sleeps, on an idle machine: GNU's own number. Waking a
thread takes longer than the short loops of a network: with a third of the turns an evaluation
takes 4 % longer on Zen 3 and 10 % longer on a virtual Zen 4, with none a third longer there."""
IDLE = 0.5
"""Threads of others below which the machine counts as idle."""


def settle(environment: MutableMapping[str, str] | None = None) -> None:
    """Set what OpenMP reads when it is loaded with torch; nothing that the user has set, and
    nothing once torch is there.

    Args:
        environment: where to set it; that of the process if None.
    """
    if "torch" in sys.modules:
        return
    if environment is None:
        environment = os.environ
    others = load()
    if not any(name in environment for name in _WAITING):
        environment["OMP_WAIT_POLICY"] = "passive"
        if others < IDLE:
            environment["GOMP_SPINCOUNT"] = _SPINS
    if COUNT not in environment:
        number = threads(cores(), others)
        if number != _affinity():  # which the runtime takes by itself
            _choose(environment, number)


def share(processes: int) -> int | None:
    """Give this process its part of the threads, and those that it starts theirs.

    Nothing happens where the user set the number, or where this process was started by another
    that has shared already.

    Args:
        processes: how many there are on this machine, this one included.

    Returns:
        The number of threads of each process; None where nothing was to be done.
    """
    ours = os.environ.get(COUNT) == os.environ.get(CHOSEN)  # both may be unset
    if not ours or processes < 2 or "LOCAL_RANK" in os.environ:
        return None
    each = max(1, int(os.environ.get(CHOSEN, cores())) // processes)
    _choose(os.environ, each)
    return each


def why() -> str:
    """Origin of the number of threads and of their way of waiting, as a clause for a user."""
    if os.environ.get(COUNT) is None:
        number = "one a core"
    elif os.environ.get(COUNT) == os.environ.get(CHOSEN):
        number = "chosen by quota, load and processes"
    else:
        number = f"{COUNT} is set"
    waiting = [f"{name}={os.environ[name]}" for name in _WAITING if name in os.environ]
    return f"{number}; {', '.join(waiting) or 'no policy of waiting'}"


def _choose(environment: MutableMapping[str, str], number: int) -> None:
    environment[COUNT] = environment[CHOSEN] = str(number)


def threads(cores: int, load: float) -> int:
    """Threads that are worth having.

    A thread on each of ``cores`` beside ``load`` others gets ``cores / (cores + load)`` of one,
    together ``cores² / (cores + load)`` cores; that many threads get as much done and wait for
    each other less. Two are worth it in any case: one alone would get half of what two get.

    Args:
        cores: that the process may use.
        load: threads of others that want these cores.
    """
    return max(min(2, cores), round(cores**2 / (cores + load)))


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: by its affinity and by the quotas of its control groups.

    Args:
        root: of the file system that tells of them.
    """
    allowed, most = _affinity(), quota(root)
    return allowed if most is None else max(1, min(allowed, int(most)))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the control groups (versions 1 and 2) of this process allow; None
    if they set no limit. A container's limit is one."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        mounted = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container may see itself as the root, or by a path that only its host has.
        inside = mounted / path.strip("/")
        for folder in (inside, *inside.parents):
            limits.append(_limit(folder))
            if folder == mounted:
                break
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(folder: Path) -> float | None:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            allowed, period = " ".join((folder / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if allowed not in ("max", "-1") and float(period) > 0:
            return float(allowed) / float(period)
    return None


def load(root: Path = Path("/")) -> float:
    """Threads of other programs that want the cores of this process; 0 where nothing tells.

    The lower of the last minute's mean and this moment's number: a command that has just ended
    is in the one, what starts for an instant in the other. Where this process has only some of
    the machine's cores, it takes its part of the load.

    Args:
        root: of the file system that tells of it.
    """
    try:
        minute, _, _, running, *_ = (root / "proc/loadavg").read_text().split()
    except (OSError, ValueError):
        return 0.0
    now = int(running.split("/")[0]) - 1  # without this process
    allowed, there = cores(root), os.cpu_count() or 1
    return max(0.0, min(float(minute), now)) * allowed / max(allowed, there)
