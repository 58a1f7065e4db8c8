"""Rows of a report: which records are one, what tells two apart, what beats what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.records.record import Record
from bench.report.boards import Stat, pareto
from bench.report.glance import glance
from bench.report.samples import Samples, draw_samples
from bench.report.sorting import make_report
from bench.report.sources import Sources
from bench.report.tables import ranking
from tests.support.records import HASHES, cell


def test_only_seeds_are_averaged() -> None:
    records = [
        cell(0, seed=0), cell(1, seed=1), cell(2, seed=0, train_steps=61), cell(3, precision="x"),
        cell(4, time_steps=8), cell(5, config={"channels": 9}), cell(6, seed=0, title="SDDPM"),
    ]  # fmt: skip
    (board,) = make_report(Sources(records=records), []).boards
    # The last has the settings and the seed of the first: another parent. Which of the two the
    # other seed is of is not known, so each is a row of its own.
    assert [len(row.records) for row in board.rows] == [1] * 7
    (board,) = make_report(Sources(records=records[:-1]), []).boards
    assert sorted(len(row.records) for row in board.rows) == [1, 1, 1, 1, 2]
    assert Stat((1.0,)).spread is None
    assert Stat((1.0, 2.0, 4.0)).spread == pytest.approx((7 / 3) ** 0.5)


def test_a_variant_of_the_same_settings_is_another_row() -> None:
    """Its parent's variant may differ. A failed seed of one is not made up from the other."""
    own = [cell(seed, fd=10.0 + seed, seed=seed) for seed in (0, 2)]
    variant = {"variant": "z", "title": "SDDPM (z)"}
    records = [*own, *(cell(5 + seed, fd=50.0, seed=seed, **variant) for seed in range(3))]
    (board,) = make_report(Sources(records=records), []).boards
    rows = {row.records[0].variant: row for row in board.rows}
    assert {name: row.seeds for name, row in rows.items()} == {"": [0, 2], "z": [0, 1, 2]}
    assert [record.metrics["fd_efflite0"] for record in rows["z"].records] == [50.0] * 3


def test_the_images_of_the_parent_s_training_are_shown_too() -> None:
    def child(number: int, **more: Any) -> Record:
        facts = {"train_images": 96, "train_steps": 3, "title": "child", **more}
        return cell(number, "sddpm_tsm", **facts)

    def shown(*records: Record) -> dict[str, str]:
        (board,) = make_report(Sources(records=list(records)), []).boards
        table = ranking(board)
        at = [column.text for column in table.columns].index("Images trained on")
        return {line.entries[1].text: line.entries[at].text for line in table.lines}

    parent = cell(0, title="parent")  # of 1,920 images
    assert shown(parent, child(1)) == {"parent": "1,920", "child": "1,920 + 96"}
    # Of another number of time steps, seed or suite, it is not the parent.
    for other in ({"time_steps": 8}, {"seed": 3}, {"suite": "b"}):
        assert shown(parent, child(1, **other))["child"] == "96"
    # One network at two samplers is one parent; two networks are no answer.
    again = {"config_hash": HASHES[2], "sampler_steps": 50, "title": "again"}
    assert shown(parent, parent.model_copy(update=again), child(1))["child"] == "1,920 + 96"
    longer = parent.model_copy(update={**again, "train_images": 4000})
    assert shown(parent, longer, child(1))["child"] == "96"
    # Other budgets of one suite have their own parents; a child may say what its parents saw.
    twice = parent.model_copy(update={**again, "train_images": 3840, "budget": 2.0})
    assert shown(parent, twice, child(1))["child"] == "1,920 + 96"
    assert shown(parent, twice, child(1, budget=2.0))["child"] == "3,840 + 96"
    stated = child(1, suite="b", parent_images=(640, 320))
    assert shown(parent, stated)["child"] == "640 + 320 + 96"
    # Of several seeds, the same at each; with one parent missing, no sum.
    both = [cell(3, seed=1, title="parent"), child(1), child(4, seed=1)]
    assert shown(parent, *both)["child"] == "1,920 + 96"
    assert shown(parent, *both[1:])["child"] == "96"


def test_the_floor_is_no_network_without_spikes() -> None:
    def glanced(*records: Record) -> list[str]:
        (line,) = glance(make_report(Sources(records=list(records)), [])).lines
        return [entry.text for entry in line.entries]

    spiking, twin = cell(0), cell(1, "ann_twin", 20.0, title="twin")
    free = {"per_evaluation_mj": 0.0, "per_image_mj": 0.0}
    nothing = {"published": free, "strict": free}
    floor = cell(2, "pixel_gaussian", 15.0, title="floor", energies=nothing)
    assert glanced(spiking, twin)[4:] == glanced(spiking, twin, floor)[4:]
    assert glanced(spiking, floor)[4:] == ["-", "-"]


def test_the_glance_says_where_the_best_rows_had_unequal_training() -> None:
    def best(*records: Record) -> list[str]:
        report = make_report(Sources(records=list(records)), [])
        (line,) = glance(report).lines
        return [entry.text for entry in line.entries[2:4]]

    spiking, twin = cell(0), cell(1, "ann_twin", 5.0, title="twin")
    tuned = cell(2, "sddpm_tsm", 8.0, title="tuned", train_images=96)
    # A fine-tuned row had its parent's training too.
    for records in ((spiking, twin), (spiking, twin, tuned)):
        assert all("trained on" not in text for text in best(*records))
    longer = twin.model_copy(update={"train_images": 64_000})
    first, second = best(spiking, longer, tuned)
    assert first.startswith("twin")
    assert first.endswith("5.00, trained on 64,000 images")
    assert second.startswith("tuned")
    assert second.endswith("8.00, trained on 1,920 images")


def test_rows_of_one_name_are_told_apart() -> None:
    v, eps = {"prediction": "v", "channels": 8}, {"prediction": "epsilon", "channels": 8}
    records = [
        cell(0, config=v, seed=0), cell(1, config=v, seed=1), cell(2, "ddpm", config=v),
        cell(3, config=eps, suite="another"), cell(4, config=v, time_steps=8),
    ]  # fmt: skip
    (board,) = make_report(Sources(records=records), []).boards
    title = records[0].title
    assert sorted(row.label for row in board.rows if row.system == "sddpm") == [
        title,
        title,
        f"{title}: prediction epsilon",
    ]
    # Within one suite neither is the plain one; a suite is named where nothing else differs.
    (board,) = make_report(
        Sources(records=[cell(0, train_steps=60), cell(1, train_steps=61)]), []
    ).boards
    assert sorted(row.label for row in board.rows) == [f"{title}: steps 60", f"{title}: steps 61"]
    longer: dict[str, Any] = {
        "train_steps": 600, "train_images": 19_200, "precision": "bf16-mixed",
    }  # fmt: skip
    others: list[tuple[dict[str, Any], str]] = [({}, "19,200 images"), ({"config": eps}, "steps")]
    # A longer training is named by its images, which no setting of a network hides.
    for other, label in others:
        records = [cell(0, train_steps=60, train_images=1_920), cell(1, **longer, **other)]
        (board,) = make_report(Sources(records=records), []).boards
        found = {row.records[0].train_steps: row.label for row in board.rows}
        assert found[600].startswith(f"{title}: {label}")
    (board,) = make_report(Sources(records=[cell(0, suite="a"), cell(1, suite="b")]), []).boards
    assert sorted(row.label for row in board.rows) == [f"{title}: suite a", f"{title}: suite b"]


def test_the_front_is_what_nothing_beats() -> None:
    points = [tuple(point) for point in np.random.default_rng(1).integers(0, 9, (60, 2)).tolist()]
    for sign in (1, -1):
        front = {points[i] for i in pareto(points, lower_is_better=sign == 1)}
        beaten = {
            p
            for p in points
            for q in points
            if q[0] <= p[0] and sign * q[1] <= sign * p[1] and q != p
        }
        assert front == set(points) - beaten


def test_long_names_stay_inside_the_figure_of_samples() -> None:
    long = {"prediction": "epsilon", "linear_head": False}
    short = {"prediction": "v_prediction", "linear_head": True}
    records = [
        cell(0, config=long, title="ANN twin (ReLU)"),
        cell(1, config=short, title="ANN twin (ReLU)"),
    ]
    (board,) = make_report(Sources(records=records), []).boards
    samples = [Samples(row, np.zeros((8, 8, 8), np.uint8)) for row in board.rows]
    figure = draw_samples(board, samples).figure
    figure.canvas.draw()
    labels = [text for ax in figure.axes for text in ax.texts]
    assert len(labels) == 2
    lines = [line for text in labels for line in text.get_text().splitlines()]
    assert any(line.replace("\N{NO-BREAK SPACE}", " ") == "T = 4" for line in lines), lines
    assert min(text.get_window_extent().x0 for text in labels) >= 0
