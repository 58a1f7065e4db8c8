"""The work of a report grows with its records, not with their square."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import Record, write_records
from bench.report.figures import plot_energy
from bench.report.glance import glance
from bench.report.sorting import make_report
from bench.report.sources import Sources, read_sources
from bench.report.style import looks
from bench.report.tables import energies, ranking
from tests.support.records import record

FEW, MANY = 40, 160


def calls_of(work: Callable[[], Any]) -> int:
    """Python and C functions that ``work`` calls: the same number whenever it is done."""
    count = 0

    def watch(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def distinct(count: int) -> list[Record]:
    """Every other one built from a network among them, all with settings of their own."""
    return [
        record(
            "ann_twin" if number % 2 else "converted",
            10.0 + number,
            time_steps=None if number % 2 else 4,
            firing_rate=None if number % 2 else 0.1,
            config={"channels": 8 + number},
            train_steps=100 + number,
            config_hash=f"{number:08x}" * 8,
        )
        for number in range(count)
    ]


def failing(count: int) -> list[Record]:
    """Every other one of another run, without a figure."""
    return [
        row.model_copy(update={"status": "failed", "reason": "it broke", "metrics": {}})
        if number % 2
        else row
        for number, row in enumerate(distinct(count))
    ]


def same(count: int) -> list[Record]:
    """One cell and seed, on as many parents."""
    return [record(config_hash=f"{number:08x}" * 8) for number in range(count)]


@pytest.mark.parametrize("records", [distinct, failing, same])
def test_sorting_and_tables_are_linear(records: Callable[[int], list[Record]]) -> None:
    def work(count: int) -> Callable[[], None]:
        sources = Sources(records=records(count))

        def make() -> None:
            report = make_report(sources, [])
            glance(report)
            for board in report.boards:
                ranking(board)
                energies(board)

        return make

    work(FEW)()  # what is imported or cached at the first call
    few, many = calls_of(work(FEW)), calls_of(work(MANY))
    assert few > 100 * FEW, "the work was not seen"
    assert many < 1.3 * MANY / FEW * few


def test_pictures_beside_records_are_found_by_their_hash(tmp_path: Path) -> None:
    def work(count: int) -> Callable[[], None]:
        folder = tmp_path / str(count)
        write_records(folder / "records.jsonl", same(count))
        for number in range(count):
            (folder / f"x-{number:08x}.png").touch()
        assert len(read_sources([folder]).grids) == count

        def read() -> None:
            read_sources([folder])

        return read

    few, many = calls_of(work(FEW)), calls_of(work(MANY))
    assert many < 1.3 * MANY / FEW * few


def test_marks_of_one_style_are_drawn_together() -> None:
    """Or ten thousand rows take minutes: two systems are two artists with marks a panel."""
    report = make_report(Sources(records=distinct(MANY)), [])
    drawing = plot_energy(report.boards[0], looks(report))
    assert not isinstance(drawing, str)
    for ax in drawing.figure.axes:
        marked = [line for line in ax.lines if line.get_marker() not in ("None", "", None)]
        assert 1 <= len(marked) <= 2
        assert sum(len(line.get_xdata()) for line in marked) in (MANY, MANY // 2)
