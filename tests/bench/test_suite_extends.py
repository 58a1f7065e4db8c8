"""Suites that extend another: merging, where an error stands, circles; hostile YAML is refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.plan.cells import Data, expand
from bench.suites.reading import load_suite, parse_suite, read_outline, shipped_suites

BASE = """\
name: base
title: The base
dataset: digits
image_size: 8
systems: [sddpm, sddpm_tsm, vae, ddpm]
time_steps: [4]
sampling:
  - {sampler: ddim, steps: 5, eta: 1}
presets:
  smoke:
    budget: {train_steps: 30, batch_size: 16, precision: bf16-mixed}
    budgets:
      sddpm_tsm: {of_parent: 0.1}
      vae: {epochs: 2, batch_size: 100}
    samples: 10
    references: 20
    energy_images: 1
    config:
      sddpm: {channels: 8, learning_rate: 2e-3}
      ddpm: {channels: 8}
  small:
    budget: {train_steps: 100}
    samples: 10
    references: 20
    energy_images: 1
"""
CHILD = """\
extends: base.yaml
name: child
title: The child
time_steps: [2, 8]
presets:
  smoke:
    budget: {train_steps: 50}
    samples: 12
    config:
      sddpm: {channels: 16}
      ddpm: null
  small: null
"""
DATA = Data("digits", "digits", 1, 8, False, train_images=1500)


def write(folder: Path, **texts: str) -> Path:
    """Files of those names; the path of the last."""
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
    return path


def test_mappings_are_merged_lists_replaced_and_null_takes_away(tmp_path: Path) -> None:
    suite = load_suite(str(write(tmp_path, base=BASE, child=CHILD)))
    assert (suite.name, suite.title, suite.dataset) == ("child", "The child", "digits")
    assert suite.time_steps == [2, 8]
    assert set(suite.presets) == {"smoke"}
    smoke = suite.presets["smoke"]
    assert (smoke.budget.train_steps, smoke.budget.batch_size) == (50, 16)
    assert (smoke.samples, smoke.references) == (12, 20)
    assert smoke.config == {"sddpm": {"channels": 16, "learning_rate": 2e-3}}


def test_budgets_follow_what_is_extended(tmp_path: Path) -> None:
    suite = load_suite(str(write(tmp_path, base=BASE, child=CHILD)))
    of = {cell.system: cell.training for cell in expand(suite, "smoke", DATA, time_steps=[4])}
    # Less than a tenth of 50 steps; batch and precision are the parent's.
    tsm = of["sddpm_tsm"]
    assert (tsm.steps, tsm.batch_size, tsm.precision) == (4, 16, "bf16-mixed")
    # Two epochs of 1,500 pictures in batches of 100; the precision is the preset's.
    vae = of["vae"]
    assert (vae.steps, vae.batch_size, vae.precision) == (30, 100, "bf16-mixed")


def test_converged_is_small_but_for_what_it_states(tmp_path: Path) -> None:
    text = BASE.replace(
        "  small:\n    budget: {train_steps: 100}\n",
        "  converged:\n    budget: {train_steps: 900}\n    config: {ddpm: {blocks: 2}}\n"
        "  small:\n    budget: {train_steps: 100, batch_size: 20}\n"
        "    config: {ddpm: {channels: 8}}\n",
    )
    child = (
        "extends: base.yaml\nname: child\ntitle: The child\n"
        "presets: {small: {samples: 15, config: {ddpm: {channels: 24}}}}\n"
    )
    base = parse_suite(text, "f").presets["converged"]
    assert (base.budget.train_steps, base.budget.batch_size, base.samples) == (900, 20, 10)
    assert base.config == {"ddpm": {"channels": 8, "blocks": 2}}
    # A suite that changes `small` changes the preset that is laid over it.
    suite = load_suite(str(write(tmp_path, base=text, child=child)))
    converged = suite.presets["converged"]
    assert (converged.budget.train_steps, converged.samples) == (900, 15)
    assert converged.config == {"ddpm": {"channels": 24, "blocks": 2}}
    small, long = (
        next(cell.training for cell in expand(suite, preset, DATA, systems=["ddpm"]))
        for preset in ("small", "converged")
    )
    # The system's own fields are those of its preset `small`.
    assert {**small.config, "blocks": 2} == long.config


def test_two_rows_of_the_same_settings_are_refused() -> None:
    text = BASE.replace("[sddpm, sddpm_tsm, vae, ddpm]", "[ddpm]")
    for variants, words in (
        ("{wide: {channels: 24}, same: {channels: 24}}", "variants.ddpm.same.*variant 'wide'"),
        ("{as it is: {channels: 8}}", "variants.ddpm.as it is.*the system's own row"),
    ):
        wrong = parse_suite(
            text.replace("    config:\n", f"    variants: {{ddpm: {variants}}}\n    config:\n"), "f"
        )
        with pytest.raises(ValueError, match=f"f, line .*{words}"):
            expand(wrong, "smoke", DATA)


def test_one_length_of_a_budget_replaces_another(tmp_path: Path) -> None:
    text = BASE.replace("  small:\n", "  converged: {budget: {train_steps: 900}}\n  small:\n")
    child = (
        "extends: base.yaml\nname: child\ntitle: The child\npresets:\n"
        "  smoke: {budget: {epochs: 2}, budgets: {vae: {train_steps: 7}}}\n"
        "  small: {budget: {train_steps: null, train_images: 640}}\n"
    )
    suite = load_suite(str(write(tmp_path, base=text, child=child)))
    smoke, small, converged = (suite.presets[name] for name in ("smoke", "small", "converged"))
    assert (smoke.budget.epochs, smoke.budget.train_steps, smoke.budget.batch_size) == (2, None, 16)
    vae = smoke.budgets["vae"]
    assert (vae.train_steps, vae.epochs, vae.batch_size) == (7, None, 100)
    assert (small.budget.train_images, small.budget.train_steps) == (640, None)
    assert (converged.budget.train_steps, converged.budget.train_images) == (900, None)


def test_converged_goes_with_the_preset_that_it_is_laid_over(tmp_path: Path) -> None:
    text = BASE.replace("  small:\n", "  converged: {budget: {train_steps: 900}}\n  small:\n")
    suite = load_suite(str(write(tmp_path, base=text, child=CHILD)))  # whose small is null
    assert set(suite.presets) == {"smoke"}


def test_a_factor_lengthens_every_training_of_a_preset() -> None:
    text = BASE.replace(
        "      vae: {epochs: 2, batch_size: 100}\n",
        "      vae: {epochs: 2, batch_size: 100}\n      converted: {train_steps: 2}\n"
        "      ddpm: {train_images: 1000}\n",
    ).replace("vae, ddpm]", "vae, ddpm, ann_twin, converted]")
    steps = {
        factor: {
            cell.system: cell.training.steps
            for cell in expand(parse_suite(text, "f").scaled("smoke", factor), "smoke", DATA)
        }
        for factor in (1, 2, 0.1, 1e-6)
    }
    # TSM: less than a tenth of its parent's; ddpm: 1,000 images in batches of 16; the vae: 2 epochs
    # of 1,500 images in batches of 100. The conversion is calibrated on its 2 batches.
    assert steps[1] == dict(sddpm=30, sddpm_tsm=2, vae=30, ddpm=63, ann_twin=30, converted=2)
    assert steps[2] == dict(sddpm=60, sddpm_tsm=5, vae=60, ddpm=125, ann_twin=60, converted=2)
    assert steps[0.1] == dict(sddpm=3, sddpm_tsm=1, vae=3, ddpm=7, ann_twin=3, converted=2)
    assert steps[1e-6]["sddpm"] == steps[1e-6]["vae"] == 1
    for factor in (1e8, 1e300, 1e308):
        with pytest.raises(ValueError, match=r"^--budget 1e\+\d+: .* would be more than"):
            parse_suite(text, "f").scaled("smoke", factor)


def test_a_system_has_time_steps_and_samplers_of_its_own(tmp_path: Path) -> None:
    text = BASE.replace(
        "    samples: 10\n",
        "    samples: 10\n"
        "    system_time_steps: {sddpm_tsm: [16]}\n"
        "    system_sampling: {ddpm: [{sampler: ddpm, steps: 7}]}\n",
        1,
    )
    suite = parse_suite(text, "f")
    cells = [cell.label for cell in expand(suite, "smoke", DATA)]
    assert cells == ["sddpm-T4-ddim5-eta1", "sddpm_tsm-T16-ddim5-eta1", "vae", "ddpm-ddpm7"]
    # The options of a run stand above both.
    cells = [
        cell.label for cell in expand(suite, "smoke", DATA, time_steps=[2], samplers=["ddim:3"])
    ]
    assert cells == ["sddpm-T2-ddim3", "sddpm_tsm-T2-ddim3", "vae", "ddpm-ddim3"]


def test_a_system_is_built_from_another_parent() -> None:
    text = BASE.replace(
        "samples: 10\n", "samples: 10\n    parents: {converted: quantised_twin}\n", 1
    )
    (cell,) = expand(parse_suite(text, "f"), "smoke", DATA, systems=["converted"])
    line = []
    training = cell.training
    while training is not None:
        line.append(training.system)
        training = training.parent
    assert line == ["converted", "quantised_twin", "ann_twin"]


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ("{vae: ddpm}", "vae: it is built from no other system"),
        ("{converted: ddpm}", "converted: expected ann_twin, or a system that is built"),
        ("{converted: quantised_twin, quantised_twin: converted}", "in a circle"),
        ("{converted: nothing}", "unknown system 'nothing'"),
    ],
)
def test_a_parent_that_cannot_be_one_is_refused(parents: str, words: str) -> None:
    text = BASE.replace("samples: 10\n", f"samples: 10\n    parents: {parents}\n", 1)
    with pytest.raises(ValueError, match=rf"f, line 16: presets\.smoke\.parents.*{words}"):
        parse_suite(text, "f")


def test_a_new_data_set_takes_a_few_lines(tmp_path: Path) -> None:
    text = "extends: cifar10\nname: cats\ntitle: Cats\ndataset: digits\nimage_size: 8\n"
    suite = load_suite(str(write(tmp_path, cats=text)))
    shipped = load_suite("cifar10")
    assert suite.presets == shipped.presets
    assert (suite.name, suite.image_size, suite.systems) == ("cats", 8, shipped.systems)


@pytest.mark.parametrize("name", list(shipped_suites()))
def test_the_list_of_suites_shows_what_a_suite_has(name: str) -> None:
    outline, suite = read_outline(name), load_suite(name)
    assert (outline["title"], outline["dataset"]) == (suite.title, suite.dataset)
    assert list(outline["presets"]) == list(suite.presets)


@pytest.mark.parametrize(
    ("base", "child", "place", "words"),
    [
        # The value stands in the base: its file and line.
        (("channels: 8, l", "channels: -8, l"), ("{channels: 16}", "{blocks: 1}"),
         "base.yaml, line 19", ["presets.smoke.config.sddpm.channels", "-8"]),
        (("samples: 10", "samples: ten"), ("    samples: 12\n", ""),
         "base.yaml, line 15", ["presets.smoke.samples", "'ten'"]),
        # In the child: its own.
        (("", ""), ("samples: 12", "samples: many"),
         "child.yaml, line 8", ["presets.smoke.samples", "'many'"]),
        (("", ""), ("samples: 12", "sample: 12"), "child.yaml, line 8", ["sample", "did you mean"]),
        (("", ""), ("name: child\n", ""), "child.yaml, line 1", ["name", "missing"]),
        (("", ""), ("title: The child\n", ""), "child.yaml, line 1", ["title", "missing"]),
        (("", ""), ("ddpm: null", "vae: null"), "child.yaml, line 11", ["vae", "null takes away"]),
        (("", ""), ("base.yaml", "other.yaml"), "child.yaml, line 1", ["extends", "no such file"]),
        (("", ""), ("base.yaml", "cifar"), "child.yaml, line 1", ["did you mean 'cifar10'"]),
        (("", ""), ("base.yaml", "[digits]"), "child.yaml, line 1", ["extends", "expected the na"]),
        (("", ""), ("base.yaml", "child.yaml"), "child.yaml, line 1", ["circle"]),
        (("name: base", "name: base\nextends: child.yaml"), ("", ""), "base.yaml, line 2",
         ["circle", "child.yaml -> base.yaml -> child.yaml"]),
    ],
)  # fmt: skip
def test_errors_name_the_file_where_the_value_stands(
    tmp_path: Path, base: tuple[str, str], child: tuple[str, str], place: str, words: list[str]
) -> None:
    path = write(tmp_path, base=BASE.replace(*base, 1), child=CHILD.replace(*child, 1))
    with pytest.raises(ValueError, match=r"line \d+: ") as caught:
        load_suite(str(path))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / place}: "), message
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_fields_behind_a_merge_key_are_merged_too(tmp_path: Path) -> None:
    text = CHILD.replace("{channels: 16}", "&wide {channels: 16}").replace(
        "ddpm: null", "ddpm: {<<: *wide, blocks: 1}"
    )
    suite = load_suite(str(write(tmp_path, base=BASE, child=text)))
    assert suite.presets["smoke"].config["ddpm"] == {"channels": 16, "blocks": 1}


def bomb() -> str:
    """Eight lines that stand for 9^8 numbers."""
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 8)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: base\n", bomb() + "name: base\n", ["more than 10,000 values"]),
        ("name: base\n", "name: base\n" + "#" * 200_000 + "\n", ["characters"]),
        ("{sampler: ddim, steps: 5, eta: 1}",
         "{sampler: [ddpm], steps: " + str([5] * 300) + ", eta: " + str([0] * 300)
         + ", threshold: " + str([1.0] * 300) + "}", ["27,000,000 samplings", "1,000"]),
        ("time_steps: [4]", f"time_steps: {[4] * 3000}", ["time_steps", "at most 100"]),
        ("time_steps: [4]", "time_steps: [1000000]", ["time_steps.0", "10000"]),
        ("image_size: 8", "image_size: 1000000", ["image_size", "4096"]),
        ("train_steps: 30", f"train_images: {10**400}", ["train_images"]),
        ("channels: 8, l", f"channels: {10**12}, l", ["config.sddpm.channels", "1,000,000,000"]),
        ("channels: 8, l", f"multipliers: {[1] * 200}, l", ["config.sddpm.multipliers", "200"]),
    ],
)  # fmt: skip
def test_small_files_that_ask_for_everything_are_refused_at_once(
    old: str, new: str, words: list[str]
) -> None:
    assert old in BASE
    start = time.monotonic()
    with pytest.raises(ValueError, match="hostile") as caught:
        parse_suite(BASE.replace(old, new, 1), "hostile.yaml")
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message, message


def test_more_cells_than_a_run_can_have_are_refused() -> None:
    suite = parse_suite(BASE, "f")
    with pytest.raises(ValueError, match="are 40,000 cells, expected at most 10,000"):
        expand(suite, "smoke", DATA, seeds=range(10_000))
