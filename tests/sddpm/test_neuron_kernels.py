"""The compiled neurons and fused normalisations against SpikingJelly and the plain modules."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from conversion.channels import ChannelRateIF, SignedChannelRateIF
from sddpm.fused_norm import normalise, normalise_and_fire
from sddpm.kernels import neurons as kernels
from sddpm.neurons import (
    IF,
    LIF,
    ParametricLIF,
    RateIF,
    SignedRateIF,
    SpikingNeuron,
    add_per_image,
)

NEURONS = {"if": IF, "lif": LIF, "plif": ParametricLIF}
SHAPES = [(1, 3), (2, 5, 3, 7), (3, 64, 4, 4), (1, 1, 1, 1), (2, 700, 2, 1), (1, 33, 29, 31)]


@pytest.fixture(params=["compiled", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways of running a neuron: the kernels, and the loop where no compiler exists."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "library", lambda: None)
    elif kernels.library() is None:
        pytest.skip("no C++ compiler")
    return request.param


def oracle(kind: str, threshold: float) -> nn.Module:
    options = {
        "v_threshold": threshold,
        "surrogate_function": surrogate.ATan(),
        "detach_reset": False,
        "step_mode": "m",
    }
    if kind == "if":
        return neuron.IFNode(**options)
    if kind == "lif":
        return neuron.LIFNode(tau=2.0, **options)
    return neuron.ParametricLIFNode(init_tau=2.0, **options)


def run(module: nn.Module, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    spikes = module(x)
    (spikes * weights).sum().backward()
    assert x.grad is not None
    return spikes.detach(), x.grad


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("time_steps", [1, 4, 16])
@pytest.mark.parametrize("kind", NEURONS)
def test_equals_spikingjelly(
    kind: str, time_steps: int, shape: tuple[int, ...], backend: str
) -> None:
    generator = torch.Generator().manual_seed(time_steps)
    x = torch.randn(time_steps, *shape, generator=generator)
    weights = torch.randn(time_steps, *shape, generator=generator)
    expected_module, ours = oracle(kind, 0.8), NEURONS[kind](time_steps, 0.8)
    expected, expected_grad = run(expected_module, x, weights)
    spikes, grad = run(ours, x.flatten(0, 1), weights.flatten(0, 1))
    assert torch.equal(spikes.view_as(x), expected)
    torch.testing.assert_close(grad.view_as(x), expected_grad, atol=1e-5, rtol=1e-5)
    if kind == "plif":
        torch.testing.assert_close(ours.w.grad, expected_module.w.grad, atol=1e-4, rtol=1e-4)
    functional.reset_net(expected_module)


@pytest.mark.parametrize("kind", NEURONS)
def test_kernel_equals_the_definition_in_bfloat16_and_channels_last(kind: str) -> None:
    module = NEURONS[kind](4, 0.5)
    x = torch.randn(12, 20, 6, 5).bfloat16().contiguous(memory_format=torch.channels_last)
    weights = torch.randn(12, 20, 6, 5).bfloat16()
    spikes, grad = run(module, x, weights)
    y = x.clone().requires_grad_()
    expected = module.integrate(y)
    (expected * weights).sum().backward()
    assert spikes.dtype == torch.bfloat16
    assert spikes.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(spikes, expected.detach())
    torch.testing.assert_close(grad, y.grad, atol=1e-2, rtol=1e-2)


def test_neurons_on_strided_input_and_learned_threshold() -> None:
    module = IF(2, 0.7)
    theta = nn.Parameter(module.theta.clone())
    del module.theta
    module.theta = theta
    x = torch.randn(6, 8, 9).transpose(1, 2)[:, ::2]
    weights = torch.randn(6, 5, 8)
    grads = []
    for forward in (module, module.integrate):
        theta.grad = None
        y = x.clone().requires_grad_()
        (forward(y) * weights).sum().backward()
        grads.append((y.grad, theta.grad))
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


def test_a_neuron_of_another_charge_runs_its_own() -> None:
    class Doubling(IF):
        def charge(self, v: Tensor, x: Tensor) -> Tensor:
            return v + 2 * x

    assert Doubling(1)(torch.tensor([0.6])).item() == 1


def test_inputs_that_are_not_numbers_do_not_fire() -> None:
    spikes = IF(2)(torch.tensor([[float("nan")], [5.0]]))
    assert spikes.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (3, 64, 6, 6), (1, 600, 2, 2)], ids=str)
def test_normalise_and_fire_equals_the_modules(
    shape: tuple[int, ...], per_image: bool, dtype: torch.dtype
) -> None:
    if dtype == torch.bfloat16 and kernels.library() is None:
        pytest.skip("no native kernels: the modules themselves round to bfloat16")
    images, channels = shape[:2]
    torch.manual_seed(0)
    y = 2 + 3 * torch.randn(4 * images, *shape[1:])
    y = y.to(dtype).contiguous(memory_format=torch.channels_last)
    embedding = torch.randn(images, channels) if per_image else None
    weights = torch.randn(y.shape).to(dtype)
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight, 1, 0.3)
    nn.init.normal_(norm.bias, 0, 0.3)
    activation = ParametricLIF(4, 0.6)

    def plain(y: Tensor, norm: nn.Module, activation: nn.Module, e: Tensor | None) -> Tensor:
        h = norm(y.float())
        return activation(h if e is None else add_per_image(h, e)).to(dtype)

    results = []
    for function in (normalise_and_fire, plain):
        inputs = [x.clone().requires_grad_() if x is not None else None for x in (y, embedding)]
        modules = copy.deepcopy(norm), copy.deepcopy(activation)
        spikes = function(inputs[0], *modules, inputs[1])
        (spikes * weights).sum().backward()
        results.append((spikes, inputs, *modules))
    (spikes, inputs, ours, ours_act), (expected, plain_inputs, theirs, theirs_act) = results
    # A membrane may fall on either side of the threshold by a rounding error.
    assert (spikes != expected).float().mean() < 2e-4
    loose = 2e-2 if dtype == torch.bfloat16 else 2e-3
    for mine, reference in zip(inputs, plain_inputs, strict=True):
        if mine is not None:
            assert _error(mine.grad, reference.grad) < loose
    assert _error(ours.weight.grad, theirs.weight.grad) < loose
    assert _error(ours.bias.grad, theirs.bias.grad) < loose
    assert _error(ours_act.w.grad, theirs_act.w.grad) < loose
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
def test_normalise_equals_the_modules(residual: bool) -> None:
    torch.manual_seed(0)
    y = (5 + torch.randn(6, 40, 5, 3)).contiguous(memory_format=torch.channels_last)
    extra = torch.randn(6, 40, 5, 3) if residual else None
    weights = torch.randn(y.shape)
    norm = nn.BatchNorm2d(40, momentum=None)
    results = []
    for fused in (True, False):
        inputs = [x.clone().requires_grad_() if x is not None else None for x in (y, extra)]
        module = copy.deepcopy(norm)
        if not fused:
            module.register_forward_hook(lambda *_: None)  # a watched module is really called
        for _ in range(2):
            out = normalise(inputs[0], module, inputs[1])
        (out * weights).sum().backward()
        grads = [x.grad for x in (*inputs, module.weight, module.bias) if x is not None]
        results.append([out.detach(), *grads, *module.buffers()])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


def test_evaluation_uses_the_running_statistics() -> None:
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean.fill_(1.0)
    y = torch.ones(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    assert normalise_and_fire(y, norm, IF(1)).sum() == 0
    assert norm.num_batches_tracked == 0


def _error(value: Tensor, expected: Tensor) -> float:
    """Relative error in the 2-norm."""
    return float((value.float() - expected.float()).norm() / expected.float().norm())


def test_every_neuron_is_known_to_the_kernels() -> None:
    for kind in NEURONS.values():
        module: SpikingNeuron = kind(2)
        assert module.dynamics() is not None


@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (3, 64, 4, 4), (1, 33, 29, 31)], ids=str)
@pytest.mark.parametrize("time_steps", [1, 3, 16])
@pytest.mark.parametrize("kind", [RateIF, SignedRateIF, ChannelRateIF, SignedChannelRateIF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_rate_neurons_equal_the_loop(
    kind: type, time_steps: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    if kernels.library() is None:
        pytest.skip("no C++ compiler")
    generator = torch.Generator().manual_seed(time_steps)
    images, channels, *size = shape
    x = torch.randn(time_steps * images, channels, *size, generator=generator).to(dtype)
    module = kind(time_steps, threshold=0.75)
    if issubclass(kind, ChannelRateIF):
        module.balance = torch.rand(channels, 1, 1, generator=generator) + 0.5
    for y in (x, x.to(memory_format=torch.channels_last)):
        expected = module.integrate(y)
        with torch.no_grad():
            spikes = module(y)
        assert spikes.dtype == dtype
        assert torch.equal(spikes, expected)
        assert expected.count_nonzero()
    if module.signed and time_steps > 1:
        assert (expected < 0).any()


def test_rate_neurons_keep_their_gradient() -> None:
    x = torch.randn(8, 3, 4, 4, requires_grad=True)
    RateIF(4)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.count_nonzero()
