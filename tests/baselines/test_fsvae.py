"""FSVAE and its ANN twin: sizes, losses by hand, neuron and norm against their definitions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from baselines.spiking_layers import LeakyNeuron, Membrane, Rectangle, TimeBatchNorm, Triangle
from baselines.vaes import fsvae, spiking, vae
from baselines.vaes.pyramid import Pyramid
from sddpm.checkpoint import count_parameters
from sddpm.layers import declare
from sddpm.protocol import ImageShape, to_float
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages

SMOKE = fsvae.Config(**fsvae.PRESETS["smoke"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[fsvae.FSVAE, dict, dict]:
    """The smoke preset after some steps on blobs, its first losses and its last."""
    images = GeneratedImages(64)
    torch.manual_seed(0)
    system = fsvae.build(SMOKE, images.shape)
    losses = []
    for steps in (2, 120):
        folder = tmp_path_factory.mktemp("fsvae")
        config = TrainConfig(steps=steps, batch_size=16, log_every=1)
        report = fit(system, images, config=config, folder=folder, description={}, progress=False)
        losses.append(report.losses)
    return system.eval(), losses[0], losses[1]


# Sizes.


@pytest.mark.parametrize(
    ("channels", "size", "expected"),
    [(1, 32, 4_053_601), (3, 32, 4_054_755), (3, 64, 6_681_571), (1, 28, 4_053_601)],
)
def test_parameters_are_the_published_ones(channels: int, size: int, expected: int) -> None:
    net = fsvae.build(fsvae.Config(), ImageShape(channels, size)).net
    assert count_parameters(net) == expected
    assert count_parameters(net.generator.prior) == 1_484_544
    assert count_parameters(net.posterior) == 1_517_312


@pytest.mark.parametrize(
    ("channels", "size", "millions"), [(1, 32, 1.13), (3, 32, 1.13), (3, 64, 3.76)]
)
def test_parameters_of_the_twin_are_the_published_ones(
    channels: int, size: int, millions: float
) -> None:
    net = vae.build(vae.Config(), ImageShape(channels, size)).net
    assert round(count_parameters(net) / 2**20, 2) == millions


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(8, (8, 4, 2)), (28, (28, 14, 7, 4, 2)), (32, (32, 16, 8, 4, 2)), (64, (64, 32, 16, 8, 4, 2))],
)
def test_the_way_up_has_the_sizes_of_the_way_down(size: int, sizes: tuple[int, ...]) -> None:
    pyramid = Pyramid.of(ImageShape(1, size), 2)
    assert pyramid.sizes == sizes
    x = torch.zeros(1, 1, size, size)
    for n, convolution in enumerate(pyramid.down("real"), start=1):
        x = convolution(x)
        assert x.shape[-1] == sizes[n]
    for n, convolution in enumerate(pyramid.up("real"), start=2):
        x = convolution(x)
        assert x.shape[-1] == sizes[-n]
    assert pyramid.last("real")(x).shape == (1, 1, size, size)


def test_only_the_first_convolution_reads_real_numbers() -> None:
    net = fsvae.build(SMOKE, ImageShape(3, 32)).net
    reads = {name: m.reads for name, m in net.named_modules() if hasattr(m, "reads")}
    assert [name for name, kind in reads.items() if kind == "real"] == ["encoder.levels.0.layer"]
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    assert len(reads) == sum(isinstance(m, layers) for m in net.modules())


# Losses by hand.


def test_psp_by_hand() -> None:
    psp = fsvae.postsynaptic(torch.tensor([1.0, 0.0, 1.0])[:, None, None])
    assert psp.flatten().tolist() == [0.5, 0.25, 0.625]


def test_mmd_by_hand() -> None:
    # Time by one image by two bits. PSPs of the first bit: .5 .25 against 0 .5; of the second
    # equal. (0.5^2 + 0.25^2) / 4 values.
    q = torch.tensor([[[1.0, 0.2]], [[0.0, 0.4]]], requires_grad=True)
    p = torch.tensor([[[0.0, 0.2]], [[1.0, 0.4]]], requires_grad=True)
    loss = fsvae.spike_mmd(q, p)
    assert loss.item() == pytest.approx((0.25 + 0.0625) / 4)
    loss.backward()
    assert q.grad is not None
    assert p.grad is not None
    torch.testing.assert_close(q.grad, -p.grad)  # both nets are pulled


def test_bernoulli_kl_by_hand() -> None:
    q, p = torch.tensor([[[1.0]], [[0.5]]]), torch.tensor([[[0.5]], [[0.5]]])
    expected = torch.tensor(1.01 / 0.51).log()
    torch.testing.assert_close(fsvae.bernoulli_kl(q, p), expected)
    both = fsvae.bernoulli_kl(q.repeat(1, 3, 1), p.repeat(1, 3, 1))
    torch.testing.assert_close(both, expected)  # a mean over the batch


def test_gaussian_kl_by_hand() -> None:
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    # 1/2 (1) + 1/2 (e - 1 - 1)
    expected = (1 + torch.e - 2) / 2
    assert vae.gaussian_kl(mean, log_variance).item() == pytest.approx(expected)


def test_pick_takes_one_copy_a_bit() -> None:
    copies = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]])
    assert fsvae.pick(copies, torch.tensor([[2, 0]])).tolist() == [[2.0, 3.0]]


# Norm and neuron.


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_tdbn_is_batch_norm_over_time_too_with_a_scale(alpha: float) -> None:
    time_steps, batch, channels = 4, 3, 2
    x = torch.randn(time_steps * batch, channels, 5, 5) * 3 + 1
    norm = TimeBatchNorm(channels, threshold=0.2, alpha=alpha)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    out = norm(x)

    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
    formula = weight * alpha * 0.2 * (x - mean) / (var + 1e-5).sqrt() + bias
    torch.testing.assert_close(out, formula)

    reference = nn.BatchNorm3d(channels)  # [batch, channels, time, H, W]
    five = x.unflatten(0, (time_steps, batch)).permute(1, 2, 0, 3, 4)
    scaled = reference(five).permute(2, 0, 1, 3, 4).flatten(0, 1) * 0.2 * alpha
    torch.testing.assert_close(out, scaled * weight + bias)
    torch.testing.assert_close(norm.running_mean, reference.running_mean / 0.1)
    torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)))


def test_running_statistics_average_evenly_then_exponentially() -> None:
    norm = TimeBatchNorm(1, threshold=1.0, momentum=0.5)
    for value, expected in [(4.0, 4.0), (0.0, 2.0), (0.0, 1.0), (0.0, 0.5)]:
        norm(torch.full((4, 1), value))
        assert norm.running_mean.item() == expected
    before = norm.running_mean.clone()
    norm(torch.full((4, 1), 9.0), track=False)
    assert torch.equal(norm.running_mean, before)
    out = norm.eval()(torch.tensor([[3.0]]))
    expected = (3 - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
    torch.testing.assert_close(out[0], expected)


class Spike(torch.autograd.Function):
    """A spike whose derivative is the surrogate's, for autograd's own chain rule."""

    @staticmethod
    def forward(ctx, u: Tensor, neuron: LeakyNeuron) -> Tensor:
        ctx.save_for_backward(u)
        ctx.neuron = neuron
        return (u > neuron.threshold).to(u.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.neuron.surrogate(*ctx.saved_tensors), None


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize(
    ("decay", "threshold", "surrogate"),
    [(0.25, 0.2, Rectangle(0.0, 0.5)), (0.8, 1.0, Triangle(1.0, 0.5))],
)
def test_lif_equals_a_loop_in_value_and_gradient(
    decay: float, threshold: float, surrogate: Rectangle | Triangle, detach_reset: bool
) -> None:
    neuron = LeakyNeuron(
        6, decay=decay, threshold=threshold, surrogate=surrogate, detach_reset=detach_reset
    )
    x = (torch.randn(6 * 3, 50) * 2 * threshold).requires_grad_()
    ours = neuron(x)
    upstream = torch.randn_like(ours)
    (gradient,) = torch.autograd.grad(ours, x, upstream)

    u, spike, spikes = torch.zeros(3, 50), torch.zeros(3, 50), []
    for current in x.unflatten(0, (6, 3)):
        u = decay * u * (1 - (spike.detach() if detach_reset else spike)) + current
        spike = Spike.apply(u, neuron)
        spikes.append(spike)
    looped = torch.cat(spikes)
    assert 0.05 < ours.mean() < 0.95
    assert torch.equal(ours, looped)
    torch.testing.assert_close(gradient, torch.autograd.grad(looped, x, upstream)[0])


def test_the_window_of_the_surrogate_is_centred_on_zero() -> None:
    neuron = LeakyNeuron(
        1, decay=spiking.DECAY, threshold=spiking.THRESHOLD, surrogate=spiking.SURROGATE
    )
    x = torch.tensor([[-0.6, -0.5, -0.45, 0.0, 0.2, 0.21, 0.45, 0.5, 0.6]], requires_grad=True)
    spikes = neuron(x)
    spikes.sum().backward()
    assert spikes.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1]]  # strict: 0.2 does not fire
    # Around the threshold it would hold at 0.6 and not at -0.45.
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0, 1, 1, 1, 1, 1, 0, 0]]


def test_triangle_has_its_peak_at_the_centre() -> None:
    u = torch.tensor([0.4, 0.5, 0.75, 1.0, 1.25, 1.6])
    assert Triangle(1.0, 0.5)(u).tolist() == [0.0, 0.0, 0.5, 1.0, 0.5, 0.0]


def test_a_carried_membrane_continues_the_sequence() -> None:
    neuron = LeakyNeuron(5, decay=0.8, threshold=1.0, surrogate=Triangle(1.0, 0.5))
    x, membrane = torch.rand(5 * 2, 7), Membrane()
    parts = [neuron(part, n, membrane) for part, n in ((x[:4], 2), (x[4:6], 1), (x[6:], 2))]
    assert torch.equal(torch.cat(parts), neuron(x))
    assert torch.equal(neuron(x), neuron(x))  # nothing is left in the module


# The whole.


@torch.no_grad()
def test_the_prior_step_by_step_equals_the_prior_on_prefixes(trained: tuple) -> None:
    system = trained[0]
    generator, picks = system.generator, system._picks([3, 1, 4])
    before = torch.zeros(picks.shape)
    drawn = []
    for s in range(len(picks)):
        drawn.append(fsvae.pick(generator.prior(before[: s + 1])[-1], picks[s]))
        if s + 1 < len(picks):
            before[s + 1] = drawn[-1]
    z = torch.stack(drawn)
    assert 0.01 < z.mean() < 0.99
    torch.testing.assert_close(generator(picks), generator.decoder(z))


def test_it_learns_and_the_posterior_reads_its_input(trained: tuple) -> None:
    system, first, last = trained
    assert last["reconstruction"] < 0.6 * first["reconstruction"]
    assert last["posterior_spread"] > 0.01
    a, b = to_float(GeneratedImages(64).images[[3, 40]])
    seeds = [7, 7]  # the same copies, so that the inputs are the only difference
    rebuilt = system.reconstruct(torch.stack([a, b]), seeds)
    assert difference(rebuilt) > 0.02

    weight = system.net.posterior.layers[0].layer.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[:, : SMOKE.latent] = 0  # deaf to the encoder
        deaf = system.reconstruct(torch.stack([a, b]), seeds)
        spread = first_step_spread(system, torch.stack([a, b]))
        weight.copy_(kept)
    assert difference(deaf) < 1e-6
    assert spread < 1e-6  # what training logs would show
    assert first_step_spread(system, torch.stack([a, b])) > 0.01


@torch.no_grad()
def first_step_spread(system: fsvae.FSVAE, images: Tensor) -> float:
    """As ``train_step`` logs it, with different bits for every image."""
    picks = system._picks(range(len(images)))
    posterior = system.net(images, picks, [False] * len(picks), torch.zeros(picks.shape))[1]
    return posterior[0].std(0).mean().item()


def difference(pair: Tensor) -> float:
    return (pair[0] - pair[1]).abs().mean().item()


def test_prefixes_leave_the_running_statistics_alone() -> None:
    net = fsvae.build(fsvae.Config(**{**fsvae.PRESETS["smoke"], "time_steps": 8}), ImageShape(1, 8))
    net = net.net.train()
    picks = torch.zeros(8, 2, SMOKE.latent, dtype=torch.long)
    net(torch.rand(2, 1, 8, 8), picks, [True] * 8, torch.zeros(picks.shape))
    updates = {int(m.updates) for m in net.modules() if isinstance(m, TimeBatchNorm)}
    assert updates == {1}


def test_scheduled_sampling_replaces_bits_from_the_sixth_step_on() -> None:
    config = fsvae.Config(**{**fsvae.PRESETS["smoke"], "time_steps": 8})
    net = fsvae.build(config, ImageShape(1, 8)).net.train()
    z = torch.full((8, 4, SMOKE.latent), 1.0)
    before = fsvae.shift(z)
    jitter = torch.full(z.shape, -2.0)  # below any probability: replaced bits are 0
    fed = net._scheduled(before.clone(), [False] * 8, jitter)
    assert torch.equal(fed, before)
    fed = net._scheduled(before.clone(), [True] * 8, jitter)
    # Row s of the input holds the bits of step s - 1.
    assert fed.mean((1, 2)).tolist() == [0, 1, 1, 1, 1, 1, 0, 0]


def test_the_generator_shares_the_trained_weights(tmp_path: Path) -> None:
    for module, config in ((fsvae, SMOKE), (vae, vae.Config(**vae.PRESETS["smoke"]))):
        system = module.build(config, ImageShape(1, 8))
        trained = {id(p) for p in system.net.parameters()}
        assert {id(p) for p in system.generator.parameters()} < trained
        other = module.build(config, ImageShape(1, 8))
        other.generator.load_state_dict(system.generator.state_dict(), strict=True)
        assert torch.equal(other.sample([1, 2]), system.sample([1, 2]))
        assert system.net.training  # as it was before


def test_the_twin_learns(tmp_path: Path) -> None:
    images = GeneratedImages(64)
    system = vae.build(vae.Config(**vae.PRESETS["smoke"], kl_weight=1e-3), images.shape)
    config = TrainConfig(steps=150, batch_size=16, log_every=1)
    report = fit(system, images, config=config, folder=tmp_path, description={}, progress=False)
    assert report.losses["reconstruction"] < 0.1
    assert report.losses["kl"] > 1  # the latent is used


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(distance="mse"), "distance='mse': choose from mmd, kl"),
        (dict(time_steps=0), "time_steps=0: expected a whole number from 1"),
        (dict(copies=0), "copies=0: expected at least 1"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fsvae.build(fsvae.Config(**options), ImageShape(1, 8))


def test_wrong_sizes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image size 2: expected at least 4 pixels"):
        vae.build(vae.Config(), ImageShape(1, 2))
    with pytest.raises(ValueError, match=r"decay=1\.5"):
        LeakyNeuron(1, decay=1.5, threshold=1.0, surrogate=Rectangle(0, 1))
    with pytest.raises(ValueError, match="raise batch_size"):
        fit(
            fsvae.build(SMOKE, ImageShape(1, 8)), GeneratedImages(4), folder=tmp_path,
            config=TrainConfig(steps=1, batch_size=1), description={}, progress=False,
        )  # fmt: skip


def test_declared_layers_keep_pytorchs_initial_weights() -> None:
    """The papers' code does not set them, unlike the U-Net's."""
    torch.manual_seed(0)
    ours = Pyramid.of(ImageShape(1, 8), 4).down("real")[0].weight
    torch.manual_seed(0)
    torch.testing.assert_close(ours, declare(nn.Conv2d(1, 4, 3, 2, 1), reads="real").weight)
