"""Fields that configurations gained: stored ones without them stay what they were."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import torch

from baselines import ann_ddpm
from bench.plan.cells import make_config, resolve_config
from bench.registry import SYSTEMS, load_module
from sddpm import system
from sddpm.checkpoint import CONFIG
from sddpm.configuration import before, complete, storable
from sddpm.pretrained import SDDPM
from sddpm.protocol import ImageShape


@dataclass(frozen=True)
class Example:
    """A Config that gained ``colour``."""

    width: int = 3
    colour: str = field(default="red", metadata=before("grey"))


def test_a_stored_configuration_means_what_was_so_before() -> None:
    assert Example() == Example(3, "red")
    assert Example(**complete(Example, {"width": 5})) == Example(5, "grey")
    assert Example(**complete(Example, {"width": 5, "colour": "red"})) == Example(5, "red")


@pytest.mark.parametrize("colour", ["red", "grey", "blue"])
def test_storing_and_opening_are_inverse(colour: str) -> None:
    values = asdict(Example(4, colour))
    stored = storable(Example, values)
    assert ("colour" in stored) == (colour != "grey")
    assert complete(Example, stored) == values


def test_a_list_that_json_made_of_a_tuple_is_the_value_of_before() -> None:
    values = json.loads(json.dumps(asdict(Pair())))
    assert values == {"sizes": []}
    assert storable(Pair, values) == {}
    assert storable(Pair, {"sizes": [2]}) == {"sizes": [2]}


@dataclass(frozen=True)
class Pair:
    """A Config that gained a field of several numbers."""

    sizes: tuple[int, ...] = field(default=(), metadata=before(()))


def where(field: str) -> str:
    return field


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_preset_survives_storing(name: str) -> None:
    module = load_module(name)
    for preset, values in module.PRESETS.items():
        stored = json.loads(json.dumps(resolve_config(name, preset, {}, where)))
        assert asdict(make_config(name, stored)) == asdict(module.Config(**values)), preset


def test_a_ddpm_of_before_has_no_attention_and_a_new_one_has() -> None:
    """Its stored weights would not load into the network that is the default now."""
    old = resolve_config("ddpm", "smoke", {}, where)
    assert "middle_attention" not in old
    assert "initialisation" not in old
    for stored, attention in ((old, False), (resolve_config("ddpm", "paper", {}, where), True)):
        with torch.device("meta"):
            net = ann_ddpm.build(make_config("ddpm", stored), ImageShape(1, 16)).net
        assert any("to_q" in name for name, _ in net.named_modules()) == attention


def test_a_checkpoint_of_before_opens_as_it_was_made(tmp_path: Path) -> None:
    config = system.Config(time_steps=2, channels=4, multipliers=(1,), blocks=1)
    denoiser = system.build(config, ImageShape(1, 8))
    facts = {"system": "sddpm", "config": asdict(config), "shape": asdict(denoiser.shape)}
    SDDPM(denoiser, facts).save_pretrained(tmp_path)
    said = json.loads((tmp_path / CONFIG).read_text())
    del said["config"]["initialisation"]
    (tmp_path / CONFIG).write_text(json.dumps(said))
    opened = SDDPM.from_pretrained(tmp_path)
    assert opened.denoiser.training_config.initialisation == "xavier"
