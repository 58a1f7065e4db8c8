"""Suites: the shipped ones are sound, one extends another, and a broken one says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.data.datasets import find_spec
from bench.plan.cells import Data, expand
from bench.quality.fidelity import MIN_IMAGES
from bench.suites.reading import load_suite, parse_suite, shipped_suites
from bench.suites.schema import FEWEST_IMAGES, MOST_SAMPLES, MOST_TIME_STEPS, Budget
from sddpm import neurons
from sddpm.rng import SEEDS_PER_RUN

GOOD = """\
name: mine
title: My suite
dataset: digits
image_size: 8
systems: [sddpm, pixel_gaussian]
time_steps: [4]
sampling:
  - {sampler: ddim, steps: 5, eta: 1}
presets:
  smoke:
    budget: {train_steps: 3, batch_size: 4}
    samples: 10
    references: 20
    energy_images: 1
    config:
      sddpm: &net {channels: 8, learning_rate: 2e-3}
"""


def test_reads_a_good_suite() -> None:
    suite = parse_suite(GOOD, "mine.yaml")
    preset = suite.presets["smoke"]
    assert suite.systems == ["sddpm", "pixel_gaussian"]
    assert suite.sampling[0].eta == 1.0
    assert (preset.budget.train_steps, preset.budget.batch_size) == (3, 4)
    # YAML 1.1 would read 2e-3 as text.
    assert preset.config["sddpm"]["learning_rate"] == 0.002


def test_a_budget_in_images_is_rounded_up_to_steps() -> None:
    budget = Budget(train_images=10, batch_size=4)
    assert budget.steps(4, train_images=None, parent_images=0) == 3


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "steps"),
    [
        (150, 50_000, 250, 30_000),  # FSVAE's training on CIFAR-10
        (1500, 60_000, 256, 351_563),  # 351,562.5 batches: the half one counts
        (0.5, 10, 5, 1),
        (0.1, 30, 1, 3),  # a tenth, not the binary number above it
    ],
)
def test_a_budget_in_epochs(epochs: float, images: int, batch: int, steps: int) -> None:
    assert Budget(epochs=epochs).steps(batch, train_images=images, parent_images=0) == steps


@pytest.mark.parametrize(
    ("share", "parent_steps", "steps"),
    [(0.1, 30, 2), (0.1, 20, 1), (0.1, 1500, 149), (0.1, 1501, 150), (0.3, 10, 2), (1, 10, 9)],
)
def test_a_share_of_the_parent_is_less_than_it(share: float, parent_steps: int, steps: int) -> None:
    budget = Budget(of_parent=share)
    assert budget.steps(16, train_images=None, parent_images=16 * parent_steps) == steps


def test_lists_in_a_choice_are_swept() -> None:
    text = GOOD.replace("sampler: ddim, steps: 5, eta: 1", "sampler: [ddpm, euler], steps: [5, 50]")
    suite = parse_suite(text, "f")
    swept = [(choice.sampler, choice.steps) for choice in suite.sampling]
    assert swept == [("ddpm", 5), ("ddpm", 50), ("euler", 5), ("euler", 50)]
    for wrong, line in (("[ddpm, dim]", 8), ("[]", 7)):
        with pytest.raises(ValueError, match=f"line {line}: sampling"):
            parse_suite(text.replace("[ddpm, euler]", wrong), "f")


@pytest.mark.parametrize("name", list(shipped_suites()))
def test_shipped_suites_are_sound(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert "smoke" in suite.presets
    channels = 1 if "digits" in name or "mnist" in name else 3
    manifold = find_spec(suite.dataset).manifold
    data = Data(
        suite.dataset, suite.dataset, channels, suite.image_size, channels == 3, 50_000, manifold
    )
    for preset in suite.presets:
        cells = expand(suite, preset, data)  # every configuration is one that its system takes
        for training in (cell.training for cell in cells):
            parent = training.parent
            if training.system == "sddpm_tsm":
                assert parent is not None
                own, theirs = training.steps * training.batch_size, parent.steps * parent.batch_size
                assert own < theirs / 10, (preset, "TSM: under a tenth of its parent's, published")
            if training.system in ("converted", "rddpm_converted"):
                assert training.steps == training.config["calibration_steps"], preset


@pytest.mark.parametrize(
    "name", ["digits", "mnist", "fashion_mnist", "cifar10", "celeba", "lsun_bedroom"]
)
def test_every_data_set_has_all_four_sizes_and_the_published_budget(name: str) -> None:
    suite = load_suite(name)
    assert set(suite.presets) - {"converged"} == {"smoke", "small", "medium", "paper"}
    assert suite.presets["paper"].samples == 50_000
    budget = suite.presets["paper"].budget
    assert (budget.train_steps, budget.batch_size) == (500_000, 128)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("title: My suite", "titel: My suite", 2, ["titel", "did you mean 'title'"]),
        ("image_size: 8", "image_size: eight", 4, ["image_size", "whole number", "'eight'"]),
        ("image_size: 8", "image_size: 8.5", 4, ["image_size", "8.5"]),
        ("dataset: digits", "dataset: digit", 3, ["dataset", "digit", "mnist"]),
        ("sddpm, pixel", "sdpm, pixel", 5, ["systems.0", "'sdpm'", "did you mean", "ann_twin"]),
        ("time_steps: [4]", "time_steps: [0]", 6, ["time_steps.0", "greater than"]),
        ("eta: 1", "eta: 1, gain: 0", 8, ["line 8: sampling.0.gain: ", "greater than 0"]),
        ("sampler: ddim", "sampler: ddmi", 8, ["sampling.0.sampler", "'ddim'"]),
        ("sampler: ddim", "sampler: ddpm", 8, ["eta=1", "takes no eta"]),
        ("  smoke:", "  smok:", 10, ["presets", "smoke"]),
        ("batch_size: 4", "batch_sze: 4", 11, ["batch_sze", "did you mean 'batch_size'"]),
        ("train_steps: 3, ", "", 11, ["train_steps", "train_images", "epochs", "of_parent"]),
        ("train_steps: 3", "of_parent: 0.1", 10, ["presets.smoke", "of_parent", "budgets"]),
        ("train_steps: 3", "epochs: 0", 11, ["presets.smoke.budget.epochs", "greater than 0"]),
        ("samples: 10", "samples: 1", 12, ["presets.smoke.samples"]),
        ("    references: 20\n", "", 10, ["presets.smoke.references", "missing"]),
        ("sddpm: &net", "sddpn: &net", 16, ["presets.smoke.config.sddpn", "'sddpm'"]),
        ("title: My suite", "title: My: suite", 2, ["not YAML"]),
        ("title: My suite", "name: again", 2, ["name", "twice"]),
        ("samples: 10", "samples: 5", 12, ["presets.smoke.samples", "10", "not 5"]),
        ("references: 20", "references: 3", 13, ["presets.smoke.references", "10", "not 3"]),
        ("eta: 1", "threshold: .inf", 8, ["threshold", "finite"]),
        ("channels: 8", "channels: -8", 16, ["config.sddpm.channels", "-8"]),
        ("channels: 8", "multipliers: [1, -2]", 16, ["config.sddpm.multipliers", "-2"]),
        ("2e-3", "-0.01", 16, ["config.sddpm.learning_rate", "-0.01"]),
        ("2e-3", ".nan", 16, ["config.sddpm.learning_rate", "finite", "nan"]),
        ("channels: 8", "time_steps: 9", 16, ["config.sddpm.time_steps", "of the suite"]),
        (
            "samples: 10\n", "samples: 10\n    variants: {sddpm: {long: {time_steps: 8}}}\n", 13,
            ["variants.sddpm.long.time_steps", "of the suite"],
        ),
        (
            "samples: 10\n", "samples: 10\n    variants: {sddpm: {a: {channels: -8}}}\n", 13,
            ["variants.sddpm.a.channels", "-8"],
        ),
        (
            "samples: 10\n", "samples: 10\n    budgets: {vae: {of_parent: 0.1}}\n", 13,
            ["presets.smoke.budgets.vae", "built from no other system"],
        ),
        (
            "samples: 10\n", "samples: 10\n    system_time_steps: {vae: [4]}\n", 13,
            ["presets.smoke.system_time_steps.vae", "no spiking time steps"],
        ),
        (
            "samples: 10\n",
            "samples: 10\n    system_sampling: {vae: [{sampler: ddpm, steps: 9}]}\n",
            13, ["presets.smoke.system_sampling.vae", "no sampler"],
        ),
        ("title: My suite", "? [a, b]\n: x", 2, ["as a key", "expected text"]),
        ("title: My suite", "title: &a [*a]", 2, ["holds itself"]),
    ],
)  # fmt: skip
def test_a_broken_suite_names_file_line_and_field(
    old: str, new: str, line: int, words: list[str]
) -> None:
    assert old in GOOD
    with pytest.raises(ValueError, match=rf"^broken\.yaml, line {line}: ") as caught:
        parse_suite(GOOD.replace(old, new, 1), "broken.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("title", ["2024-13-45", "!!bool x", "[" * 3000])
def test_values_that_are_none_name_the_file(title: str) -> None:
    with pytest.raises(ValueError, match=r"^broken\.yaml: "):
        parse_suite(GOOD.replace("My suite", title), "broken.yaml")


def test_what_a_suite_accepts_can_be_drawn_and_scored() -> None:
    assert FEWEST_IMAGES == MIN_IMAGES
    assert MOST_SAMPLES == SEEDS_PER_RUN
    assert MOST_TIME_STEPS == neurons.MOST_TIME_STEPS


def test_time_steps_of_a_system_that_is_trained_once_are_its_own() -> None:
    text = GOOD.replace("sddpm: &net {channels: 8", "converted: {channels: 8, time_steps: 2")
    suite = parse_suite(text.replace(", learning_rate: 2e-3", ""), "f")
    assert suite.presets["smoke"].config["converted"]["time_steps"] == 2


@pytest.mark.parametrize("text", ["", "[1, 2]", "just text"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    with pytest.raises(ValueError, match="expected a mapping"):
        parse_suite(text, "empty.yaml")


def test_where_finds_the_line_behind_an_anchor() -> None:
    text = GOOD + "      pixel_gaussian: *net\n"
    suite = parse_suite(text, "f.yaml")
    place = suite.where("presets", "smoke", "config", "pixel_gaussian", "channels")
    assert place == "f.yaml, line 16: presets.smoke.config.pixel_gaussian.channels"


def test_unknown_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown suite 'cifar': did you mean 'cifar10'"):
        load_suite("cifar")
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        load_suite(str(tmp_path / "absent.yaml"))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match=r"binary\.yaml"):
        load_suite(str(binary))
