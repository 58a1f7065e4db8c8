"""Pivots of a report: every figure where its axes say, once, and the best of a column marked."""

from __future__ import annotations

from bench.records.conversions import read_curves
from bench.records.record import Record
from bench.report.boards import Board, Section
from bench.report.pivots import conversion_pivots, pivots
from bench.report.sorting import make_report
from bench.report.sources import Sources
from bench.report.tables import TableText
from tests.support.records import conversion, record


def board(*records: Record) -> Board:
    numbered = [r.model_copy(update={"config_hash": f"{n:064x}"}) for n, r in enumerate(records)]
    (only,) = make_report(Sources(records=numbered), []).boards
    return only


def texts(table: TableText) -> list[list[str]]:
    return [
        [column.text for column in table.columns],
        *([entry.text for entry in line.entries] for line in table.lines),
    ]


def marked(table: TableText) -> set[str]:
    return {entry.text for line in table.lines for entry in line.entries if entry.best}


def test_time_steps_stand_side_by_side_with_the_spread_over_seeds() -> None:
    (table,) = pivots(
        board(
            record("sddpm", 8.0, time_steps=2, title="SDDPM"),
            record("sddpm", 12.0, time_steps=2, title="SDDPM", seed=1),
            record("sddpm", 7.0, time_steps=4, title="SDDPM"),
            record("sddpm", 5.0, time_steps=4, title="SDDPM", threshold="guided"),
            record("sddpm", 9.5, time_steps=8, title="SDDPM", threshold="guided"),
            record("fsvae", 1.0, time_steps=4, title="FSVAE", sampler=None, sampler_steps=None),
        )
    )
    plain, guided = record("sddpm", 0.0), record("sddpm", 0.0, threshold="guided")
    name = f"{plain.sampler} {plain.sampler_steps}" + (f" eta={plain.eta:g}" if plain.eta else "")
    assert guided.threshold == "guided"
    assert sorted(texts(table)) == sorted(
        [
            ["System", "Sampler", "T = 2", "T = 4", "T = 8"],
            ["SDDPM", name, "10.00 ± 2.83", "7.00", "-"],
            ["SDDPM", f"{name} guided", "-", "5.00", "9.50"],
        ]
    )
    # FSVAE was measured at one T: nothing to lay out.
    # A column with one figure has no best.
    assert marked(table) == {"5.00"}


def test_a_pivot_of_one_line_has_no_best() -> None:
    (table,) = pivots(board(*(record("sddpm", 8.0 - steps, time_steps=steps) for steps in (2, 4))))
    assert len(table.lines) == 1
    assert marked(table) == set()


def test_samplers_are_lines_and_their_steps_columns() -> None:
    (table,) = pivots(
        board(
            *(record("sddpm", fd, sampler=sampler, sampler_steps=steps, eta=0.0, title="SDDPM")
              for sampler, steps, fd in [("ddim", 5, 30.0), ("ddim", 50, 10.0), ("unipc", 5, 20.0),
                                         ("unipc", 50, 11.0), ("euler", 5, 25.0)])
        )
    )  # fmt: skip
    heading, *lines = texts(table)
    assert heading == ["System", "Sampler", "5", "50"]
    assert sorted(line[1:] for line in lines) == [
        ["ddim", "30.00", "10.00"],
        ["unipc", "20.00", "11.00"],
    ]
    assert marked(table) == {"20.00", "10.00"}


def test_networks_of_other_trainings_are_no_sweep() -> None:
    short, long = (
        record("ann_twin", fd, time_steps=None, sampler="ddim", sampler_steps=steps, eta=0.0,
               train_images=trained)
        for fd, steps, trained in [(150.0, 20, 100), (40.0, 50, 800)]
    )  # fmt: skip
    assert short.train_images != long.train_images
    assert pivots(board(short, long)) == []
    both = record("ann_twin", 60.0, time_steps=None, sampler="ddim", sampler_steps=20, eta=0.0,
                  train_images=800)  # fmt: skip
    (table,) = pivots(board(short, long, both))
    assert [line[2:] for line in texts(table)[1:]] == [["60.00", "40.00"]]


def test_nothing_swept_nothing_laid_out() -> None:
    assert pivots(board(record("sddpm", 8.0), record("ann_twin", 4.0, time_steps=None))) == []


def test_conversions_stand_beside_their_ann() -> None:
    def row(steps: int | None, error: float) -> tuple[float | None, ...]:
        return steps, error, 0.1, 1.0 + error, 0.2, 0.1, 0.123456

    ltb = conversion(
        [row(None, 0.0), row(4, 0.25), row(8, 0.125), row(8, 0.1)],
        (3.0, 9.0, 6.0, 5.0),
        schedules={3: (4, 8, 12)},
    )
    qcfs = conversion([row(None, 0.0), row(8, 0.5)], (4.0, 7.0), method="qcfs", id="q")
    conversions = list(read_curves([*ltb, *qcfs], "").values())
    quality, error, loss, energy = conversion_pivots(Section(1, "digits", [], [], conversions))
    assert texts(quality) == [
        ["Conversion", "ANN", "T = 4", "T = 8"],
        ["ltb", "3.00", "9.00", "6.00"],
        ["qcfs", "4.00", "-", "7.00"],
    ]
    assert texts(error)[1:] == [["ltb", "0.0", "25.0", "12.5"], ["qcfs", "0.0", "-", "50.0"]]
    assert texts(loss)[1] == ["ltb", "1.000", "1.250", "1.125"]
    assert texts(energy)[2] == ["qcfs", "0.123", "-", "0.123"]
