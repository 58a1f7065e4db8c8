"""The guide command: its scorer against the metrics, its search, its report, its resume."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.checkpoints import Checkpoint
from bench.guide.drawn import DrawnScores
from bench.guide.findings import Findings
from bench.guide.scores import Ledger, ScoredSetting, Scorer, Setting
from bench.guide.search import Search, grid_values
from bench.guide.tables import costs, headings, to_csv, to_markdown
from bench.quality.extractors import EMBEDDED
from bench.quality.fidelity import Statistics, compute, summarise
from bench.run.drawing import DrawOptions, open_to_draw
from sddpm.denoising import Denoiser
from sddpm.guidance import GUIDANCE, Guided, HeldOut, read_guidance, read_thresholds, simplify
from sddpm.protocol import ImageShape
from sddpm.system import Config, build
from tests.support.calling import call
from tests.support.suites import TINY_SUITE

pytestmark = pytest.mark.usefixtures("own_cache")

SUITE = TINY_SUITE.replace("train_steps: 4", "train_steps: 8")
SEARCH = ["--values", "0.8", "--samples", "12", "--held-out", "16", "--references", "30",
          "--bootstrap", "4", "--sampler", "ddim:2:1", "--extractor", "embedded",
          "--device", "cpu"]  # fmt: skip


def trained(tmp_path: Path, system: str = "sddpm") -> Path:
    suite = tmp_path / "tiny.yaml"
    suite.write_text(SUITE)
    out = tmp_path / system
    done = call("train", "--suite", suite, "--preset", "smoke", "--system", system, "--out", out)
    assert done.exit_code == 0, done.output
    return out / "checkpoint"


# The whole command.


def test_guide_is_killed_goes_on_and_sample_uses_what_it_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = trained(tmp_path)
    scored: list[tuple[Any, int]] = []

    class Interrupted(DrawnScores):
        def score(self, setting: Setting, first: int) -> dict[str, Any]:
            if len(scored) == 2 and stop:
                raise KeyboardInterrupt
            scored.append((setting.thresholds, first))
            return super().score(setting, first)

    stop = True
    monkeypatch.setattr("bench.guide.run.DrawnScores", Interrupted)
    killed = call("guide", "--ckpt", checkpoint, *SEARCH)
    assert killed.exit_code == 130
    assert scored == [(1.0, 0), (0.8, 0)]
    assert not (checkpoint / GUIDANCE).exists()

    stop = False
    done = call("guide", "--ckpt", checkpoint, *SEARCH)
    assert done.exit_code == 0, done.output
    assert len(scored) == len({json.dumps(item) for item in scored}), "a row was made twice"
    before = len(scored)
    again = call("guide", "--ckpt", checkpoint, *SEARCH)
    assert again.exit_code == 0
    assert len(scored) == before, "a finished search was redone"
    assert call("guide", "--ckpt", checkpoint, *SEARCH, "--seed", "1", "--method", "loss",
                "--no-confirm", "--keep", "--out", tmp_path / "other").exit_code == 0  # fmt: skip
    assert len(scored) > before, "another seed is another search"

    # The last search was by loss: one value, chosen without images, scored beside the trained.
    facts = json.loads((checkpoint / GUIDANCE).read_text())
    rows = list(csv.DictReader((tmp_path / "other" / "guidance.csv").open()))
    assert [row["method"] for row in rows] == ["trained", "loss"]
    assert facts["thresholds"] in (0.8, 1.0)
    report = (tmp_path / "other" / "guidance.md").read_text()
    assert "--method loss" in report
    assert "| trained | 1 |" in report
    first = (checkpoint / "guidance.md").read_text()
    assert "| gradient |" in first
    assert "What each way of choosing cost" in first
    assert (checkpoint / "guidance.png").read_bytes().startswith(b"\x89PNG")

    # What is in the file is what samples, unless the command line says otherwise.
    (checkpoint / GUIDANCE).write_text('{"thresholds": 0.7}')
    how = ["--ckpt", checkpoint, "--num", 3, "--sampler", "ddim:2:1", "--device", "cpu"]
    images = {}
    for name, more in {"file": [], "0.7": ["--threshold", 0.7], "1": ["--threshold", 1]}.items():
        result = call("sample", *how, *more, "--out", tmp_path / f"{name}.npy")
        assert result.exit_code == 0, result.output
        assert ("guided" in result.stderr) == (name == "file")
        images[name] = np.load(tmp_path / f"{name}.npy")
    assert np.array_equal(images["file"], images["0.7"])
    assert not np.array_equal(images["file"], images["1"])
    other_time = call("sample", *how, "--time-steps", 3, "--out", tmp_path / "t.npy")
    assert "as trained" in other_time.stderr


def test_what_cannot_be_guided_is_refused_in_one_line(tmp_path: Path) -> None:
    checkpoint = trained(tmp_path, "pixel_gaussian")
    for arguments, words in (
        ([checkpoint], ["pixel_gaussian", "does not denoise"]),
        ([checkpoint, "--values", "0.9,-1"], ["--values", "above 0", "0.9,-1"]),
        ([tmp_path / "absent"], ["absent", "not a checkpoint folder"]),
    ):
        result = call("guide", "--ckpt", *arguments)
        assert result.exit_code == 2
        line = result.stderr.strip().splitlines()[-1]
        assert all(word in line for word in words), line


# The scorer.


def test_distances_of_resamples_are_torch_fidelitys(tmp_path: Path) -> None:
    checkpoint = Checkpoint.read(trained(tmp_path))
    drawing = open_to_draw(checkpoint, DrawOptions(sampler="ddim:2:1", device="cpu"))
    references = checkpoint.images("train", None, 40)
    scorer = DrawnScores(drawing.system, drawing.machine, references, EMBEDDED,
                         sampling=drawing.sampling or {}, samples=12, bootstrap=3)  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    dimensions = scorer.reference.features.shape[1]
    features = torch.rand(50, dimensions, generator=rng)
    everything, drawn = torch.arange(50), torch.randint(50, (50,), generator=rng)
    logits = torch.zeros(50, 4)
    for index, found in zip(
        (everything, drawn), scorer.distances(features, [everything, drawn]), strict=True
    ):
        wanted = compute(summarise(features[index]), scorer.reference, logits)["fid"]
        assert found == pytest.approx(wanted, rel=1e-4)

    # Few dimensions and a known answer: two Gaussians' moments, tr of a commuting product.
    mean = torch.tensor([1.0, -2.0])
    scorer.reference = Statistics(
        torch.zeros(1, 2), torch.zeros(2), torch.diag(torch.tensor([4.0, 9.0])).double()
    )
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * 3**0.5 / 2 + mean
    (found,) = scorer.distances(x, [torch.arange(4)])
    # Covariance 1 in both: |m|^2 + (1 - 2)^2 + (1 - 3)^2.
    assert found == pytest.approx(5 + 1 + 4)


@pytest.fixture
def network() -> Denoiser:
    torch.manual_seed(0)
    return build(Config(2, channels=8, multipliers=(1, 2), blocks=1), ImageShape(1, 8)).eval()


def test_search_compares_pairs_and_shares_rows(network: Denoiser) -> None:
    calls: list[Any] = []

    def score(setting: Setting, first: int) -> dict[str, Any]:
        """A distance that is least at 0.9, with noise that every threshold shares."""
        thresholds = setting.thresholds
        calls.append((thresholds, first))
        level = thresholds if isinstance(thresholds, float) else 1.1
        noise = [0.0, 5.0, -3.0, 1.0]
        away = abs(level - 0.9) * 10
        return {"distances": [50 + away + n for n in noise], "kid": 0.1, "firing_rate": 0.3 / level}

    scorer = Scorer(network, score, steps=2, samples=12)
    pictures = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noised = HeldOut.draw(pictures, network.diffusion)
    search = Search(scorer, noised, grid_values(scorer.system, [0.9, 1.2, 1.0]), "best")
    found = search.run()
    assert search.values == [0.9, 1.2], "the trained threshold is a row of its own"
    assert [row.method for row in found.rows] == ["trained", "grid", "grid", "loss", "gradient"]
    assert len(calls) == len({json.dumps(item) for item in calls}) <= search.settings
    assert found.chosen.thresholds == 0.9
    assert found.judged.confirmation
    assert found.judged.verdict == "better", "noise that is shared must cancel"
    assert found.judged.difference == pytest.approx(-1)
    grid = next(line for line in costs(found) if line.startswith("grid of thresholds"))
    assert f"{3 * 12 * 2:,} evaluations" in grid
    # 16 images: the trained network and three candidates; a forward and a backward pass, then
    # the trained network and nine steps.
    assert [row.evaluations for row in found.rows[3:]] == [16 * 4, 16 * 13]
    assert read_thresholds(scorer.system.generator) == dict.fromkeys(
        read_thresholds(scorer.system.generator), 1.0
    ), "the network is left as it was trained"


def test_intervals_come_from_paired_resamples(network: Denoiser) -> None:
    values = {1.0: [10.0, 11.0, 9.0, 10.0], 0.9: [9.0, 10.5, 8.5, 8.0]}

    def score(setting: Setting, first: int) -> dict[str, Any]:
        return {"distances": values[setting.thresholds], "kid": 0.0, "firing_rate": 0.1}

    scorer = Scorer(network, score, steps=2, samples=12)
    row = scorer.row("grid", 0.9, 0)
    error = np.std([-0.5, -0.5, -2.0], ddof=1)
    assert row.difference == -1
    assert (row.low, row.high) == pytest.approx((-1 - 1.96 * error, -1 + 1.96 * error), rel=1e-4)
    same = scorer.row("grid", 1.0, 0)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert same.verdict == "undecided"


# What is said of it.


def findings(low: float, high: float, picked: float = 0.9) -> Findings:
    base = ScoredSetting("trained", 1.0, 50.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.0, 0.0, 100)
    row = replace(
        base, method="grid", thresholds=picked, distance=49.0, difference=-1.0, low=low, high=high
    )
    pick = row if picked != 1.0 else base
    return Findings([base, row], [], [], pick, pick)


@pytest.mark.parametrize(
    ("low", "high", "words", "chosen"),
    [
        (-2.0, -0.1, "is better than the trained one", 0.9),
        (-2.0, 0.5, "A null result, so the trained one is used (--keep uses this one)", 1.0),
        (0.2, 0.5, "is worse than the trained one, which is kept", 1.0),
    ],
)
def test_a_result_is_called_what_it_is(low: float, high: float, words: str, chosen: float) -> None:
    found = findings(low, high)
    assert words in found.sentence("FD")
    assert found.chosen.thresholds == chosen
    report = to_markdown(found, headings("FD", "KID"), {"command": "x"})
    assert found.sentence("FD") in report
    assert f"{low:+.2f} to {high:+.2f}" in report
    assert to_csv(found).splitlines()[0].startswith("method,threshold,gain,distance")


def test_a_null_result_is_used_only_if_that_is_asked_for() -> None:
    asked = replace(findings(-2.0, 0.5), keep=True)
    assert asked.chosen.thresholds == 0.9
    assert "null result, and is used all the same" in asked.sentence("FD")
    assert replace(findings(0.2, 0.5), keep=True).chosen.thresholds == 1.0, (
        "what is worse is never used"
    )


def test_nothing_better_is_said_too() -> None:
    assert "No setting beats the trained threshold" in findings(-1, 1, picked=1.0).sentence("FD")


def test_a_damaged_file_of_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a", "made_from": {}, "result": 1}\n{"key"')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2"):
        Ledger(path)
    path.unlink()
    first = Ledger(path)
    assert first.recall({"a": 1}, lambda: [1.5]) == [1.5]
    assert Ledger(path).recall({"a": 1}, lambda: pytest.fail("made again")) == [1.5]
    assert Ledger(path).recall({"a": 2}, lambda: [2]) == [2]


def test_equal_thresholds_are_one_number() -> None:
    assert simplify({"a": 0.99800002574, "b": 0.998}) == 0.998
    assert simplify({"a": 0.9, "b": 1.0}) == {"a": 0.9, "b": 1.0}


def test_the_file_that_guide_writes_is_read_by_sampling(tmp_path: Path) -> None:
    from bench.guide.search import write_guidance

    write_guidance(tmp_path, replace(findings(-2, 0.5), keep=True), {"command": "x"}, 4)
    assert read_guidance(tmp_path) == Guided(0.9, 1.0)
    content = json.loads((tmp_path / GUIDANCE).read_text())
    assert content["time_steps"] == 4
    assert content["verdict"] == "undecided"
    assert len(content["rows"]) == 2
