"""The gain in suites, records and commands, and its choice by guide."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from bench.guide.findings import Findings
from bench.guide.match import MATCH_IMAGES, choose_by_match
from bench.guide.plots import plot_gains
from bench.guide.scores import ScoredSetting, Scorer, Setting, best_of, may_win
from bench.guide.search import Search
from bench.guide.tables import cells, costs, headings, to_csv
from bench.plan.cells import digest
from bench.records.identity import across_seeds, replaced_by
from bench.run import states
from bench.suites.schema import SamplingChoice
from bench.tables.rows import row_of
from sddpm.guidance import GUIDANCE, HeldOut
from sddpm.protocol import ImageShape
from tests.support.calling import call, call_run
from tests.support.records import record
from tests.support.suites import TINY_SUITE
from tests.support.systems import make, tiny_system

# The choice by matched pixels.


def test_the_match_is_the_least_of_a_parabola() -> None:
    """contrast = 0.9 g^1.5 and noise = 1.2 / g are lines in logarithms, so the mismatch is a
    parabola in u = ln g: (ln 0.9 + 1.5 u)^2 + (ln 1.2 - u)^2, least at the u below."""
    drawn: list[float] = []

    def ratios(gain: float) -> dict[str, float]:
        drawn.append(gain)
        return {"contrast": 0.9 * gain**1.5, "noise": 1.2 / gain, "saturation": 1.0}

    found = choose_by_match(ratios, [1.0, 1.3, 0.9], 64 * 20)
    wanted = np.exp((np.log(1.2) - 1.5 * np.log(0.9)) / (1 + 1.5**2))
    assert found.gain == pytest.approx(wanted, abs=5e-4)
    assert found.network_evaluations == 3 * 64 * 20
    assert sorted(drawn) == [0.9, 1.0, 1.3]
    least = min(row["mismatch"] for row in found.curve)
    assert least > np.log(0.9 * wanted**1.5) ** 2 + np.log(1.2 / wanted) ** 2


def test_the_match_stays_between_the_measured_gains() -> None:
    found = choose_by_match(lambda gain: {"contrast": gain / 2, "noise": gain / 2}, [1.0, 1.2], 1)
    assert found.gain == 1.2


def test_pictures_of_one_grey_cannot_be_matched() -> None:
    with pytest.raises(ValueError, match=r"gain 1: .*one grey level"):
        choose_by_match(lambda gain: {"contrast": 0.0, "noise": 1.0}, [1.0, 1.1], 1)


# The choice by the grid.

TRAINED = ScoredSetting(
    "trained", 1.0, 50.0, 0.0, 0.0, 0.0, 0.1, 0.3, None, None, 100,
    contrast=0.9, saturation=0.6, noise=1.3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("gain", "contrast", "saturation", "wins"),
    [
        (1.1, 1.0, 0.7, True),  # far from the data's, but nearer than as trained
        (0.9, 1.0, 0.5, False),
        (1.2, 1.0, 1.2, True),  # a fifth is within
        (1.2, 1.0, 1.25, False),
        (1.2, 1.25, 1.0, False),
        (1.2, 1.25, None, False),
        (1.2, 1.1, None, True),  # data without black and white
        (1.0, 1.5, 1.5, True),  # thresholds alone are judged by their distance
    ],
)
def test_saturated_pictures_cannot_win(
    gain: float, contrast: float, saturation: float | None, wins: bool
) -> None:
    row = replace(
        TRAINED, method="grid", distance=20.0, gain=gain, contrast=contrast, saturation=saturation
    )
    assert may_win(row, TRAINED) == wins
    assert best_of([TRAINED, row]) is (row if wins else TRAINED)
    assert ("not eligible" in cells(row, TRAINED)[0]) != wins


def scored(method: str = "best") -> tuple[Findings, list[tuple[Any, int]]]:
    """A search in which a threshold of 0.9 gains 1, a gain of 1.1 gains 5, and a gain of 1.4
    gains 20 and saturates."""
    system, calls = tiny_system().eval(), []

    def score(setting: Setting, first: int) -> dict[str, Any]:
        calls.append((setting.key, first))
        better = (setting.thresholds == 0.9) + {1.1: 5, 1.4: 20}.get(setting.gain, 0)
        noise = [0.0, 5.0, -3.0, 1.0]
        return {"distances": [50 - better + n for n in noise], "kid": 0.1, "firing_rate": 0.3,
                "contrast": setting.gain, "saturation": setting.gain, "noise": 1.1}  # fmt: skip

    pictures = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    search = Search(
        Scorer(system, score, steps=2, samples=12),
        HeldOut.draw(pictures, system.diffusion),
        [0.9] if method == "best" else [],
        method,  # type: ignore[arg-type]
        gains=(1.1, 1.0, 1.4),
        ratios=lambda gain: {"contrast": gain - 0.08, "noise": gain - 0.08},
    )
    found = search.run()
    assert len(calls) == len(set(calls)) <= search.settings, "a row was drawn twice"
    return found, calls


def test_a_grid_tries_gains_alone_and_with_the_best_threshold() -> None:
    found, _ = scored()
    names = [(row.method, row.thresholds, row.gain) for row in found.rows]
    assert names[:4] == [("trained", 1.0, 1.0), ("grid", 0.9, 1.0), ("grid", 1.0, 1.1),
                         ("grid", 1.0, 1.4)]  # fmt: skip
    assert ("both", 0.9, 1.1) in names
    (match,) = [row for row in found.rows if row.method == "match"]
    assert match.gain == pytest.approx(1.08, abs=1e-3)
    assert match.evaluations == 3 * MATCH_IMAGES * 2
    assert (found.chosen.thresholds, found.chosen.gain) == (0.9, 1.1), "1.4 has the least distance"
    assert found.judged.confirmation
    assert found.judged.difference == pytest.approx(-6)
    assert found.sentence("FD").startswith("Threshold 0.9 with gain 1.1 (both) is better")
    ways = {line.partition(":")[0] for line in costs(found)}
    assert ways == {"loss", "gradient", "match", "both", "grid of thresholds", "grid of gains"}


def test_a_match_alone_is_judged_by_its_images() -> None:
    found, calls = scored("match")
    assert [row.method for row in found.rows] == ["trained", "match"]
    assert len(calls) == 2
    assert found.rows[0].loss_difference is None, "a gain has no held-out loss here"


def test_the_tables_and_the_plot_show_the_gain(tmp_path: Path) -> None:
    found, _ = scored()
    names = headings("FD", "KID")
    assert all(len(cells(row, found.trained)) == len(names) for row in found.rows)
    assert not any("match, not" in cell for row in found.rows for cell in cells(row, found.trained))
    rows = list(csv.DictReader(to_csv(found).splitlines()))
    assert [row["gain"] for row in rows][:4] == ["1.0", "1.0", "1.1", "1.4"]
    assert float(rows[3]["saturation"]) == 1.4
    plot_gains(found, "FD (x)", tmp_path / "g.svg")
    text = (tmp_path / "g.svg").read_text()
    for words in ("gain of the output", "FD (x)", "saturation", "matched pixels"):
        assert words in text


@pytest.mark.parametrize(("name", "spikes"), [("sddpm_plus", True), ("ann_twin", False)])
def test_a_network_without_single_spikes_is_scored_too(name: str, spikes: bool) -> None:
    from bench.guide.drawn import DrawnScores
    from bench.machine import Machine

    class Few(DrawnScores):
        """Draws, and leaves features and references out."""

        def __init__(self, system: Any) -> None:
            self.system, self.machine, self.seed, self.batch = system, Machine("cpu"), 0, 4
            self.sampling = {"sampler": "ddim", "steps": 2}

    few = Few(make(name, ImageShape(1, 8)))
    rate = few.firing_rate(Setting(None, 1.1), 0)
    assert (rate is not None and 0 < rate < 1) if spikes else rate is None


# Suites and records.


def test_hashes_know_a_gain_only_where_there_is_one() -> None:
    how = {"sampler": "ddim", "steps": 2}
    before = {**how, "eta": 0.0, "threshold": None, "engine": "exact"}
    for gain in ({}, {"gain": None}, {"gain": 1.0}):
        assert digest(SamplingChoice(**how, **gain).model_dump()) == digest(before)
    assert SamplingChoice(**how, gain=1.08).model_dump() == {**before, "gain": 1.08}
    for wrong in (0.0, -1.0, float("nan"), True, "loud"):
        with pytest.raises(ValueError, match="gain"):
            SamplingChoice(**how, gain=wrong)


def test_keys_of_records_know_a_gain_only_where_there_is_one() -> None:
    plain, louder = record("sddpm", 1.0), record("sddpm", 1.0, gain=1.1)
    for key in (across_seeds, replaced_by):
        assert key(plain) != key(louder)
        assert len(key(plain)) == len(key(louder)) - 1
    assert "gain" not in row_of(plain)
    assert row_of(louder)["gain"] == 1.1
    assert str(row_of(louder)["solver"]).endswith("gain=1.1")


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    content = yaml.safe_load(TINY_SUITE)
    content |= {"systems": ["sddpm"], "sampling": [
        {"sampler": "ddim", "steps": 2, "eta": 1, "gain": [1, 1.5, "guided"]}
    ]}  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_draws_at_the_gains_of_its_suite(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def records() -> dict[Any, dict[str, Any]]:
        lines = (out / "records.jsonl").read_text().splitlines()
        return {line["gain"]: line for line in map(json.loads, lines)}

    first = call_run(suite, out)
    assert first.exit_code == 1, "no gain was chosen yet"
    assert "guide --ckpt" in records()["guided"]["reason"]
    checkpoint = next(out.glob("trainings/*/checkpoint"))
    (checkpoint / GUIDANCE).write_text('{"gain": 1.5}')
    second = call_run(suite, out)
    assert second.exit_code == 0, second.output
    found = records()
    assert found["guided"]["guided_gain"] == 1.5
    assert found["guided"]["metrics"] == found[1.5]["metrics"] != found[None]["metrics"]

    # Another choice draws the guided cell again, and it alone.
    (checkpoint / GUIDANCE).write_text('{"gain": 1.2}')
    assert call_run(suite, out).exit_code == 0
    assert records()["guided"]["guided_gain"] == 1.2
    assert records()[1.5] == found[1.5]
    cell = next(out.glob("cells/*gainguided*"))
    assert json.loads((cell / states.SAMPLES_FACTS).read_text())[states.MADE_AT] == {
        "thresholds": None, "gain": 1.2,
    }  # fmt: skip


# Commands.


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    text = tmp_path / "one.yaml"
    text.write_text(TINY_SUITE)
    done = call("train", "--suite", text, "--preset", "smoke", "--system", "sddpm",
                "--out", tmp_path / "one")  # fmt: skip
    assert done.exit_code == 0, done.output
    return tmp_path / "one" / "checkpoint"


def test_guide_writes_a_gain_and_sample_uses_it(checkpoint: Path, tmp_path: Path) -> None:
    few = ["--samples", "12", "--references", "30", "--bootstrap", "4", "--sampler", "ddim:2:1",
           "--extractor", "embedded", "--device", "cpu"]  # fmt: skip
    done = call(
        "guide", "--ckpt", checkpoint, "--method", "match", "--gains", "1.3", "--keep", *few
    )
    assert done.exit_code == 0, done.output
    assert (checkpoint / "guidance_gain.png").is_file()
    assert not (checkpoint / "guidance.png").exists(), "no threshold was tried"
    assert "| match | 1 | 1" in (checkpoint / "guidance.md").read_text()

    (checkpoint / GUIDANCE).write_text('{"gain": 1.3}')
    how = ["--ckpt", checkpoint, "--num", 3, "--sampler", "ddim:2:1", "--device", "cpu"]
    images = {}
    for name, more in {"file": [], "1.3": ["--gain", 1.3], "1": ["--gain", 1]}.items():
        result = call("sample", *how, *more, "--out", tmp_path / f"{name}.npy")
        assert result.exit_code == 0, result.output
        assert ("gain: 1.3, guided" in result.stderr) == (name == "file")
        images[name] = np.load(tmp_path / f"{name}.npy")
    assert np.array_equal(images["file"], images["1.3"])
    assert not np.array_equal(images["file"], images["1"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--grid", "g.png", "--gain", "0"], ["--gain", "'0'", "above 0"]),
        (["sample", "--grid", "g.png", "--gain", "inf"], ["--gain", "'inf'", "above 0"]),
        (["evaluate", "--gain", "loud"], ["--gain", "'loud'", "above 0"]),
        (["guide", "--gains", "1.1,-1"], ["--gains", "1.1,-1", "above 0"]),
        (["guide", "--method", "loss", "--gains", "1.1"], ["--gains 1.1", "--method loss"]),
        (["guide", "--method", "match", "--values", "0.9"], ["--values 0.9", "--method match"]),
    ],
)
def test_a_wrong_gain_is_refused_in_one_line(arguments: list[str], words: list[str]) -> None:
    result = call(*arguments, "--ckpt", "fashion-mnist")
    assert result.exit_code == 2
    line = result.stderr.strip().splitlines()[-1]
    assert all(word in line for word in words), line


def test_what_does_not_denoise_has_no_gain(tmp_path: Path) -> None:
    text = tmp_path / "one.yaml"
    text.write_text(TINY_SUITE)
    assert call("train", "--suite", text, "--preset", "smoke", "--system", "pixel_gaussian",
                "--out", tmp_path / "one").exit_code == 0  # fmt: skip
    folder = tmp_path / "one" / "checkpoint"
    result = call("sample", "--ckpt", folder, "--gain", "1.1", "--grid", tmp_path / "g.png")
    assert result.exit_code == 2
    line = result.stderr.strip().splitlines()[-1]
    assert "--gain 1.1: pixel_gaussian does not denoise, so it has no gain" in line
