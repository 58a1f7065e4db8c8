"""Fixtures of the speed suite; the tables in results/ are written when it ends.

``make bench``, or ``python -m pytest benchmarks --benchmark-only``; at most 10 minutes on two idle
cores. ``--quick`` (``make bench QUICK=1``) takes the benchmarks that are marked so, with fewer
rounds, in at most 2 minutes, and prints their ratios instead of writing them. Every round of a
benchmark runs the reference first and ours after it, in one process. Other options of this suite
are in the environment: BENCH_THREADS (all cores by default), BENCH_ROUNDS (5 at most),
BENCH_CLOCK=cpu for processor time, which other programs on the machine disturb less (use one
thread with it), and BENCH_FOLDER (results). SDDPM_KERNELS=x86-64-v3 with ONEDNN_MAX_CPU_ISA=AVX2
and ATEN_CPU_CAPABILITY=avx2 measures what a lesser processor would do, in a section of its own.
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
from benchmarks.table import RATIOS, Row, kind, machine, sections, write_tables

SECONDS, QUICK_SECONDS = 15.0, 4.0
"""Time for the rounds of one comparison; two are made in any case."""
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="The ratios that matter, in 2 minutes.")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quick: a benchmark that --quick runs too")
    config.speed_rows = []  # type: ignore[attr-defined]
    config.growth_rows = []  # type: ignore[attr-defined]
    if threads := os.environ.get("BENCH_THREADS"):
        torch.set_num_threads(int(threads))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        left_out = [item for item in items if item.get_closest_marker("quick") is None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., Comparison]:
    """``compare(what, ours name, reference, ours, target)``: measure both in turns, as many
    rounds as there is time for."""
    longest = QUICK_SECONDS if request.config.getoption("--quick") else SECONDS

    def run(
        what: str, name: str, reference: Work, ours: Work, target: str = "", rounds: int = ROUNDS
    ) -> Comparison:
        result = Comparison(what, name, target)
        for work in (reference, ours):
            work()
        one_round = seconds(reference) + seconds(ours)
        rounds = max(min(2, rounds), min(rounds, int(longest / one_round)))

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
    speed: list[Row] = config.speed_rows  # type: ignore[attr-defined]
    others: list[Row] = config.growth_rows  # type: ignore[attr-defined]
    if not (speed or others):
        return
    clock = "processor time" if CLOCK is time.process_time else "wall time"
    if config.getoption("--quick"):
        head = {"kind": kind(), "machine": f"{machine()}; {clock}"}
        rows = [{**head, "table": RATIOS, **row} for row in speed]
        rows += [{**head, **row} for row in others]
        print(f"\n\n{sections(rows)}")
    else:
        write_tables(Path(os.environ.get("BENCH_FOLDER", "results")), speed, others, clock)
