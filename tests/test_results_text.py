"""The figures that the pages of results/ and README.md print are those of the committed records."""

from __future__ import annotations

import csv
import re
import statistics

import pytest

from bench.report.curves import curves
from bench.report.scaling import interval_text
from bench.report.sorting import make_report
from bench.report.sources import read_sources
from tests.support.pages import ROOT
from tests.support.result_pages import (
    NUMBER,
    README,
    RESULTS,
    TITLES,
    of_variant,
    records,
    says,
    tables,
    under,
    wrong,
)

THREE_SEEDS = {
    "Digits": ("digits", 4),
    "Fashion-MNIST, all systems, 24,000 images each": ("fashion_mnist", 16),
    "CIFAR-10, all systems, 12,000 images each": ("cifar10", 14),
}


@pytest.mark.parametrize("heading", THREE_SEEDS)
def test_the_tables_of_three_seeds_are_the_records(heading: str) -> None:
    folder, systems = THREE_SEEDS[heading]
    table = under(heading)
    assert len(table) == systems + 1
    assert {record["seed"] for record in records(folder)} == {0, 1, 2}
    assert not wrong(table, folder)
    # And the check sees a wrong figure.
    table[1][1] = re.sub(r"\d", lambda m: str((int(m[0]) + 1) % 10), table[1][1], count=1)
    assert len(wrong(table, folder)) == 1


def test_the_exponents_are_those_that_a_report_fits() -> None:
    folders = [ROOT / "results" / name for name in ("digits_curves", "digits_plus", "digits")]
    (board,) = make_report(read_sources(folders), []).boards
    fitted = {
        (curve.row.system, interval_text(curve.law.exponent.interval()))
        for curve in curves(board)
        if curve.axis == "images" and curve.law is not None
    }
    heading, *rows = under("Does the gap close?")
    assert heading[-1] == "exponent b"
    titles = {**TITLES, "SDDPM+, T = 4": "sddpm_plus"}
    assert {(titles[row[0]], row[-1]) for row in rows} == fitted


def test_the_time_steps_are_the_records() -> None:
    heading, *rows = tables(RESULTS.partition("**More time steps.**")[2])[0]
    assert heading == ["T", "SDDPM, FD (efflite0)", "strict", "SDDPM+, FD (efflite0)", "strict"]
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "16"]
    for steps, *cells in rows:
        for system, shown in (("sddpm", cells[:2]), ("sddpm_plus", cells[2:])):
            found = [
                r for r in records("digits_curves")
                if (r["system"], r["variant"], r["train_steps"], r["time_steps"])
                == (system, "", 1000, int(steps))
            ]  # fmt: skip
            if not found:
                assert shown == ["-", "-"]
                continue
            assert len(found) == 3
            assert says(shown[0], [r["metrics"]["fd_efflite0"] for r in found]), (steps, system)
            energy = statistics.fmean(r["energies"]["strict"] for r in found)
            assert says(shown[1], [energy]), (steps, system)


def test_the_demo_of_the_readme_is_its_records() -> None:
    demo = README.partition("<!-- demo:begin -->")[2].partition("<!-- demo:end -->")[0]
    table = tables(demo)[0]
    assert len(table) == 5
    assert not wrong(table, "demo")


RATE = "4 times the rate"
RATIOS = {
    ("digits, 8x8", "48 channels, twin 32"): ("digits_plus", "", "digits", ""),
    ("digits, 8x8", "the same, pays for events"): ("digits_plus", "event weight 0.1", "digits", ""),
    ("digits, 8x8", "32 channels, twin 32"): ("digits_plus", "32 channels", "digits", ""),
    ("digits, held out, 512,000 images", "32 channels, twin 32"): (
        "digits_held_out", "32 channels", "digits_held_out", "",
    ),
    ("clothes, 16x16", "24 channels, twin 16"): (
        "fashion_mnist16_plus", "", "fashion_mnist16_plus", "",
    ),
    ("clothes, 32x32", "24 channels, twin 16"): (
        "fashion_mnist_rates", RATE, "fashion_mnist_rates", RATE,
    ),
    ("clothes, 32x32", "the same, pays for events"): (
        "fashion_mnist_rates", f"event weight 0.1, {RATE}", "fashion_mnist_rates", RATE,
    ),
    ("clothes, 32x32, 256,000 images", "24 channels, twin 16"): (
        "fashion_mnist_plus", "", "fashion_mnist_plus", "",
    ),
    ("clothes, 32x32, 256,000 images", "the same, pays for events (0.03)"): (
        "fashion_mnist_plus", "event weight 0.03", "fashion_mnist_plus", "",
    ),
    ("photographs, 32x32", "24 channels, twin 16 with the stem of SDDPM+"): (
        "cifar10_plus", "", "cifar10_plus", "stem of SDDPM+",
    ),
    ("photographs, 32x32", "the same, pays for events (0.03)"): (
        "cifar10_plus", "event weight 0.03", "cifar10_plus", "stem of SDDPM+",
    ),
}  # fmt: skip


SOLVERS = {"cifar10_plus": "dpm_solver++", "digits_held_out": "sde_dpm_solver++"}
"""Sampler of the rows of a folder, where it is not DDIM."""


def test_the_ratios_of_the_readme_are_the_records() -> None:
    heading, *rows = tables(README.partition("<!-- plus:begin -->")[2])[0]
    assert heading[2:5] == ["FD", "strict energy", "with memory"]
    assert len(rows) == len(RATIOS)
    for data, network, *cells, seeds in rows:
        folder, variant, twins, twin = RATIOS[data, network]
        solver, long = SOLVERS.get(folder, "ddim"), data.endswith("512,000 images")
        pair = []
        for where, system, name in ((folder, "sddpm_plus", variant), (twins, "ann_twin", twin)):
            found = [
                r for r in records(where)
                if (r["system"], r["variant"], r["sampler"]) == (system, name, solver)
                and str(r["seed"]) in seeds and (not long or r["train_images"] == 512_000)
            ]  # fmt: skip
            stated = ", ".join(str(seed) for seed in sorted(r["seed"] for r in found))
            assert stated == seeds, (where, system, name)
            pair.append([
                statistics.fmean(r["metrics"]["fd_efflite0"] for r in found),
                *(statistics.fmean(r["energies"][key] for r in found)
                  for key in ("strict", "lemaire")),
            ])  # fmt: skip
        for shown, ours, theirs in zip(cells, *pair, strict=True):
            assert says(shown, [ours / theirs]), (data, network, shown, ours / theirs)


def test_the_solvers_of_cifar10_are_the_records() -> None:
    drawn = {
        (
            record["system"],
            record.get("variant", ""),
            record["sampler"],
            record["sampler_steps"],
        ): record["metrics"]
        for folder in ("cifar10_long", "cifar10_plus")
        for record in records(folder)
    }
    _, *rows = under("CIFAR-10, 384,000 images")
    found = 0
    for title, *cells in rows:
        name, _, stem = title.partition(" ([")[0].partition(" with the ")
        row = TITLES[name], stem  # the variant is called by its stem
        for (sampler, steps), shown in zip(
            (("ddim", 20), ("ddim", 50), ("dpm_solver++", 20)), cells[:3], strict=True
        ):
            if (*row, sampler, steps) in drawn:
                assert says(shown, [drawn[*row, sampler, steps]["fd_efflite0"]]), (title, shown)
                found += 1
    assert found == 18  # six networks, three solvers


def test_clothes_at_the_larger_rate_are_the_records() -> None:
    rate = "4 times the rate"
    rows = {
        "SDDPM+, T = 4": ("sddpm_plus", rate),
        "SDDPM+, T = 4, pays for events": ("sddpm_plus", f"event weight 0.1, {rate}"),
        "SDDPM+, T = 4, pays 0.03 for events": ("sddpm_plus", f"event weight 0.03, {rate}"),
        "ANN twin": ("ann_twin", rate),
        "ANN twin with the stem of SDDPM+": ("ann_twin", f"stem of SDDPM+, {rate}"),
    }
    twin = of_variant("fashion_mnist_rates", *rows["ANN twin"])
    found = [row for row in under("SDDPM+ on clothes") if row[0] == "32x32, 64,000 images"]
    assert len(found) == len(rows)
    for _, title, _, distance, share, *_, seeds in found:
        values = of_variant("fashion_mnist_rates", *rows[title])
        assert says(distance, values)
        pairs = zip(values, twin[: len(values)], strict=True)
        assert says(share, [statistics.fmean(value / other for value, other in pairs)])
        assert seeds == ", ".join(map(str, range(len(values))))


LONGER = {  # row and channels of the page -> system and variant
    ("SDDPM+, T = 4", "24"): ("sddpm_plus", ""),
    ("SDDPM+, T = 4, pays 0.03 for events", "24"): ("sddpm_plus", "event weight 0.03"),
    ("SDDPM+, T = 4, pays for events", "24"): ("sddpm_plus", "event weight 0.1"),
    ("ANN twin", "16"): ("ann_twin", ""),
    ("ANN twin", "12"): ("ann_twin", "12 channels"),
    ("ANN twin", "8"): ("ann_twin", "8 channels"),
    ("ANN twin", "6"): ("ann_twin", "6 channels"),
}


def test_clothes_after_the_longer_training_are_the_records() -> None:
    records_of = {
        key: {
            record["seed"]: record
            for record in records("fashion_mnist_plus")
            if (record["system"], record["variant"], record["sampler"]) == (*row, "ddim")
        }
        for key, row in LONGER.items()
    }
    twin = records_of["ANN twin", "16"]
    found = [row for row in under("SDDPM+ on clothes") if row[0] == "32x32, 256,000 images"]
    assert len(found) == len(LONGER)
    for _, title, channels, distance, share, strict, memory, seeds in found:
        own = records_of[title, channels]
        assert seeds == ", ".join(map(str, sorted(own)))
        distances = {seed: record["metrics"]["fd_efflite0"] for seed, record in own.items()}
        assert says(distance, list(distances.values())), title
        ratios = [value / twin[s]["metrics"]["fd_efflite0"] for s, value in distances.items()]
        assert says(share, [statistics.fmean(ratios)]), title
        for shown, accounting in ((strict, "strict"), (memory, "lemaire")):
            price = statistics.fmean(record["energies"][accounting] for record in own.values())
            assert says(shown, [price / twin[0]["energies"][accounting]]), (title, shown)


PAYING = {  # data of the page -> folder of SDDPM+, and folder and variant of its twin
    "digits, 8x8, 48 channels": ("digits_plus", "", "digits", ""),
    "clothes, 32x32, 24 channels, 64,000 images": (
        "fashion_mnist_rates", RATE, "fashion_mnist_rates", RATE,
    ),
    "clothes, 32x32, 24 channels, 256,000 images": (
        "fashion_mnist_plus", "", "fashion_mnist_plus", "",
    ),
    "photographs, 32x32, 24 channels, 384,000 images, beside a twin with this stem": (
        "cifar10_plus", "", "cifar10_plus", "stem of SDDPM+",
    ),
    "digits, 8x8, 16 channels, 1,000 steps": ("digits_ablation", "", "digits_curves", ""),
}  # fmt: skip


def test_the_event_weights_of_the_docs_are_the_records() -> None:
    page = (ROOT / "docs/sddpm_plus.md").read_text(encoding="utf-8")
    heading, *rows = tables(page.partition("## Paying for events")[2])[0]
    assert heading[1] == "event weight"
    data = ""
    for first, weight, *cells, seeds in rows:
        data = first or data
        folder, own, twins, twin = PAYING[data]
        variant = own if weight == "0" else ", ".join(filter(None, (f"event weight {weight}", own)))
        pair = []
        for where, system, name in ((folder, "sddpm_plus", variant), (twins, "ann_twin", twin)):
            found = [
                r for r in records(where)
                if (r["system"], r["variant"]) == (system, name) and str(r["seed"]) in seeds
                and (where != "cifar10_plus" or r["sampler"] == "dpm_solver++")
                and (where != "fashion_mnist_plus" or r["sampler"] == "ddim")
                and (where != "digits_curves" or r["train_steps"] == 1000)
            ]  # fmt: skip
            assert len(found) == len(seeds.split(", ")), (data, weight, system)
            pair.append(found)
        distances, rivals = ([r["metrics"]["fd_efflite0"] for r in side] for side in pair)
        assert says(cells[0], distances), (data, weight)
        assert says(cells[1], [statistics.fmean(distances) / statistics.fmean(rivals)])
        for key, shown in zip(("strict", "lemaire"), cells[2:], strict=True):
            ours, theirs = (statistics.fmean(r["energies"][key] for r in side) for side in pair)
            assert says(shown, [ours / theirs]), (data, weight, key)
    assert len(rows) == 17


def test_the_gains_are_those_of_the_search() -> None:
    with (ROOT / "results/gain/cifar10/guidance.csv").open(encoding="utf-8") as file:
        search = [row for row in csv.DictReader(file) if row["confirmation"] == "False"]
    heading, *rows = under("The output's gain", level="###")
    assert heading[1:] == ["FD (efflite0)", "contrast", "saturation", "noise"]
    assert len(rows) == 6
    for name, *cells in rows:
        gain, matched = float(NUMBER.findall(name)[0]), "matched" in name
        (found,) = (
            row for row in search
            if abs(float(row["gain"]) - gain) < 5e-4 and row["threshold"] == "1"
            and row["method"] == ("match" if matched else "trained" if gain == 1 else "grid")
        )  # fmt: skip
        for column, shown in zip(("distance", *heading[2:]), cells, strict=True):
            assert says(shown, [float(found[column])]), (name, column, shown)
