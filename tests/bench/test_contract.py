"""What every registered system owes the harness. A new registry line is tested at once."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch

from bench.energy.meter import Meter
from bench.energy.prices import TABLES, strict_mj
from bench.registry import SYSTEMS, load_module
from sddpm.checkpoint import count_parameters, load_generator
from sddpm.protocol import ImageShape, PointShape, Shape
from sddpm.training import TrainConfig, fit
from tests.support.images import data_for
from tests.support.systems import config_of, make, options

SHAPES: dict[str, list[Shape]] = {
    "images": [ImageShape(1, 8), ImageShape(3, 32)],
    "points": [PointShape("sphere", 3), PointShape("rotations", 3)],
}
"""Shapes by the kind of data that a system makes."""
CASES = [(name, shape) for name, entry in SYSTEMS.items() for shape in SHAPES[entry.data]]


def shape_of(name: str) -> Shape:
    """The first shape of the system's kind of data."""
    return SHAPES[SYSTEMS[name].data][0]


def sizes_of(shape: Shape) -> tuple[int, ...]:
    """Dimensions of one image, or of one point."""
    if isinstance(shape, ImageShape):
        return (shape.channels, shape.size, shape.size)
    return (shape.coordinates,)


@pytest.mark.parametrize("name", SYSTEMS)
def test_trains_samples_saves_loads_and_is_measured(name: str, tmp_path: Path) -> None:
    entry, shape = SYSTEMS[name], shape_of(name)
    images, system = data_for(shape), make(name, shape)
    before = {k: v.clone() for k, v in system.state_dict().items()}
    config = TrainConfig(steps=2, batch_size=8, log_every=1)
    report = fit(system, images, config=config, folder=tmp_path, description={}, progress=False)
    assert any(not torch.equal(v, before[k]) for k, v in system.state_dict().items())
    assert report.losses
    assert all(value == value and abs(value) < 1e6 for value in report.losses.values())

    system.eval()
    drawn = system.sample([3, 1, 4, 1], options(entry))
    assert drawn.shape == (4, *sizes_of(shape))
    assert shape.finished(drawn).shape == drawn.shape
    assert drawn.isfinite().all()
    torch.testing.assert_close(drawn[1], drawn[3], rtol=0, atol=1e-5)
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-3)

    fresh = make(name, shape, seed=9).eval()
    load_generator(fresh, report.checkpoint)
    torch.testing.assert_close(fresh.sample([3, 1, 4, 1], options(entry)), drawn)

    with Meter(fresh.generator) as meter:
        metered = fresh.sample([3, 1], options(entry, engine="plain"))
    unmetered = fresh.sample([3, 1], options(entry, engine="plain"))
    torch.testing.assert_close(metered, unmetered, rtol=0, atol=1e-4)
    counts = meter.counts(images=2)
    energy = strict_mj(counts, next(iter(TABLES.values())))
    has_weights = count_parameters(fresh.generator) > 0
    assert (energy > 0) == has_weights
    if entry.time_axis == "none":
        assert counts.acs == 0


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_an_image_is_the_same_at_any_batch_size(name: str, shape: Shape) -> None:
    system, entry = make(name, shape).eval(), SYSTEMS[name]
    alone = system.sample([17], options(entry))[0]
    among = system.sample([5, 17, 8], options(entry))[1]
    assert alone.shape == sizes_of(shape)
    torch.testing.assert_close(among, alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SYSTEMS)
def test_sampling_leaves_the_mode_of_training(name: str) -> None:
    """Else the training that goes on would do so with BatchNorm's running statistics."""
    system, entry = make(name, shape_of(name)).train(), SYSTEMS[name]
    modes = {path: module.training for path, module in system.named_modules()}
    system.sample([0], options(entry))
    assert {path: module.training for path, module in system.named_modules()} == modes


@pytest.mark.parametrize("name", SYSTEMS)
def test_configuration_is_frozen_documented_and_complete(name: str) -> None:
    module, entry = load_module(name), SYSTEMS[name]
    assert is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert module.__doc__
    assert set(module.PRESETS) == {"smoke", "small", "medium", "paper"}
    for preset in module.PRESETS:
        config_of(name, preset)
    has_time = "time_steps" in {field.name for field in fields(module.Config)}
    assert has_time == (entry.time_axis != "none")
    if entry.time_axis == "trained":
        for time_steps in (1, 2, 8):
            config = replace(config_of(name), time_steps=time_steps)
            system = module.build(config, shape_of(name)).eval()
            assert system.sample([0], options(entry)).isfinite().all()


@pytest.mark.parametrize("name", SYSTEMS)
def test_only_what_samples_is_counted(name: str) -> None:
    """No optimiser's own module, critic or encoder is inside the generator unless it samples."""
    system = make(name, shape_of(name))
    entry = SYSTEMS[name]
    touched: set[str] = set()
    handles = [
        module.register_forward_hook(lambda _m, _i, _o, path=path: touched.add(path))
        for path, module in system.generator.named_modules()
        if not list(module.children()) and list(module.parameters(recurse=False))
    ]
    expected = {
        path
        for path, module in system.generator.named_modules()
        if not list(module.children()) and list(module.parameters(recurse=False))
    }
    system.eval()
    system.sample([0], options(entry, engine="plain"))
    for handle in handles:
        handle.remove()
    unused = expected - touched
    assert not unused, f"counted as generator but never run: {sorted(unused)[:5]}"


@pytest.mark.parametrize("name", [name for name, entry in SYSTEMS.items() if entry.guidable])
def test_a_guidable_systems_threshold_moves_its_samples(name: str) -> None:
    system = make(name, shape_of(name)).eval()
    trained = system.sample([3, 1], options(SYSTEMS[name]))
    lowered = system.sample([3, 1], {**(options(SYSTEMS[name]) or {}), "threshold": 0.25})
    assert not torch.equal(trained, lowered)
