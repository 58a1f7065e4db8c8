"""Fixtures of the speed suite; the tables in results/ are written when it ends.

``make bench``, or ``python -m pytest benchmarks --benchmark-only``. Every round of a benchmark
runs the reference first and ours after it, in one process. Options of this suite are in the
environment: BENCH_THREADS (all cores by default), BENCH_ROUNDS (5), BENCH_CLOCK=cpu for
processor time, which other programs on the machine disturb less (use one thread with it), and
BENCH_FOLDER (results).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.measuring import CLOCK, Comparison, Work, seconds
from benchmarks.table import write_tables

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))


def pytest_configure(config: pytest.Config) -> None:
    config.speed_rows = []  # type: ignore[attr-defined]
    config.growth_rows = []  # type: ignore[attr-defined]
    if threads := os.environ.get("BENCH_THREADS"):
        torch.set_num_threads(int(threads))


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., Comparison]:
    """``compare(what, ours name, reference, ours, target)``: measure both in turns."""

    def run(
        what: str, name: str, reference: Work, ours: Work, target: str = "", rounds: int = ROUNDS
    ) -> Comparison:
        result = Comparison(what, name, target)
        reference()
        ours()

        def before() -> None:
            result.reference_seconds.append(seconds(reference))

        def timed() -> None:
            result.our_seconds.append(seconds(ours))

        benchmark.pedantic(timed, setup=before, rounds=rounds, iterations=1)
        row = result.row()
        benchmark.extra_info.update(row)
        request.config.speed_rows.append(row)  # type: ignore[attr-defined]
        return result

    return run


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[dict[str, object]], None]:
    """Add a row to a table other than that of the ratios; ``table`` says which."""
    return request.config.growth_rows.append  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if config.speed_rows or config.growth_rows:  # type: ignore[attr-defined]
        folder = Path(os.environ.get("BENCH_FOLDER", "results"))
        clock = "processor time" if CLOCK is time.process_time else "wall time"
        write_tables(folder, config.speed_rows, config.growth_rows, clock)  # type: ignore[attr-defined]
