"""The sampling engine against the plain network and the golden file."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from sddpm.engine import convolutions
from sddpm.engine.convolutions import (
    DoublingSpikeConvolution,
    FloatConvolution,
    SpikeConvolution,
    fold,
    int8_parts,
    int8_runs,
)
from sddpm.engine.network import (
    OptimizedUNet,
    Precision,
    _say_once,
    optimize,
    prepare_for_training,
)
from sddpm.kernels import lookup
from sddpm.kernels import neurons as kernels
from sddpm.neurons import IF
from sddpm.published import load_published
from sddpm.unet import UNet
from tests.support.networks import GOLDEN, inputs, network


def difference(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).norm() / expected.norm())


@torch.no_grad()
def evaluate(net: UNet, x: Tensor, t: Tensor) -> Tensor:
    return net(x, t)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are too small to share: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["native", "no compiler", "no int8", "nothing"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Machines that lack some of what the engine uses."""
    if request.param in ("no compiler", "nothing"):
        monkeypatch.setattr(kernels, "library", lambda: None)
        monkeypatch.setattr(lookup, "library", lambda: None)
    if request.param in ("no int8", "nothing"):
        monkeypatch.setattr(convolutions, "int8_runs", lambda: False)
    if request.param == "nothing":
        monkeypatch.setattr("sddpm.engine.network.bfloat16_runs", lambda: False)
    return request.param


@pytest.mark.parametrize("threads", [1, 2])
def test_exact_gives_the_published_network_s_output(machine: str, threads: int) -> None:
    golden = torch.load(GOLDEN, weights_only=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        eps = optimize(load_published(GOLDEN))(golden["x"], golden["t"])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(eps, golden["y"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("time_steps", [1, 2, 4, 16])
@pytest.mark.parametrize("activation", ["if", "lif", "plif"])
def test_exact_equals_the_network(activation: str, time_steps: int) -> None:
    net = network(activation, time_steps)
    x, t = inputs(2, net)
    assert difference(optimize(net)(x, t), evaluate(net, x, t)) < 1e-5


@pytest.mark.parametrize("activation", ["relu", "quant_relu"])
def test_networks_without_spikes(activation: str) -> None:
    net = network(activation, 1)
    x, t = inputs(3, net)
    expected = evaluate(net, x, t)
    assert difference(optimize(net)(x, t), expected) < 1e-5
    fast = optimize(net, "fast")(x, t)
    assert fast.isfinite().all()
    if activation == "relu":
        assert difference(fast, expected) < 0.1


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("shape", [{"multipliers": (1,)}, {"blocks": 2, "image_channels": 1}])
def test_any_shape_and_batch_size(machine: str, shape: dict[str, object], batch: int) -> None:
    net = network(**shape)
    eps = optimize(net)
    for size in (8, 16):
        x, t = inputs(batch, net, size)
        assert difference(eps(x, t), evaluate(net, x, t)) < 1e-5


def test_images_of_a_batch_do_not_see_each_other() -> None:
    net = network()
    eps = optimize(net)
    x, t = inputs(3, net)
    whole = eps(x, t)
    for image in range(3):
        alone = eps(x[image : image + 1], t[image : image + 1])
        assert difference(whole[image : image + 1], alone) < 1e-5


def test_fast_stays_close_and_reports_what_runs(machine: str) -> None:
    net = network()
    x, t = inputs(4, net)
    eps = optimize(net, "fast")
    assert isinstance(eps, OptimizedUNet)
    int8 = int8_runs() and machine in ("native", "no compiler")
    compiled = lookup.library() is not None and machine in ("native", "no int8")
    expected = "int8 x 1" if int8 else "looked-up 16-bit sums" if compiled else "plain"
    assert eps.describe().startswith(expected)
    # Random weights amplify a flipped spike far more than trained ones do.
    assert difference(eps(x, t), evaluate(net, x, t)) < 0.7
    assert eps(x, t).dtype == torch.float32


@pytest.mark.parametrize("activation", ["if", "relu"])
def test_fast_is_exact_where_rounding_saves_nothing(
    activation: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(convolutions, "int8_runs", lambda: False)
    monkeypatch.setattr(lookup, "library", lambda: None)
    monkeypatch.setattr("sddpm.engine.network.bfloat16_runs", lambda: False)
    _say_once.cache_clear()
    net = network(activation, 4 if activation == "if" else 1)
    x, t = inputs(2, net)
    fast, exact = optimize(net, "fast"), optimize(net)
    assert isinstance(fast, OptimizedUNet)
    assert isinstance(exact, OptimizedUNet)
    assert "this is exact" in fast.describe()
    assert "this is exact" not in exact.describe()
    assert "exact mode" in caplog.text
    torch.testing.assert_close(fast(x, t), exact(x, t), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("parts", [0, 1, 2, 3])
def test_weights_that_fit_their_parts_are_exact(parts: int) -> None:
    net = network()
    x, t = inputs(2, net)
    eps = optimize(net, Precision(torch.float32, parts))
    # Up-sampling sums weights, which one part then rounds.
    assert difference(eps(x, t), evaluate(net, x, t)) < (0.7 if parts == 1 else 1e-5)
    flat = network(multipliers=(1,))
    x, t = inputs(2, flat)
    eps = optimize(flat, Precision(torch.float32, parts))
    # Looked-up sums round to units of their own.
    rounds = parts == 1 and lookup.library() is not None and not int8_runs()
    assert difference(eps(x, t), evaluate(flat, x, t)) < (0.7 if rounds else 1e-5)


def test_firing_rates_are_those_of_the_network() -> None:
    net = network(multipliers=(1,))
    x, t = inputs(2, net)
    eps = optimize(net)
    assert isinstance(eps, OptimizedUNet)
    expected: list[float] = []
    for layer in net.modules():
        if isinstance(layer, IF):
            layer.register_forward_hook(lambda _, __, out: expected.append(out.mean().item()))
    evaluate(net, x, t)
    rates = eps.firing_rates(x, t)
    # Up to the first concatenation the engine's layers are the network's.
    assert rates[:7] == pytest.approx(expected[:7], abs=1e-6)


def test_a_snapshot_of_weights_and_thresholds() -> None:
    net = network()
    x, t = inputs(2, net)
    eps = optimize(net)
    before = eps(x, t)
    for layer in net.modules():
        if isinstance(layer, IF):
            layer.theta.fill_(0.9)
    assert torch.equal(eps(x, t), before)
    moved = optimize(net)(x, t)
    assert difference(moved, before) > 0.05
    assert difference(moved, evaluate(net, x, t)) < 1e-5


def test_a_neuron_unknown_to_the_kernels_runs_as_itself() -> None:
    class Doubled(IF):
        def charge(self, v: Tensor, x: Tensor) -> Tensor:
            return v + 2 * x

    net = network()
    for layer in net.modules():
        for name, child in layer.named_children():
            if isinstance(child, IF):
                setattr(layer, name, Doubled(4))
    x, t = inputs(2, net)
    assert difference(optimize(net)(x, t), evaluate(net, x, t)) < 1e-5


def test_other_modules_are_called_as_they_are() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return x * t[:, None]

    net = Net()
    assert optimize(net, "fast")(torch.ones(2, 3), torch.tensor([2, 3])).tolist()[1] == [3, 3, 3]
    assert net.training


def scaled_by_step(time_steps: int, **shape: object) -> UNet:
    """A network with TSM whose factors are far from 1."""
    net = network("if", time_steps, temporal_scaling=True, **shape)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(".p"):
                parameter.copy_(torch.randint(2, 7, parameter.shape) / 4)
    return net


@pytest.mark.parametrize("time_steps", [1, 2, 8])
@pytest.mark.parametrize("shape", [{}, {"channels": 64, "multipliers": (1, 2)}])
def test_convolutions_scaled_by_step(
    machine: str, time_steps: int, shape: dict[str, object]
) -> None:
    net = scaled_by_step(time_steps, **shape)
    x, t = inputs(3, net)
    eps = optimize(net)
    assert isinstance(eps, OptimizedUNet)
    assert difference(eps(x, t), evaluate(net, x, t)) < 1e-5


def test_scaling_by_step_costs_fast_mode_no_accuracy() -> None:
    net = scaled_by_step(4)
    plain = network("if", 4)
    x, t = inputs(8, net)
    error = difference(optimize(net, "fast")(x, t), evaluate(net, x, t))
    assert error < 1.5 * difference(optimize(plain, "fast")(x, t), evaluate(plain, x, t)) + 0.05


def test_watched_networks_run_as_they_stand() -> None:
    watched = network()
    calls: list[int] = []
    watched.stem.register_forward_hook(lambda *_: calls.append(1))
    x, t = inputs(2, watched)
    assert torch.equal(optimize(watched)(x, t), evaluate(watched, x, t))
    assert calls == [1, 1]


def test_gradients_are_not_recorded_and_the_network_is_left_alone() -> None:
    net = network().train()
    state = copy.deepcopy(net.state_dict())
    assert not optimize(net)(*inputs(2, net)).requires_grad
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'turbo'.*exact, fast"):
        optimize(network(), "turbo")  # type: ignore[arg-type]


def test_prepared_training_gives_the_same_gradients() -> None:
    net = network().train()
    x, t = inputs(4, net)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-5
    prepared = prepare_for_training(copy.deepcopy(net))
    for module in (net, prepared):
        module(x, t).square().mean().backward()
    mine, plain = (
        torch.cat([p.grad.flatten() for p in module.parameters()]) for module in (prepared, net)
    )
    assert difference(mine, plain) < 5e-2  # of single spikes that flip


# The convolutions by themselves.


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.skipif(not int8_runs(), reason="no int8 instructions")
def test_int8_convolutions_err_by_the_rounding_of_the_weights_alone(stride: int) -> None:
    torch.manual_seed(0)
    spikes = torch.randint(0, 2, (3, 24, 9, 8), dtype=torch.uint8)
    spikes = spikes.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(40, 24, 3, 3), torch.randn(40)
    expected = conv2d(spikes.double(), weight.double(), bias.double(), stride, 1)
    for parts, bound in [(1, 1e-2), (2, 5e-5), (3, 3e-7)]:
        conv = SpikeConvolution(weight, bias, stride=stride, parts=parts, dtype=torch.float32)
        assert difference(conv(spikes), expected) < bound


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_int8_parts_add_up_to_the_weight(parts: int) -> None:
    weight = torch.randn(5, 4, 3, 3)
    weight[2] = 0
    pieces = int8_parts(weight, parts)
    total = sum(v.double() * s.double()[:, None, None, None] for v, s in pieces)
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    assert ((total - weight).abs() <= 0.51 * largest / 127 / 254 ** (parts - 1)).all()


@pytest.mark.parametrize("shape", [(4, 6), (1, 1), (5, 2)], ids=str)
def test_doubling_convolutions_equal_interpolation_and_convolution(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    spikes = torch.randint(0, 2, (2, 8, *shape)).float()
    spikes = spikes.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(16, 8, 3, 3), torch.randn(16)
    expected = conv2d(interpolate(spikes, scale_factor=2.0), weight, bias, 1, 1)
    plain = FloatConvolution(weight, bias, doubling=True)
    torch.testing.assert_close(plain(spikes), expected, atol=1e-5, rtol=1e-5)
    if int8_runs():
        conv = DoublingSpikeConvolution(weight, bias, parts=2, dtype=torch.float32)
        assert difference(conv(spikes.byte()), expected) < 1e-4


def test_folding_refuses_other_normalisations() -> None:
    with pytest.raises(ValueError, match="GroupNorm"):
        fold(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))


def test_a_machine_without_the_instructions_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert not convolutions.int8_runs.__wrapped__()
