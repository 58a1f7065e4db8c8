"""Curves of a report: which records form one, and what is said of the gap."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bench.records.record import Record, write_records
from bench.report.boards import Board
from bench.report.curves import curves, gaps
from bench.report.figures import draw
from bench.report.scaling import gap_sentence, published_images, scaling_tables
from bench.report.sorting import make_report
from bench.report.sources import Sources
from bench.report.write import run_report
from tests.support.records import record

STEPS = (250, 500, 1000, 2000, 4000)


def board(*records: Record) -> Board:
    (only,) = make_report(Sources(records=numbered(records)), []).boards
    return only


def numbered(records: tuple[Record, ...]) -> list[Record]:
    return [r.model_copy(update={"config_hash": f"{n:064x}"}) for n, r in enumerate(records)]


def trained(system: str, exponent: float, steps: int, seed: int = 0, noise: float = 0.02) -> Record:
    """A network whose distance is a power of the images that it was trained on, times noise."""
    images = 32 * steps
    random = np.random.default_rng([seed, steps, len(system)])
    ann = {"time_steps": None, "firing_rate": None} if system == "ann_twin" else {}
    return record(
        system, 500 * images**-exponent * math.exp(random.normal(0, noise)), seed=seed,
        suite=f"curves_{steps}", train_steps=steps, batch_size=32, train_images=images, **ann,
    )  # fmt: skip


def budgets(system: str, exponent: float, **more: float) -> list[Record]:
    return [trained(system, exponent, steps, seed, **more) for steps in STEPS for seed in range(3)]


def test_budgets_of_several_suites_are_one_curve_with_the_exponent_that_made_it() -> None:
    (curve,) = curves(board(*budgets("sddpm", 0.4)))
    assert curve.axis == "images"
    assert [point.n for point in curve.points] == [32 * steps for steps in STEPS]
    assert curve.fewest_seeds == 3
    assert curve.law is not None
    exponent = curve.law.exponent.interval()
    assert exponent.low < 0.4 < exponent.high
    assert exponent.high - exponent.low < 0.15


@pytest.mark.parametrize(
    ("ours", "verdict", "words"),
    [
        (0.55, "closes", "falls faster with training: the gap closes (exponents 0.5"),
        (0.25, "widens", "falls more slowly with training: the gap widens (exponents 0.2"),
        (0.4, "open", "these points do not decide whether the gap closes (exponents"),
    ],
)
def test_the_gap_follows_from_the_exponents(ours: float, verdict: str, words: str) -> None:
    found = curves(board(*budgets("sddpm", ours), *budgets("ann_twin", 0.4)))
    (gap,) = gaps(found)
    assert gap.verdict == verdict
    assert words in gap_sentence(gap)
    assert gap.n == 128_000
    assert gap.ratio == pytest.approx(128_000 ** (0.4 - ours), rel=0.1)
    truth = 64_000_000 ** (0.4 - ours)
    predicted = gap.log_ratio(64_000_000).interval(math.exp)
    assert predicted.low < truth < predicted.high


def test_a_child_is_placed_at_the_images_of_its_parent_too() -> None:
    children = [
        trained("converted", 0.4, steps).model_copy(
            update={"train_steps": 8, "train_images": 256, "suite": f"curves_{steps}"}
        )
        for steps in STEPS
    ]
    twins = [trained("ann_twin", 0.4, steps) for steps in STEPS]
    found = {curve.row.system: curve for curve in curves(board(*twins, *children))}
    assert [p.n for p in found["converted"].points] == [32 * steps + 256 for steps in STEPS]
    (gap,) = gaps(list(found.values()))  # at nearly as many images as the twin
    assert gap.n == 128_256


def test_other_settings_are_no_curve() -> None:
    rates = [
        trained("sddpm", 0.4, steps).model_copy(update={"config": {"learning_rate": rate}})
        for steps, rate in zip(STEPS, (1e-3, 2e-3, 3e-3, 4e-3, 5e-3), strict=True)
    ]
    assert curves(board(*rates)) == []
    # A number that changes no parameter is no width.
    same = [r.model_copy(update={"train_images": 100, "suite": "one"}) for r in rates]
    assert curves(board(*same)) == []


def test_widths_and_time_steps_are_curves() -> None:
    widths = [
        record("sddpm", fd, params_millions=parameters, config={"channels": c, "blocks": 1})
        for c, parameters, fd in [(8, 0.1, 20.0), (16, 0.4, 15.0), (32, 1.6, 11.0)]
    ]
    steps = [record("fsvae", 30 / t, time_steps=t, config={"time_steps": t}) for t in (1, 2, 4, 8)]
    by_axis = {curve.axis: curve for curve in curves(board(*widths, *steps))}
    assert set(by_axis) == {"parameters", "time steps"}
    assert [point.n for point in by_axis["parameters"].points] == [0.1, 0.4, 1.6]
    law = by_axis["time steps"].law
    assert law is not None
    assert law.exponent.value == pytest.approx(1.0)


def test_curves_of_one_name_are_told_apart_by_what_differs() -> None:
    steps = [
        record("sddpm", fd / t, time_steps=t, config={"time_steps": t}, train_images=images,
               title="SDDPM")
        for images, fd in ((8_000, 30), (16_000, 20)) for t in (1, 2, 4)
    ]  # fmt: skip
    labels = {curve.label for curve in curves(board(*steps))}
    assert labels == {"SDDPM, 8,000 images", "SDDPM, 16,000 images"}


def test_two_points_are_shown_and_have_no_law() -> None:
    short = [trained("ann_twin", 0.4, steps) for steps in STEPS[:2]]
    (laws,) = scaling_tables(board(*budgets("sddpm", 0.5), *short))
    lines = [[entry.text for entry in line.entries] for line in laws.lines]
    (twin,) = [line for line in lines if line[1].startswith("ANN_TWIN")]
    assert twin[2:5] == ["2", "8,000", "16,000"]
    assert twin[-3:-1] == ["-", "-"]
    assert any("no law through 2 points: at least 3 are needed" in note for note in laws.notes)
    # Alone, they are no curve: the report says what is missing.
    alone = make_report(Sources(records=numbered(tuple(short))), [])
    _, reasons = draw(alone)
    assert any(
        "power laws: no system was measured at 3" in why for why in reasons[alone.boards[0].name]
    )


def test_the_last_doubling_says_whether_a_budget_has_converged() -> None:
    exact = [trained("sddpm", 0.5, steps, noise=0) for steps in (250, 1000, 2000, 3000)]
    still = [trained("ann_twin", 0.02, steps, noise=0) for steps in (500, 1000, 2000)]
    (laws, *_) = scaling_tables(board(*exact, *still))
    moved = {line.entries[1].text.split(",")[0]: line.entries[-1] for line in laws.lines}
    assert moved["SDDPM"].text == "-"  # 3,000 steps have no half among the points
    assert moved["ANN_TWIN"].text == "-1.4"  # 2 ** -0.02 = 0.986
    found = curves(board(*exact[:3]))
    assert [curve.last_doubling for curve in found] == [pytest.approx(2**-0.5 - 1)]
    assert any("by less than 3 %" in note for note in laws.notes)


def test_the_paper_trains_on_sixty_four_million_images() -> None:
    assert published_images(board(record())) == 500_000 * 128
    assert published_images(board(record(dataset="mine"))) is None


def test_a_report_shows_laws_gaps_and_figure(tmp_path: Path) -> None:
    records = [*budgets("sddpm", 0.55), *budgets("ann_twin", 0.4)]
    write_records(tmp_path / "in" / "records.jsonl", numbered(tuple(records)))
    outcome = run_report([tmp_path / "in"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Power laws of FD" in text
    assert "the gap closes" in text
    assert "64,000,000 images are the paper's training, 500 times" in text
    page = outcome.page.read_text(encoding="utf-8")
    assert "Does the gap close?" in page
    assert "the gap closes" in page.partition("Does the gap close?")[2]
    assert 'id="figure-scaling-' in page
    names = {path.name for path in outcome.files}
    assert {name.split("-")[0] for name in names} >= {"laws", "gaps", "scaling"}
