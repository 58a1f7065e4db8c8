"""Conversion: rate neurons against the quantised ReLU, thresholds and errors by hand."""

from __future__ import annotations

import pytest
import torch

from baselines import ann_ddpm, ann_twin, pixel_gaussian
from bench.energy.meter import Meter
from conversion import convert, quantised
from conversion.calibrate import Largest, Percentile, nearest_threshold, percentile_of
from conversion.command import prepare
from conversion.compare import compare, split_error
from conversion.convert import Config, build, config_of, rebuilt
from conversion.finetune import finetune
from sddpm import system as sddpm_system
from sddpm.diffusion import Diffusion, DiffusionConfig
from sddpm.engine.network import optimize
from sddpm.guidance import HeldOut
from sddpm.neurons import QuantReLU, RateIF, ReLU, SignedRateIF
from sddpm.protocol import ImageShape

SHAPE = ImageShape(1, 8)
WIDTHS = dict(channels=8, multipliers=(1, 2), blocks=1)


@pytest.fixture
def twin():
    """A ReLU twin with BatchNorm statistics of its own inputs."""
    torch.manual_seed(0)
    system = ann_twin.build(ann_twin.Config(**WIDTHS, ema_decay=0.0), SHAPE)
    torch.nn.init.xavier_uniform_(system.net.head.conv.weight)
    system.train()
    with torch.no_grad():
        for _ in range(30):
            system.net(torch.randn(16, 1, 8, 8), torch.randint(1000, (16,)))
    return system.eval()


@pytest.fixture
def held_out() -> HeldOut:
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 8, 8, generator=rng) * 2 - 1
    return HeldOut.draw(images, Diffusion(DiffusionConfig()))


# The neuron.


@pytest.mark.parametrize("time_steps", range(1, 17))
@pytest.mark.parametrize("kind", [RateIF, SignedRateIF])
def test_constant_input_is_the_quantised_relu_exactly(kind: type, time_steps: int) -> None:
    x = torch.arange(-64, 192) / 64  # below 0, above theta, and every tie
    for theta in (0.5, 1.0, 2.0):
        neuron = kind(time_steps, threshold=theta)
        spikes = neuron(x.repeat(time_steps, 1)).unflatten(0, (time_steps, -1))
        assert set(spikes.unique().tolist()) <= {0.0, theta}
        count = spikes.sum(0) / theta
        expected = torch.floor((x / theta).clamp(0, 1) * time_steps + 0.5)
        assert torch.equal(count[0], expected)
        if time_steps & (time_steps - 1) == 0:  # the mean itself is dyadic
            quantised = QuantReLU(threshold=theta, levels=time_steps)
            assert torch.equal(spikes.mean(0)[0], quantised(x))


def test_uneven_input_errs_and_a_signed_neuron_takes_it_back() -> None:
    currents = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])  # mean 0
    assert RateIF(4)(currents).mean() == 0.5
    assert SignedRateIF(4)(currents).flatten().tolist() == [1, 1, -1, -1]


def test_no_state_survives_and_gradients_flow() -> None:
    neuron = RateIF(4, threshold=0.7)
    x = torch.randn(8, 3, requires_grad=True)
    first = neuron(x)
    assert torch.equal(neuron(x), first)
    first.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


# The whole network.


@pytest.mark.parametrize("signed", [False, True])
def test_the_child_converges_to_its_parent(twin, held_out: HeldOut, signed: bool) -> None:
    errors = []
    for time_steps in (2, 16, 128):
        conversion = prepare(
            twin, held_out.noisy, method="rate-max", signed=signed, percentile=99.9, seed=0
        )
        child = conversion.at(time_steps)
        errors.append(compare(twin.net, child.unet, held_out).relative_error)
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < (0.1 if signed else 0.2)


def test_states_load_strictly_both_ways(twin) -> None:
    child = build(config_of(twin, time_steps=3), SHAPE, twin)
    twin.net.load_state_dict(child.net.state_dict(), strict=True)
    child.net.load_state_dict(twin.net.state_dict(), strict=True)
    again = rebuilt(child.unet, "quant_relu", 1)
    child.net.load_state_dict(again.state_dict(), strict=True)


def test_a_quantised_parent_is_converted_with_its_own_thresholds(twin, held_out) -> None:
    twin.net = rebuilt(twin.net, "quant_relu", 1)
    twin.net.stem.act.theta.data.fill_(0.75)
    conversion = prepare(
        twin, held_out.noisy, method="fast-snn", signed=True, percentile=99.9, seed=0
    )
    child = conversion.at(4)
    assert child.unet.stem.act.theta == 0.75
    found = compare(twin.net, child.unet, held_out)
    assert found.layers[0].relative_error == found.layers[0].unevenness == 0
    with pytest.raises(ValueError, match="fast-snn"):
        build(config_of(twin, method="rate-max"), SHAPE, twin)


def test_the_engine_leaves_it_alone_and_the_meter_takes_it(twin, held_out: HeldOut) -> None:
    conversion = prepare(
        twin, held_out.noisy, method="rate-percentile", signed=True, percentile=99, seed=0
    )
    child = conversion.at(4)
    x, t = held_out.noisy, held_out.t
    with torch.no_grad():
        torch.testing.assert_close(optimize(child.net)(x, t), child.net(x, t))
    with Meter(child.net) as meter, torch.no_grad():
        child.net(x, t)
    counts = meter.counts(images=len(x))
    assert counts.acs > 0
    heads = [row for row in counts.layers if row.name.startswith("head")]
    ann = Meter(twin.net)
    with ann, torch.no_grad():
        twin.net(x, t)
    of_ann = [row for row in ann.counts(images=len(x)).layers if row.name.startswith("head")]
    assert [r.dense_macs for r in heads] == [r.dense_macs for r in of_ann], "the head runs once"


# Nearer to the parent.


def test_fine_tuning_lowers_the_error_and_leaves_the_parent_alone(twin, held_out) -> None:
    child = build(config_of(twin, time_steps=2, method="rate-max"), SHAPE, twin)
    child.calibrate(held_out.noisy, held_out.t)
    before = compare(twin.net, child.unet, held_out).relative_error
    parent = {name: value.clone() for name, value in twin.net.state_dict().items()}
    thetas = {n: v.clone() for n, v in child.net.state_dict().items() if n.endswith("theta")}
    losses: list[float] = []
    batch = held_out.noisy, held_out.t
    finetune(twin.net, child.unet, lambda number: batch, steps=20, learning_rate=2e-3,
             on_step=losses.append)  # fmt: skip
    assert len(losses) == 20
    assert compare(twin.net, child.unet, held_out).relative_error < 0.9 * before
    after = child.net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in thetas.items())
    assert all(torch.equal(twin.net.state_dict()[n], value) for n, value in parent.items())


# Thresholds.


def test_thresholds_by_hand() -> None:
    values = torch.arange(1, 101.0)
    assert percentile_of(values, 100) == 100
    assert percentile_of(values, 90) == 90
    assert percentile_of(torch.tensor([0.0] * 99 + [2.0]), 50) == 2, "never 0"
    assert nearest_threshold(torch.tensor([1.0] * 1000), 1) == pytest.approx(1, abs=0.01)

    net = torch.nn.Sequential(ReLU())
    twice = [torch.tensor([-9.0, 1.0, 2.0, 4.0]), torch.tensor([0.0, 1.0, 2.0, 8.0])]
    for statistic, expected in ((Largest, 8.0), (Percentile, 2.0)):
        found = statistic(percentile=75)
        for x in twice:
            net.forward = lambda x, t: net[0](x)
            found.update(net, x, x)
        assert found.values == {"0": expected}
        child = torch.nn.Sequential(RateIF(2))
        found.write(child)
        assert child[0].theta == expected
    with pytest.raises(ValueError, match="no calibration images"):
        found.update(net, torch.empty(0), torch.empty(0))


def test_parts_of_the_error_by_hand() -> None:
    parent = torch.tensor([[1.0], [3.0]])
    current = torch.tensor([[1.5], [4.0], [0.0], [2.0]])  # two steps of two images
    spikes = torch.tensor([[2.0], [2.0], [0.0], [0.0]])
    parts = split_error(parent, current, spikes, theta=2.0, time_steps=2)
    # Mean inputs 0.75 and 3; clipped 0.75 and 2; of the levels 0, 1, 2: 1 and 2.
    assert parts["inherited"].flatten().tolist() == [-0.25, 0.0]
    assert parts["clipping"].flatten().tolist() == [0.0, -1.0]
    assert parts["rounding"].flatten().tolist() == [0.25, 0.0]
    assert parts["unevenness"].flatten().tolist() == [0.0, -1.0]
    total = torch.stack(list(parts.values())).sum(0)
    assert torch.equal(total, spikes.unflatten(0, (2, -1)).mean(0) - parent)


def test_presets_have_the_twins_widths() -> None:
    """A conversion keeps its parent's widths, and a preset makes both."""
    for preset, theirs in ann_twin.PRESETS.items():
        twin_config = ann_twin.Config(**theirs)
        for module in (convert, quantised):
            own = module.Config(**module.PRESETS[preset])
            for field in ("channels", "multipliers", "blocks", "diffusion_steps"):
                assert getattr(own, field) == getattr(twin_config, field), (preset, field)


# What cannot be converted.


def test_refusals_say_why(twin) -> None:
    shape = ImageShape(1, 8)
    ddpm = ann_ddpm.build(ann_ddpm.Config(**ann_ddpm.PRESETS["smoke"]), ImageShape(1, 16))
    spiking = sddpm_system.build(sddpm_system.Config(**WIDTHS), shape)
    floor = pixel_gaussian.build(pixel_gaussian.Config(), shape)
    config = Config(**WIDTHS)
    for parent, words in ((ddpm, "GroupNorm"), (spiking, "spiking"), (floor, "no U-Net")):
        with pytest.raises(ValueError, match=words):
            build(config, shape, parent)
    with pytest.raises(ValueError, match="1 x 16 x 16"):
        build(config, ImageShape(1, 16), twin)
    with pytest.raises(ValueError, match="channels=16"):
        build(Config(**{**WIDTHS, "channels": 16}), shape, twin)
    with pytest.raises(ValueError, match="time_steps=0"):
        build(config_of(twin, time_steps=0), shape, twin)
    other = quantised.Config(**WIDTHS, prediction="v_prediction")
    with pytest.raises(ValueError, match="prediction=v_prediction: the parent has epsilon"):
        quantised.build(other, shape, twin)
    child = build(config_of(twin), shape, twin)
    with pytest.raises(ValueError, match="1 x 16 x 16"):
        child.calibrate(torch.zeros(2, 1, 16, 16), torch.zeros(2, dtype=torch.long))


# What is prepared for sampling.


def test_a_clip_that_moves_moves_the_samples(twin) -> None:
    """Spiking thresholds are told apart by value, clips with the weights."""
    twin.net = rebuilt(twin.net, "quant_relu", 1)
    before = twin.sample([0, 1], {"steps": 2})
    with torch.no_grad():
        for layer in twin.net.modules():
            if isinstance(layer, QuantReLU):
                layer.theta.fill_(0.1)
    after = twin.sample([0, 1], {"steps": 2})
    assert not torch.equal(after, before)
    plain = twin.sample([0, 1], {"steps": 2, "engine": "plain"})
    torch.testing.assert_close(after, plain, rtol=0, atol=1e-3)
