"""FSDDIM: sizes, synaptic current learning by hand, the chain against the paper's formula."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.fsddim import system as fsddim
from baselines.fsddim.unet import PoolingConv2d, Shape, SpikingUNet, SplitConv2d, TimeEmbedding
from sddpm.analytic import estimate_gamma
from sddpm.protocol import ImageShape
from sddpm.rng import ImageStreams
from sddpm.samplers import SAMPLERS
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages

SMOKE = fsddim.Config(**fsddim.PRESETS["smoke"])


class Answers(nn.Module):
    """Stands in for the network: currents that leave the predicted image at 0.3 and differ from
    one spiking step to the next."""

    def __init__(self, system: fsddim.FSDDIM) -> None:
        super().__init__()
        self.signal, self.level = system.output.signal, system.output.noise_level

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        s = torch.arange(4.0).repeat_interleave(len(t))[:, None, None, None]
        predicted = 0.3 + 0.1 * s - 0.05 * x.tanh()
        at = t.repeat(4)[:, None, None, None]
        return (self.signal[at] * x - predicted) / self.level[at]


@pytest.fixture
def system() -> fsddim.FSDDIM:
    torch.manual_seed(0)
    return fsddim.build(SMOKE, ImageShape(1, 8)).eval()


# The network.


@pytest.mark.parametrize(("channels", "expected"), [(1, 52_536_705), (3, 52_540_547)])
def test_parameters_are_the_published_ones(channels: int, expected: int) -> None:
    with torch.device("meta"):
        net = SpikingUNet(Shape(channels, 128, (1, 2, 3, 4), 2, 8, 1000))
    assert sum(p.numel() for p in net.parameters()) == expected
    assert dict(net.named_buffers())["time_embedding.table"].shape == (1000, 128)


def test_a_split_convolution_is_the_convolution_of_the_concatenation() -> None:
    torch.manual_seed(0)
    split = SplitConv2d([(3, "spikes"), (2, "real"), (4, "spikes")], 5, 3)
    torch.manual_seed(0)
    whole = nn.Conv2d(9, 5, 3, 1, 1)
    parts = [torch.randn(2, width, 6, 6) for width in (3, 2, 4)]
    torch.testing.assert_close(split(parts), whole(torch.cat(parts, 1)))
    assert [layer.reads for layer in split.layers.values()] == ["real", "spikes"]
    assert sum(p.numel() for p in split.parameters()) == sum(p.numel() for p in whole.parameters())


def test_pooling_in_the_convolution_is_pooling_before_it() -> None:
    conv, x = PoolingConv2d(3, 4), torch.randn(2, 3, 8, 8)
    reference = functional.conv2d(functional.avg_pool2d(x, 2), conv.weight, conv.bias)
    torch.testing.assert_close(conv(x), reference)


def test_the_table_alternates_sines_and_cosines() -> None:
    table = TimeEmbedding(128, 1000, 4).table
    for t, i in ((0, 0), (7, 3), (999, 63)):
        angle = t * math.exp(-i * math.log(10000) / 63)
        assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-4)
        assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-4)


# Losses.


def test_the_schedule_is_the_cosine() -> None:
    abar = fsddim.FSDDIM(SMOKE, ImageShape(1, 8), SpikingUNet(Shape(1, 8, (1, 2), 1, 4, 1000)))
    abar = abar.diffusion.alphas_cumprod.double()

    def cosine(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 250, 900):
        expected = cosine((t + 1) / 1000) / cosine(0)
        assert abar[t].item() == pytest.approx(expected, rel=1e-3)
    assert (abar[999] / abar[998]).item() == pytest.approx(1 - 0.999, rel=1e-3)


def test_constancy_weights_by_hand() -> None:
    abar = torch.tensor([0.64, 0.36], dtype=torch.float64)
    # t = 0: abar before is 1, so k2 = 0, k1 = 1 and the weight sqrt(0.36) = 0.6.
    # t = 1: k2 = 0.6 / 0.8, k1 = 0.8 - 0.6 * 0.75 = 0.35, weight 0.8 * 0.35 = 0.28.
    torch.testing.assert_close(fsddim.constancy_weights(abar), abar.new_tensor([1, 0.28 / 0.6]))


def test_current_losses_by_hand() -> None:
    # Two spiking steps of two images of one pixel: the first decodes to 2, the second to 1.
    currents = torch.tensor([1.0, 1.0, 3.0, 1.0]).view(4, 1, 1, 1).requires_grad_()
    target = torch.tensor([0.0, 3.0]).view(2, 1, 1, 1)
    weights = torch.tensor([0.5, 1.0]), torch.tensor([1.0, 7.0])
    error, change = fsddim.current_losses(currents, target, *weights)
    assert error.item() == pytest.approx((0.5 * 4 + 1 * 4) / 2)
    assert change.item() == pytest.approx((1.0 * 1 + 7.0 * 0) / 2)  # variances 1 and 0
    (gradient,) = torch.autograd.grad(change, currents)
    # The decoded current is not held fixed, but its gradient sums to 0.
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-0.5, 0.0, 0.5, 0.0]))


# The chain.


def test_the_chain_is_the_papers_without_decoding(system: fsddim.FSDDIM) -> None:
    """s <- k1 x0 + k2 s on every spiking step by itself; only the last state is decoded."""
    system.net = Answers(system)
    seeds, steps = [5, 2], 1000
    drawn = system.sample(seeds, {"sampler": "ddim", "steps": steps})  # deterministic

    abar = system.diffusion.alphas_cumprod.double()
    s = ImageStreams(seeds).randn(1, 8, 8).repeat(4, 1, 1, 1).double()
    with torch.no_grad():
        for t in range(steps - 1, -1, -1):
            now, before = abar[t], abar[t - 1] if t else torch.tensor(1.0).double()
            c = system.net(s.float(), torch.full((2,), t)).double()
            x0 = now.sqrt() * s - (1 - now).sqrt() * c
            k2 = (1 - before).sqrt() / (1 - now).sqrt()
            s = (before.sqrt() - now.sqrt() * k2) * x0 + k2 * s
    expected = s.float().unflatten(0, (4, 2)).mean(0)
    torch.testing.assert_close(drawn, expected, atol=2e-3, rtol=0)
    assert s.std() > 0.05  # spiking steps do differ


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_on_currents(system: fsddim.FSDDIM, name: str) -> None:
    entry = SAMPLERS[name]
    system.net = Answers(system)
    if entry.needs_gamma:
        system.gamma = torch.full((1001,), 0.9, dtype=torch.float64)
    seen: list[tuple[int, torch.Size]] = []
    images = system.sample(
        [3, 8, 3],
        {"sampler": name, "steps": 4, "eta": float(entry.takes_eta)},
        lambda done, x, predicted: seen.append((done, predicted.shape)),
    )
    assert images.isfinite().all()
    assert torch.equal(images[0], images[2])
    assert seen == [(n, torch.Size((3, 1, 8, 8))) for n in (1, 2, 3, 4)]


def test_noise_is_the_same_at_every_spiking_step(system: fsddim.FSDDIM) -> None:
    """Ancestral noise enters encoded: with currents constant over time, states stay so."""
    states: list[Tensor] = []

    class Constant(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            states.append(x)
            return 0.1 * x

    system.net = Constant()
    system.sample([1, 2], {"sampler": "ddpm", "steps": 6})
    for state in states:
        steps = state.unflatten(0, (4, 2))
        assert torch.equal(steps[0], steps[3])
    assert not torch.equal(states[0], states[-1])


def test_statistics_for_analytic_samplers_can_be_measured(system: fsddim.FSDDIM) -> None:
    class Zero(nn.Module):  # v = 0, so eps = sqrt(1 - abar) x
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            assert len(x) == 4 * len(t)
            return torch.zeros_like(x)

    system.net = Zero()
    system.diffusion = type(system.diffusion)(fsddim.CosineSchedule(5))
    abar = system.diffusion.alphas_cumprod
    system.output.noise_level = (1 - abar).sqrt()
    images = torch.rand(30, 1, 8, 8) * 2 - 1
    gamma = estimate_gamma(system.prepared("exact"), images, abar)
    power = images.square().mean()
    expected = (1 - abar) * (abar * power + 1 - abar)
    torch.testing.assert_close(gamma[1:].float(), expected, atol=0.05, rtol=0)


def test_thresholds_cannot_be_moved(system: fsddim.FSDDIM) -> None:
    with pytest.raises(ValueError, match=r"threshold=0\.9: FSDDIM's neurons fire at 1"):
        system.sample([0], {"sampler": "ddim", "steps": 2, "threshold": 0.9})


# The whole.


def test_it_learns_and_its_currents_become_constant(tmp_path: Path) -> None:
    images = GeneratedImages(64)
    losses = []
    for steps in (4, 50):
        torch.manual_seed(0)
        system = fsddim.build(replace(SMOKE, diffusion_steps=50, learning_rate=5e-3), images.shape)
        config = TrainConfig(steps=steps, batch_size=16, log_every=1)
        folder = tmp_path / str(steps)
        report = fit(system, images, config=config, folder=folder, description={}, progress=False)
        losses.append(report.losses)
    assert losses[1]["image"] < 0.75 * losses[0]["image"]
    # An error of v that no more than predicts its mean is the variance of v.
    assert losses[1]["constancy"] < 0.2 * losses[1]["image"]


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="image size 28 cannot be halved 3 times"):
        fsddim.build(fsddim.Config(channels=8), ImageShape(1, 28))
    with pytest.raises(ValueError, match="channels=3: expected an even number"):
        fsddim.build(replace(SMOKE, channels=3), ImageShape(1, 8))
    with pytest.raises(ValueError, match="blocks=0: expected at least 1"):
        fsddim.build(replace(SMOKE, blocks=0), ImageShape(1, 8))
    with pytest.raises(ValueError, match="expected whole numbers of at least 1"):
        fsddim.build(replace(SMOKE, multipliers=(1, 0)), ImageShape(1, 8))
