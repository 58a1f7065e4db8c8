"""ESVAE: sizes, draws and MMD by hand, and the networks that it shares with FSVAE."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from baselines.spiking_layers import Membrane
from baselines.vaes import esvae, fsvae
from bench.energy.meter import Meter
from sddpm.checkpoint import count_parameters
from sddpm.protocol import ImageShape
from sddpm.rng import ImageStreams
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages

SMOKE = esvae.Config(**esvae.PRESETS["smoke"])
COLOUR = esvae.Config(latent=128)


def convolution(inputs: int, outputs: int) -> int:
    """Weights of a 3x3 convolution with biases and a norm of two numbers a channel."""
    return 9 * inputs * outputs + outputs + 2 * outputs


# Sizes.


@pytest.mark.parametrize(
    ("config", "shape", "widths", "total"),
    [
        (esvae.Config(), ImageShape(1, 32), (32, 64, 128, 256), 855_905),
        (COLOUR, ImageShape(3, 32), (32, 64, 128, 256), 1_069_411),
        (COLOUR, ImageShape(3, 64), (32, 64, 128, 256, 512), 3_696_227),
    ],
    ids=["grey", "colour", "64 pixels"],
)
def test_parameters_by_hand(
    config: esvae.Config, shape: ImageShape, widths: tuple[int, ...], total: int
) -> None:
    latent, top = config.latent, 4 * widths[-1]
    encoder = sum(convolution(i, o) for i, o in pairwise((shape.channels, *widths)))
    encoder += top * latent + latent + 2 * latent
    decoder = latent * top + top + 2 * top
    decoder += sum(convolution(i, o) for i, o in pairwise((*widths[::-1], widths[0])))
    decoder += 9 * widths[0] * shape.channels + shape.channels  # no norm
    prior = latent * latent + latent
    net = esvae.build(config, shape).net
    assert count_parameters(net.encoder) == encoder
    assert count_parameters(net.generator) == decoder + prior
    assert count_parameters(net.generator.prior) == prior
    assert count_parameters(net) == encoder + decoder + prior == total


@pytest.mark.parametrize("shape", [ImageShape(1, 8), ImageShape(3, 32)], ids=str)
def test_encoder_and_decoder_are_fsvaes(shape: ImageShape) -> None:
    """Weights of one load into the other, and spikes and images are equal."""
    sizes = dict(time_steps=4, channels=8, latent=16)
    torch.manual_seed(1)
    theirs = fsvae.build(fsvae.Config(**sizes, copies=2, hidden=(8,)), shape).net
    ours = esvae.build(esvae.Config(**sizes), shape).net
    ours.encoder.load_state_dict(theirs.encoder.state_dict(), strict=True)
    ours.generator.decoder.load_state_dict(theirs.generator.decoder.state_dict(), strict=True)
    images = torch.rand(3, shape.channels, shape.size, shape.size) * 2 - 1
    z = (torch.rand(4, 3, 16) < 0.4).float()
    assert 0 < ours.encoder(images).mean() < 1
    assert torch.equal(ours.encoder(images), theirs.encoder(images))
    assert torch.equal(ours.generator.decoder(z), theirs.generator.decoder(z))


def test_only_the_first_convolution_and_the_prior_read_real_numbers() -> None:
    net = esvae.build(SMOKE, ImageShape(3, 32)).net
    reads = {name: m.reads for name, m in net.named_modules() if hasattr(m, "reads")}
    real = [name for name, kind in reads.items() if kind == "real"]
    assert real == ["encoder.levels.0.layer", "generator.prior.layer"]
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    assert len(reads) == sum(isinstance(m, layers) for m in net.modules())


def test_an_image_costs_the_priors_multiplications_alone() -> None:
    system = esvae.build(SMOKE, ImageShape(1, 8)).eval()
    with Meter(system.generator) as meter:
        system.sample([0, 1, 2])
    counts = meter.counts(images=3)
    assert counts.evaluations == 1
    assert counts.macs == SMOKE.latent**2  # whatever the time steps
    assert counts.macs_first_conv == 0
    assert counts.acs > 0
    assert 0.3 < meter.firing_rates["spikes"] < 0.7  # an untrained prior's rates are near 1/2


# The draws.


def test_the_mean_of_the_spikes_is_the_rate() -> None:
    draws = 20_000
    rates = torch.tensor([[0.0, 0.03, 0.25, 0.5], [0.8, 0.99, 1.0, 0.1]])
    uniform = torch.rand((draws, *rates.shape), generator=torch.Generator().manual_seed(5))
    spikes = esvae.PoissonSpikes(draws)(rates, uniform)
    assert spikes.shape == (draws * 2, 4)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    mean = spikes.unflatten(0, (draws, 2)).mean(0)
    deviation = (rates * (1 - rates) / draws).sqrt()
    assert ((mean - rates).abs() <= 4 * deviation).all()  # equal at rates 0 and 1


def test_the_gradient_of_the_draws_by_hand() -> None:
    rates = torch.tensor([[0.25]], requires_grad=True)
    uniform = torch.tensor([0.0, 0.125, 0.25, 0.5, 0.734375, 0.75, 0.9])
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    spikes = esvae.PoissonSpikes(7)(rates, uniform[:, None, None])
    assert spikes.flatten().tolist() == [1, 1, 0, 0, 0, 0, 0]  # strict: equal does not fire
    (spikes.flatten() * weights).sum().backward()
    # Within 0.5 of the uniform number: all but 0.75, which is 0.5 away, and 0.9.
    assert rates.grad is not None
    assert rates.grad.item() == 1 + 2 + 4 + 8 + 16


# The MMD.


def test_mmd_of_two_points_by_hand() -> None:
    """One point a set, at a squared distance of 9: the mean squared distance is 9 as well, so
    the kernels are exp(-1 / f)."""
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[1.0, 5.0]], dtype=torch.float64, requires_grad=True)
    across = sum(math.exp(-1 / f) for f in (0.25, 0.5, 1, 2, 4))
    assert across == pytest.approx(1.9068625)
    loss = esvae.rbf_mmd(x, y)
    assert loss.item() == pytest.approx(5 + 5 - 2 * across)
    loss.backward()
    # d/dy of -2 exp(-d^2 / (9 f)) at d = 3 is 12 exp(-1 / f) / (9 f): 9 is a constant for it.
    slope = sum(12 * math.exp(-1 / f) / (9 * f) for f in (0.25, 0.5, 1, 2, 4))
    assert y.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(y.grad, torch.tensor([[0, slope]], dtype=torch.float64))
    torch.testing.assert_close(x.grad, -y.grad)  # both are pulled


def test_mmd_against_sums_over_all_pairs() -> None:
    x, y = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    points = [*x, *y]

    def squared(a: Tensor, b: Tensor) -> float:
        return float(((a - b) ** 2).sum())

    apart = [squared(a, b) for n, a in enumerate(points) for m, b in enumerate(points) if n != m]
    mean = sum(apart) / len(apart)

    def kernel(first: Tensor, second: Tensor) -> float:
        pairs = [(a, b) for a in first for b in second]
        values = [
            math.exp(-squared(a, b) / (mean * 2.0**p)) for a, b in pairs for p in range(-2, 3)
        ]
        return sum(values) / len(pairs)

    expected = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    assert esvae.rbf_mmd(x, y).item() == pytest.approx(expected)
    assert esvae.rbf_mmd(x, x[[2, 0, 1]]).item() == pytest.approx(0, abs=1e-12)  # a set: no order
    assert esvae.rbf_mmd(torch.ones(2, 3), torch.ones(2, 3)).item() == 0


# The whole.


def test_the_posterior_is_the_mean_over_time_and_the_prior_a_sigmoid() -> None:
    net = esvae.build(SMOKE, ImageShape(1, 8)).net.eval()
    images, noise = torch.rand(2, 1, 8, 8), torch.randn(2, SMOKE.latent)
    uniform = torch.rand(SMOKE.time_steps, 2, SMOKE.latent)
    layer = net.generator.prior.layer
    with torch.no_grad():
        rebuilt, posterior, prior = net(images, noise, uniform)
        spikes = net.encoder(images)
        by_hand = 1 / (1 + (-(noise @ layer.weight.T + layer.bias)).exp())
        decoded = net.generator.decoder((posterior > uniform).float())
    torch.testing.assert_close(posterior, spikes.sum(0) / SMOKE.time_steps)
    torch.testing.assert_close(prior, by_hand)
    assert torch.equal(rebuilt, decoded)


def test_a_sample_is_made_of_its_own_stream() -> None:
    system = esvae.build(SMOKE, ImageShape(1, 8))
    stream = ImageStreams([7])
    noise = stream.randn(SMOKE.latent)
    uniform = stream.rand(SMOKE.time_steps, SMOKE.latent).transpose(0, 1)
    net = system.net.generator.eval()
    with torch.no_grad():
        expected = net.decoder((net.prior(noise) > uniform).float())
    torch.testing.assert_close(system.sample([3, 7])[1:], expected)
    torch.testing.assert_close(system.sample([7]), expected)


@torch.no_grad()
def test_decoding_step_by_step_equals_decoding_all_steps_at_once() -> None:
    decoder = esvae.build(SMOKE, ImageShape(1, 8)).net.generator.decoder
    z = (torch.rand(SMOKE.time_steps, 3, SMOKE.latent) < 0.5).float()
    decoder.train()(z)  # statistics other than 0 and 1
    decoder.eval()
    carried = [Membrane() for _ in range(1 + len(decoder.levels))]
    potential = torch.zeros(())
    for step in z:
        x = decoder.read(step, 1, carried[0]).unflatten(1, decoder.bottom)
        for level, membrane in zip(decoder.levels, carried[1:], strict=True):
            x = level(x, 1, membrane)
        potential = 0.8 * potential + decoder.last(x)
    torch.testing.assert_close(decoder(z), potential.tanh())


def test_it_learns_and_the_priors_layer_moves_ten_times_as_far(tmp_path: Path) -> None:
    images = GeneratedImages(64)
    torch.manual_seed(0)
    system = esvae.build(SMOKE, images.shape)
    layers = {"prior": system.generator.prior.layer, "last": system.generator.decoder.last}
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    losses, moved = [], {}
    for steps in (1, 29):
        config = TrainConfig(steps=steps, batch_size=16, log_every=1)
        folder = tmp_path / str(steps)
        report = fit(system, images, config=config, folder=folder, description={}, progress=False)
        losses.append(report.losses)
        if steps == 1:
            # Adam's first step moves a weight by the step size.
            moved = {n: (layers[n].weight - w).abs().max().item() for n, w in before.items()}
    assert moved["last"] == pytest.approx(3e-3, rel=0.02)
    assert moved["prior"] == pytest.approx(3e-2, rel=0.02)
    assert losses[1]["reconstruction"] < 0.7 * losses[0]["reconstruction"]
    assert losses[1]["posterior_spread"] > 0.01
    assert losses[0]["loss"] == pytest.approx(
        losses[0]["reconstruction"] + 1e-3 * losses[0]["mmd"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(time_steps=0), "time_steps=0: expected a whole number from 1"),
        (dict(prior_rate=0.0), r"prior_rate=0\.0: expected a number above 0"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        esvae.build(esvae.Config(**options), ImageShape(1, 8))


def test_a_batch_of_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="raise batch_size"):
        fit(
            esvae.build(SMOKE, ImageShape(1, 8)), GeneratedImages(4), folder=tmp_path,
            config=TrainConfig(steps=1, batch_size=1), description={}, progress=False,
        )  # fmt: skip
