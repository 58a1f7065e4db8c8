"""Cells: the registry's time axis decides the grid, and hashes change with what they cover."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest

from bench import registry
from bench.plan.cells import Cell, Data, expand, plan_training
from bench.plan.plan import DATA as DATA_FILE
from bench.plan.plan import Options, Plan, data_facts, make_plan
from bench.plan.sampling import choose_sampling, parse_sampler
from bench.registry import SystemEntry
from bench.run.states import stage_states
from bench.suites.reading import parse_suite
from bench.suites.schema import Suite
from sddpm.samplers import Sampling

DATA = Data("digits", "digits", 1, 8, False)
TEXT = """\
name: mine
title: t
dataset: digits
image_size: 8
systems: [plain, spiking, converted]
time_steps: [2, 4]
sampling:
  - {sampler: ddim, steps: 5, eta: 1}
  - {sampler: ddpm, steps: 10}
presets:
  smoke:
    budget: {train_steps: 30, batch_size: 4}
    budgets:
      converted: {train_steps: 0, batch_size: 4}
    samples: 10
    references: 20
    energy_images: 1
    config:
      spiking: {widths: [1, 2]}
"""


@dataclass(frozen=True)
class PlainConfig:
    rate: float = 0.5


@dataclass(frozen=True)
class SpikingConfig:
    time_steps: int = 4
    widths: tuple[int, ...] = (1,)
    rate: float = 0.5


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Three systems, one per time axis; the third is built from the first."""
    for name, config in (("fake_plain", PlainConfig), ("fake_spiking", SpikingConfig)):
        module = ModuleType(name)
        module.Config, module.PRESETS = config, {"smoke": {"rate": 0.25}}  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    entries = {
        "plain": SystemEntry("fake_plain", "Plain", "-"),
        "spiking": SystemEntry("fake_spiking", "Spiking", "-", "trained", samplers=True),
        "converted": SystemEntry(
            "fake_spiking", "Converted", "-", "free", parent="plain", samplers=True
        ),
    }
    for name in list(registry.SYSTEMS):
        monkeypatch.delitem(registry.SYSTEMS, name)
    for name, entry in entries.items():
        monkeypatch.setitem(registry.SYSTEMS, name, entry)
    return parse_suite(TEXT, "mine.yaml")


def of(cells: list[Cell], system: str) -> list[Cell]:
    return [cell for cell in cells if cell.system == system]


def test_the_time_axis_decides_the_grid(suite: Suite) -> None:
    cells = expand(suite, "smoke", DATA)
    plain, spiking, converted = (of(cells, name) for name in ("plain", "spiking", "converted"))
    # No spiking time and no sampler: one cell.
    assert [(c.time_steps, c.sampling) for c in plain] == [(None, None)]
    # Trained: one training per number of time steps, shared by the samplers.
    assert [c.time_steps for c in spiking] == [2, 2, 4, 4]
    assert len({c.training.hash for c in spiking}) == 2
    assert [c.training.time_steps for c in spiking] == [2, 2, 4, 4]
    # Free: one training serves every number.
    assert [c.time_steps for c in converted] == [2, 2, 4, 4]
    assert len({c.training.hash for c in converted}) == 1
    assert {c.config["time_steps"] for c in converted} == {2, 4}
    assert len({c.hash for c in cells}) == len(cells) == 9


def test_only_systems_whose_thresholds_may_move_are_guided(suite: Suite) -> None:
    """Spiking time alone is not enough: a system may spike at thresholds that are fixed."""
    text = TEXT.replace(
        "{sampler: ddpm, steps: 10}", "{sampler: ddim, steps: 5, threshold: guided}"
    )
    guided = parse_suite(text, "mine.yaml")

    def systems() -> set[str]:
        cells = expand(guided, "smoke", DATA)
        return {c.system for c in cells if c.sampling and c.sampling["threshold"] == "guided"}

    assert systems() == set()
    registry.SYSTEMS["converted"] = replace(registry.SYSTEMS["converted"], guidable=True)
    assert systems() == {"converted"}


def test_a_parent_is_trained_as_the_suite_trains_it(suite: Suite) -> None:
    cells = expand(suite, "smoke", DATA)
    parent = of(cells, "converted")[0].training.parent
    assert parent is not None
    assert parent == of(cells, "plain")[0].training
    assert of(cells, "converted")[0].training.steps == 0


def test_a_variant_is_a_further_row_of_its_system(suite: Suite) -> None:
    text = (
        TEXT
        + """\
    variants:
      spiking:
        slow: {rate: 0.125}
        wide: {widths: [8]}
"""
    )
    cells = expand(parse_suite(text, "mine.yaml"), "smoke", DATA, time_steps=(2,), seeds=(0, 1))
    rows = of(cells, "spiking")
    assert len(rows) == 3 * 2 * 2  # variants x samplers x seeds
    assert [c.variant for c in rows[:6]] == ["", "", "slow", "slow", "wide", "wide"]
    few = expand(
        parse_suite(text, "mine.yaml"), "smoke", DATA, variants=["wide", "own"], time_steps=(2,)
    )
    assert {c.variant for c in of(few, "spiking")} == {"", "wide"}
    assert of(few, "plain")
    only = expand(parse_suite(text, "mine.yaml"), "smoke", DATA, variants=["slow"])
    assert {(c.system, c.variant) for c in only} == {("spiking", "slow")}
    with pytest.raises(ValueError, match="unknown variant 'fast'"):
        expand(parse_suite(text, "mine.yaml"), "smoke", DATA, variants=["fast"])
    own, slow, wide = (rows[i].config for i in (0, 2, 4))
    assert own == {"time_steps": 2, "widths": [1, 2], "rate": 0.25}
    assert slow == {**own, "rate": 0.125}
    assert wide == {**own, "widths": [8]}
    assert rows[2].label == "spiking-T2-ddim5-eta1 (slow)"
    assert len({c.training.hash for c in rows}) == 3 * 2
    plain = of(expand(suite, "smoke", DATA, time_steps=(2,)), "spiking")
    assert [c.hash for c in plain] == [c.hash for c in rows[:2]], "a name changes no hash"


def test_a_variant_is_built_from_the_variant_of_its_name(suite: Suite) -> None:
    text = (
        TEXT
        + """\
    variants:
      plain:
        slow: {rate: 0.125}
      converted:
        slow: {widths: [8]}
        wide: {widths: [16]}
"""
    )
    cells = of(expand(parse_suite(text, "mine.yaml"), "smoke", DATA), "converted")
    rates = {c.variant: c.training.parent.config["rate"] for c in cells if c.training.parent}
    assert rates == {"": 0.25, "slow": 0.125, "wide": 0.25}


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("spiking: {slow: {rat: 1}}", r"line 21: presets.smoke.variants.spiking.slow.rat"),
        ("spiking: {slow: {rate: no number}}", r"presets.smoke.variants.spiking.slow.rate"),
        ("spiking: {a/b: {rate: 1.0}}", "variants.spiking"),
        ("unheard: {slow: {rate: 1.0}}", "unheard"),
        ("spiking: {own: {rate: 1.0}}", "'own' is the system's row without a variant"),
    ],
)
def test_a_wrong_variant_is_named_with_its_place(suite: Suite, variants: str, message: str) -> None:
    text = TEXT + f"    variants:\n      {variants}\n"
    with pytest.raises(ValueError, match=message):
        expand(parse_suite(text, "mine.yaml"), "smoke", DATA)


def test_configurations_are_resolved(suite: Suite) -> None:
    spiking = of(expand(suite, "smoke", DATA), "spiking")[0]
    assert spiking.config == {"time_steps": 2, "widths": [1, 2], "rate": 0.25}


def test_options_replace_the_suite_s(suite: Suite) -> None:
    cells = expand(
        suite, "smoke", DATA,
        systems=["spiking"], time_steps=[8], samplers=["ddim:7:0.5", "ddpm"], seeds=[0, 3],
    )  # fmt: skip
    found = [(c.time_steps, c.sampling["sampler"], c.sampling["steps"], c.seed) for c in cells]
    assert found == [(8, "ddim", 7, 0), (8, "ddpm", 10, 0), (8, "ddim", 7, 3), (8, "ddpm", 10, 3)]
    assert [cell.label for cell in cells[:3]] == [
        "spiking-T8-ddim7-eta0.5",
        "spiking-T8-ddpm10",
        "spiking-T8-ddim7-eta0.5 seed 3",
    ]


def test_a_named_precision_is_the_parents_too(suite: Suite) -> None:
    cells = expand(suite, "smoke", DATA, precision="bf16-mixed")
    assert {cell.training.precision for cell in cells} == {"bf16-mixed"}
    parent = of(cells, "converted")[0].training.parent
    assert parent is not None
    assert parent.precision == "bf16-mixed"
    assert {c.training.precision for c in expand(suite, "smoke", DATA)} == {"32-true"}


def test_hashes_change_with_everything_that_decides_a_result(suite: Suite) -> None:
    cell = of(expand(suite, "smoke", DATA), "spiking")[0]
    training = cell.training
    others = [
        replace(training, steps=31),
        replace(training, seed=1),
        replace(training, batch_size=5),
        replace(training, precision="bf16-mixed"),
        replace(training, config={**training.config, "rate": 0.3}),
        replace(training, data=replace(DATA, label="digits (jpeg)")),
        replace(training, parent=training),
    ]
    hashes = [training.hash, *(other.hash for other in others)]
    assert len(set(hashes)) == len(hashes)
    cells = [cell, *(replace(cell, training=other) for other in others)]
    cells += [replace(cell, samples=11), replace(cell, sampling={**cell.sampling, "steps": 6})]
    assert len({c.hash for c in cells}) == len(cells)
    assert replace(cell).hash == cell.hash


def test_a_hash_is_the_digest_of_the_facts(suite: Suite) -> None:
    # Spelt out: folders that an earlier version made must be found again.
    training = of(expand(suite, "smoke", DATA), "plain")[0].training
    facts = (
        '{"batch_size":4,"config":{"rate":0.25},"data":{"channels":1,"dataset":"digits",'
        '"horizontal_flip":false,"image_size":8,"label":"digits"},"kind":"training",'
        '"parent":null,"precision":"32-true","seed":0,"steps":30,"system":"plain",'
        '"time_steps":null}'
    )
    assert training.hash == hashlib.sha256(facts.encode()).hexdigest()
    assert training.name == f"plain-{training.hash[:8]}"


def test_epochs_count_the_pictures_of_a_folder_that_an_earlier_version_made(tmp_path: Path) -> None:
    text = TEXT.replace("[plain, spiking, converted]", "[vae]")
    text = text.replace("train_steps: 30, batch_size: 4", "epochs: 2, batch_size: 100")
    text = text[: text.index("    budgets:")] + text[text.index("    samples:") :]
    suite = tmp_path / "mine.yaml"
    suite.write_text(text[: text.index("    config:")], encoding="utf-8")
    options = Options(str(suite), "smoke", out=tmp_path / "out")
    plan = make_plan(options)
    assert [cell.training.steps for cell in plan.cells] == [30]  # 2 x 1,500 / 100
    facts = data_facts(plan)
    del facts["data"]["train_images"]  # which earlier versions did not write
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / DATA_FILE).write_text(json.dumps(facts), encoding="utf-8")
    assert make_plan(options).cells == plan.cells


def test_states_are_done_missing_or_blocked_by_a_parent(suite: Suite, tmp_path: Path) -> None:
    cells = expand(suite, "smoke", DATA, systems=["converted"], time_steps=[2], samplers=["ddim"])
    options = Options("mine", "smoke")
    plan = Plan(options, suite, suite.presets["smoke"], DATA, tmp_path, cells)
    training = cells[0].training
    assert training.parent is not None

    assert stage_states(plan)[0]["train"] == f"blocked by {training.parent.name}"
    plan.checkpoint(training.parent).mkdir(parents=True)
    assert stage_states(plan)[0]["train"] == "missing"
    plan.checkpoint(training).mkdir(parents=True)
    state = stage_states(plan)[0]
    assert (state["train"], state["sample"], state["score"]) == ("done", "missing", "missing")
    folder = plan.cell_folder(cells[0])
    folder.mkdir(parents=True)
    for name in ("samples.npy", "scores-x.json"):
        (folder / name).touch()
    facts = '{"samples": 10, "seconds": 1.0, "peak_memory_mib": 1.0}'
    (folder / "samples.json").write_text(facts)
    (folder / "energy.json").write_text(
        '{"images": 1, "per_image": {"traffic": [], "macs_first_conv": 0}}'
    )
    state = stage_states(plan)[0]
    assert (state["sample"], state["energy"], state["score"]) == ("done", "done", "done (x)")
    (folder / "samples.json").write_text("{}")
    (folder / "energy.json").write_text('{"images": 1')
    state = stage_states(plan)[0]
    assert (state["sample"], state["energy"]) == ("damaged", "damaged")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"systems": ["spikng"]}, "unknown system 'spikng': did you mean 'spiking'"),
        ({"samplers": ["dim"]}, "unknown sampler 'dim': did you mean 'ddim'"),
        ({"samplers": ["ddim:x"]}, "expected NAME, NAME:STEPS or NAME:STEPS:ETA"),
        ({"samplers": ["ddim:5:2"]}, "--sampler ddim:5:2"),
        ({"samplers": ["ddim:0"]}, "--sampler ddim:0"),
    ],
)
def test_bad_options(suite: Suite, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        expand(suite, "smoke", DATA, **options)


def test_an_unknown_preset_names_the_legal_ones(suite: Suite) -> None:
    with pytest.raises(ValueError, match="unknown preset 'smok': did you mean 'smoke'"):
        expand(suite, "smok", DATA)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{widths: [1, 2]}", "{width: [1, 2]}", "line 19: .*width: unknown field 'width': did you"),
        ("{widths: [1, 2]}", "{widths: [1, two]}", "line 19: .*widths: .* whole number, not 'two'"),
        ("{widths: [1, 2]}", "{widths: [1, 2.5]}", "line 19: .*widths: .* whole number, not 2.5"),
        ("{widths: [1, 2]}", "{widths: 3}", "line 19: .*widths: expected a list, not 3"),
        ("{widths: [1, 2]}", "{rate: fast}", "line 19: .*rate: expected a number, not 'fast'"),
    ],
)
def test_a_bad_override_names_line_and_field(suite: Suite, old: str, new: str, words: str) -> None:
    broken = parse_suite(TEXT.replace(old, new), "mine.yaml")
    with pytest.raises(ValueError, match=words):
        expand(broken, "smoke", DATA)


def test_a_trained_axis_needs_a_number(suite: Suite) -> None:
    with pytest.raises(ValueError, match="number of time steps"):
        plan_training(suite, "smoke", DATA, "spiking")


def test_parse_sampler() -> None:
    choice = parse_sampler("ddim:20:0.5")
    assert not isinstance(choice, str)
    assert (choice.sampler, choice.steps, choice.eta) == ("ddim", 20, 0.5)
    assert parse_sampler("ddpm") == "ddpm"


def test_a_command_on_a_checkpoint_samples_as_its_help_says() -> None:
    default = choose_sampling(None).model_dump()
    assert default == choose_sampling("sde_dpm_solver++:50").model_dump()
    python = Sampling()
    drawn = (python.sampler, python.steps, python.eta)
    assert (default["sampler"], default["steps"], default["eta"]) == drawn
    bare = choose_sampling("ddpm")
    assert (bare.sampler, bare.steps, bare.eta) == ("ddpm", 50, 0.0)
