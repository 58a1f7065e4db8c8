"""Threads and waiting as the package chooses them, on an idle and on a busy machine."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.measuring import Comparison
from benchmarks.waiting import RUNTIME_DEFAULT, competing, evaluating
from sddpm.threads import IDLE, cores, load

BATCH = 2
RIVALS_A_CORE = 2
IDLE_SECONDS = 120
"""The longest wait for the load of an earlier program to fade from a minute's mean."""
LOAD_SECONDS = 20
"""The mean load of a minute tells of rivals only after a while."""


def test_waiting_on_an_idle_machine(compare: Callable[..., Comparison]) -> None:
    for _ in range(IDLE_SECONDS):
        if load() < IDLE:
            break
        time.sleep(1)
    else:
        pytest.skip("the machine is not idle")
    with evaluating(BATCH, {}) as ours:
        ours()  # it has looked at the load before there is another program
        with evaluating(BATCH, RUNTIME_DEFAULT) as default:
            compare("evaluation, machine idle", "threads as chosen", default, ours, "> 0.97")


def test_waiting_on_a_busy_machine(
    compare: Callable[..., Comparison], record: Callable[[dict[str, object]], None]
) -> None:
    """Against the runtime's own waiting, and against the fair share: with ``n`` busy rivals a
    process has ``cores / (n + 1)`` cores to itself."""
    rivals = RIVALS_A_CORE * cores()
    with evaluating(BATCH, RUNTIME_DEFAULT) as default:
        with evaluating(BATCH, {}) as alone:
            needed = statistics.median(alone() for _ in range(5))
        with competing(rivals):
            time.sleep(LOAD_SECONDS)
            with evaluating(BATCH, {}) as ours:
                result = compare(
                    f"evaluation, {RIVALS_A_CORE} busy processes a core",
                    "threads as chosen",
                    default,
                    ours,
                )
    fair = needed * (rivals + 1) / cores()
    measured = {"as chosen": result.our_seconds, "the runtime's own": result.reference_seconds}
    for name, times in measured.items():
        record(
            {
                "table": f"With {RIVALS_A_CORE} busy processes a core",
                "what": f"threads and waiting {name}",
                "ms": round(1e3 * statistics.median(times), 1),
                "processor ms when idle": round(1e3 * needed, 1),
                "ms at the fair share": round(1e3 * fair, 1),
                "over the fair share": round(statistics.median(times) / fair, 2),
                "target": "1.5",
            }
        )


@pytest.mark.quick
def test_help_answers_at_once(record: Callable[[dict[str, object]], None], benchmark: Any) -> None:
    command = [sys.executable, "-m", "bench.cli", "--help"]
    seconds = []

    def start() -> None:
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)

    benchmark.pedantic(start, rounds=5, warmup_rounds=1)
    seconds = seconds[1:]
    record(
        {
            "table": "Start",
            "what": "--help",
            "seconds": round(statistics.median(seconds), 2),
            "lowest": round(min(seconds), 2),
            "target": "0.2",
        }
    )
