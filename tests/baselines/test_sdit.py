"""SDiT: sizes, recurrence, variance and operations by hand, and against other libraries."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from scipy import stats
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from baselines.sdit import network, scan, system, variance
from bench.energy.meter import Meter
from sddpm.checkpoint import count_parameters
from sddpm.diffusion import Diffusion, DiffusionConfig
from sddpm.protocol import ImageShape
from sddpm.samplers import Sampling, make_scheduler, sample
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages

SMOKE = system.Config(**system.PRESETS["smoke"])
GREY = ImageShape(1, 8)


def make(shape: ImageShape = GREY, **options: object) -> system.SDiT:
    """Built at the smoke preset; with a head that is not 0, so that its output is not constant."""
    torch.manual_seed(0)
    made = system.build(system.Config(**{**system.PRESETS["smoke"], **options}), shape)
    nn.init.normal_(made.net.head.weight, std=0.1)
    return made


# Sizes and operations.


@pytest.mark.parametrize(
    ("shape", "width", "depth", "total"),
    [
        (ImageShape(3, 28), 384, 4, 11_663_035),  # the authors' for MNIST, without labels
        (ImageShape(3, 28), 512, 8, 36_046_415),  # for CIFAR-10
        (ImageShape(1, 32), 72, 4, 682_811),  # the preset small
    ],
)
def test_parameters_by_hand(shape: ImageShape, width: int, depth: int, total: int) -> None:
    tokens = 1 + (shape.size // 2) ** 2
    time_mix = 4 * width**2 + 5 * width
    channel_mix = 9 * width**2 + 2 * width
    reconstruction = tokens * width + (width * tokens + tokens) + (tokens * width + width)
    blocks = (depth + 1) * (time_mix + channel_mix + reconstruction)
    skips = depth // 2 * (2 * width * width + width)
    patches = 4 * shape.channels * width + width + tokens * width
    step = 256 * width + width + width * width + width
    outputs = 2 * shape.channels
    head = (width + 1) * 4 * outputs + 9 * outputs**2 + outputs
    with torch.device("meta"):
        net = network.RWKVNetwork(
            shape, width=width, depth=depth, patch=2, time_steps=4, threshold=1.0
        )
    assert count_parameters(net) == blocks + skips + patches + step + head == total


@pytest.mark.parametrize("time_steps", [1, 4])
def test_an_image_costs_multiplications_alone_whatever_the_time_steps(time_steps: int) -> None:
    width, depth, tokens = 16, 2, 17
    block = 2 * tokens * 13 * width**2 + 2 * tokens**2 * width
    expected = 3 * block + depth // 2 * tokens * 2 * width**2
    expected += 16 * 4 * width  # patches
    expected += 256 * width + width**2 + tokens * width * 4 * 2 + 64 * 9 * 2 * 2
    made = make(time_steps=time_steps).eval()
    with Meter(made.generator) as meter:
        made.sample([0, 1, 2], {"sampler": "ddim", "steps": 2})
    counts = meter.counts(images=3)
    assert counts.evaluations == 2
    assert counts.acs == 0
    assert not counts.spiking
    assert counts.macs == 2 * expected
    assert counts.macs_first_conv == 2 * 16 * 4 * width
    assert set(meter.firing_rates) == {
        f"{block}.{part}_fire.neurons"
        for block in ("entering.0", "middle", "leaving.0")
        for part in ("time", "channel")
    }


# The recurrence.


def by_definition(decay: Tensor, first: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Every weight of every pair of tokens."""
    rows = []
    for t in range(keys.shape[1]):
        logs = [keys[:, i] - (t - 1 - i) * decay.exp() for i in range(t)] + [first + keys[:, t]]
        shares = torch.stack(logs).softmax(0)
        rows.append((shares * values[:, : t + 1].transpose(0, 1)).sum(0))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 33])
def test_wkv_is_its_definition(tokens: int) -> None:
    rng = torch.Generator().manual_seed(tokens)
    keys, values, more = torch.randn(3, 2, tokens, 5, generator=rng, dtype=torch.float64)
    decay, first = torch.tensor([-5.0, -2.0, 0.0, 1.0, 3.0]), more[0, 0]
    keys = 6 * keys
    inputs = [x.double().requires_grad_() for x in (decay, first, keys, values)]
    ours, theirs = scan.wkv(*inputs), by_definition(*inputs)
    torch.testing.assert_close(ours, theirs)
    for mine, wanted in zip(
        torch.autograd.grad(ours.sin().sum(), inputs, allow_unused=True),
        torch.autograd.grad(theirs.sin().sum(), inputs, allow_unused=True),
        strict=True,
    ):
        wanted = torch.zeros_like(mine) if wanted is None else wanted
        torch.testing.assert_close(mine, wanted, atol=1e-9, rtol=1e-6)


def test_wkv_holds_keys_that_float32_would_not() -> None:
    keys = torch.tensor([300.0, -300.0, 0.0, 250.0])[None, :, None]
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])[None, :, None]
    decay, first = torch.tensor([-3.0]), torch.tensor([0.5])
    ours = scan.wkv(decay, first, keys, values)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, by_definition(decay, first, keys, values))


def test_a_token_sees_no_later_one() -> None:
    torch.manual_seed(1)
    mix = network.TimeMix(6, depth=2, level=0)
    x = torch.randn(1, 9, 6)
    changed = x.clone()
    changed[:, 5:] += 1
    moved = (mix(changed) != mix(x)).any(-1)[0]
    assert moved.tolist() == [False] * 5 + [True] * 4


def test_rates_are_spikingjellys() -> None:
    fire = network.Fire(4, threshold=1.0)
    x = torch.linspace(-1, 4, 501)[None, :, None]
    theirs = neuron.LIFNode(step_mode="m", v_threshold=1.0)
    rates = theirs(x.repeat(4, 1, 1, 1)).mean(0)
    assert torch.equal(fire(x), rates)
    assert rates.unique().tolist() == [0, 0.25, 0.5, 1.0]  # no current leads to 3 of 4


# The network.


def test_a_block_by_hand() -> None:
    torch.manual_seed(2)
    block = network.Block(8, 4, 1, tokens=5, fire=(4, 0.1), skip=True)
    nn.init.normal_(block.appended)
    x, earlier = torch.randn(2, 3, 5, 8).unbind(0)

    def norm(y: Tensor) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def previous(y: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], dim=1)

    def mixed(layer: network.Mix, y: Tensor) -> Tensor:
        return layer.share * y + (1 - layer.share) * previous(y)

    h = torch.cat([x, earlier], -1) @ block.skip.weight.T + block.skip.bias
    h = torch.cat([h, block.appended.repeat(3, 1, 1)], dim=1)
    time, channel = block.time_mix, block.channel_mix
    y = norm(h)
    averages = by_definition(
        time.decay, time.first, mixed(time.mix_keys, y) @ time.keys.weight.T,
        mixed(time.mix_values, y) @ time.values.weight.T,
    )  # fmt: skip
    gates = torch.sigmoid(mixed(time.mix_gates, y) @ time.gates.weight.T)
    h = h + block.time_fire((gates * averages) @ time.output.weight.T)
    y = norm(h)
    inside = (mixed(channel.mix_keys, y) @ channel.keys.weight.T).clamp(min=0) ** 2
    gates = torch.sigmoid(mixed(channel.mix_gates, y) @ channel.gates.weight.T)
    h = h + block.channel_fire(gates * (inside @ channel.values.weight.T))
    kept, appended = h[:, :5], h[:, 5:]
    factor = (appended @ block.to_factor.weight.T + block.to_factor.bias).transpose(1, 2)
    factor = factor @ block.to_width.weight.T + block.to_width.bias
    torch.testing.assert_close(block(x, earlier), kept * (1 + factor), atol=1e-5, rtol=1e-5)
    assert 0 < block.time_fire((gates * averages) @ time.output.weight.T).mean() < 1


def test_patches_return_to_their_places() -> None:
    net = make(ImageShape(3, 8)).net
    patches = torch.randn(2, 16, 4 * 6)
    # torch's own order has the channels slowest.
    columns = patches.unflatten(2, (4, 6)).transpose(2, 3).flatten(2).transpose(1, 2)
    wanted = functional.fold(columns, (8, 8), kernel_size=2, stride=2)
    assert torch.equal(net._image(patches, side=4), wanted)


def test_initial_shares_and_decays() -> None:
    """The fancy initial values of RWKV-4 at block 2 of 5: ratios 1/4 and 3/5 would be of another
    count, since the authors divide by a depth without the middle block."""
    mix = network.TimeMix(5, depth=4, level=1)
    h = torch.arange(5)
    torch.testing.assert_close(mix.decay.data, -5 + 8 * (h / 4) ** (0.7 + 1.3 / 3))
    zigzag = torch.tensor([0.0, 0.5, -0.5, 0.0, 0.5])
    torch.testing.assert_close(mix.first.data, math.log(0.3) + zigzag)
    torch.testing.assert_close(mix.mix_values.share.data, (h / 5) ** 0.75 + 0.1)


# The variance.


def test_bound_against_distributions() -> None:
    diffusion = Diffusion(DiffusionConfig(learned_variance=True))
    abar = diffusion.alphas_cumprod.double()
    torch.manual_seed(3)
    images = (torch.rand(3, 1, 2, 2) * 2 - 1).double()
    noise, predicted, place = torch.randn(3, 3, 1, 2, 2).double().unbind(0)
    t = torch.tensor([1, 40, 999])
    x = diffusion.add_noise(images, noise, t)
    found = variance.VarianceBound(diffusion)(images, noise, predicted, place, t)
    for i, step in enumerate(t.tolist()):
        now, last = abar[step], abar[step - 1]
        beta = 1 - now / last
        least = beta * (1 - last) / (1 - now)

        def mean(start: Tensor, at: Tensor, now=now, last=last, beta=beta) -> Tensor:
            return (last.sqrt() * beta * start + (1 - beta).sqrt() * (1 - last) * at) / (1 - now)

        start = (x[i] - (1 - now).sqrt() * predicted[i]) / now.sqrt()
        share = (place[i] + 1) / 2
        deviation = (beta**share * least ** (1 - share)).sqrt()
        divergence = kl_divergence(
            Normal(mean(images[i], x[i]), least.sqrt()), Normal(mean(start, x[i]), deviation)
        )
        bits = divergence.mean() / math.log(2)
        assert found[i].item() == pytest.approx(bits.item(), rel=2e-3)


def test_the_first_steps_term_is_a_likelihood_of_grey_levels() -> None:
    diffusion = Diffusion(DiffusionConfig(learned_variance=True))
    bound = variance.VarianceBound(diffusion)
    images, noise, predicted = (torch.full((1, 1, 1, 1), v) for v in (0.2, 0.7, 0.1))
    t, place = torch.tensor([0]), torch.tensor([[[[-1.0]]]])
    abar = diffusion.alphas_cumprod.double()
    mean = 0.2 - math.sqrt((1 - abar[0]) / abar[0]) * (0.1 - 0.7)
    deviation = math.sqrt((1 - abar[1] / abar[0]) * (1 - abar[0]) / (1 - abar[1]))
    edges = stats.norm.cdf([0.2 - 1 / 255, 0.2 + 1 / 255], mean, deviation)
    wanted = -math.log2(edges[1] - edges[0])
    assert bound(images, noise, predicted, place, t).item() == pytest.approx(wanted, rel=1e-3)


def test_levels_share_the_whole_probability() -> None:
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1)[:, None]
    for mean, log_scale in ((0.3, -2.0), (-1.2, 0.0), (0.99, -3.0)):
        constant = torch.full_like(levels, mean), torch.full_like(levels, log_scale)
        logs = variance.level_log_likelihood(levels, *constant)
        assert logs.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_the_bound_trains_the_variance_alone() -> None:
    bound = variance.VarianceBound(Diffusion(DiffusionConfig()))
    predicted, place = torch.zeros(2, 2, 1, 4, 4).requires_grad_().unbind(0)
    images, noise = torch.zeros(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    loss = bound(images, noise, predicted, place, torch.tensor([0, 500])).sum()
    of_noise, of_place = torch.autograd.grad(loss, (predicted, place), allow_unused=True)
    assert of_noise is None
    assert (of_place != 0).all()


def streams(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize(("place", "kind"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_the_ends_of_the_range_are_the_fixed_variances(place: float, kind: str) -> None:
    """Also over jumps of 100 diffusion steps, where diffusers' upper end is one step's beta."""
    learned = make_scheduler(DiffusionConfig(learned_variance=True), Sampling("ddpm", 10), None)
    fixed = DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, variance_type=kind, timestep_spacing="trailing"
    )
    fixed.set_timesteps(10)
    x, eps = torch.randn(2, 2, 1, 4, 4).unbind(0)
    output = torch.cat([eps, torch.full_like(eps, place)], dim=1)
    for t in (999, 299):
        ours = learned.step(output, t, x, generator=streams(0, 1))
        theirs = fixed.step(eps, t, x, generator=streams(0, 1))
        torch.testing.assert_close(ours.prev_sample, theirs.prev_sample)


def test_between_the_ends_it_is_diffusers_for_single_steps() -> None:
    single = make_scheduler(DiffusionConfig(learned_variance=True), Sampling("ddpm", 1000), None)
    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, variance_type="learned_range")
    theirs.set_timesteps(1000)
    x, output = torch.randn(1, 1, 4, 4), torch.randn(1, 2, 4, 4)
    for t in (999, 500, 3):
        a = single.step(output, t, x, generator=streams(5))
        b = theirs.step(output, t, x, generator=streams(5))
        torch.testing.assert_close(a.prev_sample, b.prev_sample)


def test_other_samplers_drop_the_variance() -> None:
    made, shape = make().eval(), GREY
    settings = Sampling("ddim", 4, eta=1.0)
    noise_alone = sample(
        made.prepared("plain"), shape, [3, 4], DiffusionConfig(), settings, gamma=None
    )
    torch.testing.assert_close(made.sample([3, 4], vars(settings)), noise_alone)
    learned = made.sample([3, 4], {"sampler": "ddpm", "steps": 4})
    with torch.no_grad():
        made.net.smooth.bias[1] += 2
    assert torch.equal(made.sample([3, 4], vars(settings)), noise_alone)
    assert not torch.allclose(made.sample([3, 4], {"sampler": "ddpm", "steps": 4}), learned)


# The whole.


def test_it_learns(tmp_path: Path) -> None:
    images = GeneratedImages(64)
    losses = []
    for steps in (1, 40):
        torch.manual_seed(0)
        made = system.build(SMOKE, images.shape)
        config = TrainConfig(steps=steps, batch_size=16, log_every=1)
        folder = tmp_path / str(steps)
        report = fit(made, images, config=config, folder=folder, description={}, progress=False)
        losses.append(report.losses)
    assert losses[1]["noise"] < 0.9 * losses[0]["noise"]
    for loss in losses:
        assert loss["loss"] == pytest.approx(loss["noise"] + loss["bound"], rel=1e-5)
    assert type(made.optimizers["net"]) is torch.optim.AdamW
    assert made.optimizers["net"].param_groups[0]["weight_decay"] == 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth=3), "depth=3: expected an even number of at least 2"),
        (dict(width=1), "width=1: expected at least 2"),
        (dict(patch=3), "patch=3: expected a divisor of the images' 8 pixels"),
        (dict(time_steps=0), "time_steps=0: expected a whole number from 1"),
        (dict(threshold=-1.0), "threshold=-1.0: expected a number above 0"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        system.build(system.Config(**options), GREY)
