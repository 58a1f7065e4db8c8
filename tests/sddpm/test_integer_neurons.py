"""The integer neuron's compiled kernel against its definition, and SDDPM+ in the engine."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from sddpm.engine import convolutions
from sddpm.engine.network import OptimizedUNet, optimize
from sddpm.fused_norm import normalise_and_fire
from sddpm.kernels import neurons as kernels
from sddpm.kernels.processor import allows
from sddpm.neurons import IF
from sddpm.soft_neurons import IntegerIF
from sddpm.unet import UNet
from tests.support.networks import inputs, network

LN2 = math.log(2)
SHAPES = [(1, 3), (2, 5, 3, 7), (3, 64, 4, 4), (1, 33, 29, 31)]


def gradients(run: object, x: Tensor, upstream: Tensor, theta: nn.Parameter) -> list[Tensor]:
    """Counts, and the gradients of the currents and of the threshold."""
    y = x.clone().requires_grad_()
    theta.grad = None
    counts = run(y)  # type: ignore[operator]
    (counts.float() * upstream).sum().backward()
    assert y.grad is not None
    assert theta.grad is not None
    return [counts.detach(), y.grad.float(), theta.grad]


@pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("levels", [1, 4, 255])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_equals_the_definition(
    shape: tuple[int, ...], levels: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(levels)
    # A threshold of a power of two, so that bfloat16's own division is exact as well.
    x = ((torch.randn(shape, generator=generator) + 0.5) * levels / 2).to(dtype)
    upstream = torch.randn(shape, generator=generator)
    neuron = IntegerIF(threshold=0.5, levels=levels)
    theta = nn.Parameter(neuron.theta.clone())
    del neuron.theta
    neuron.theta = theta
    assert neuron._fused(x) is not None
    found = gradients(neuron, x, upstream, theta)
    expected = gradients(neuron.integrate, x, upstream, theta)
    if dtype == torch.float32 or levels < 255:  # 255 and a half is no bfloat16
        assert torch.equal(found[0], expected[0])
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * levels)


def test_halves_round_upwards_and_what_is_no_number_sends_nothing() -> None:
    x = torch.tensor([-0.5, 0.49, 0.5, 1.49, 1.5, 2.5, 99.0, float("inf"), float("nan")])
    assert IntegerIF(levels=3)(x).tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 0]


@pytest.mark.parametrize("per_image", [True, False])
def test_normalised_counts_equal_the_modules(per_image: bool) -> None:
    torch.manual_seed(0)
    y = (2 + 3 * torch.randn(6, 20, 5, 4)).contiguous(memory_format=torch.channels_last)
    embedding = torch.randn(6, 20) if per_image else None
    upstream = torch.randn(y.shape)
    norm = nn.BatchNorm2d(20)
    nn.init.normal_(norm.weight, 2, 0.5)
    nn.init.normal_(norm.bias, 1, 0.5)
    results = []
    for watched in (False, True):
        module, activation = copy.deepcopy(norm), IntegerIF(threshold=0.7)
        if watched:  # a watched module is really called
            module.register_forward_hook(lambda *_: None)
        given = [x.clone().requires_grad_() if x is not None else None for x in (y, embedding)]
        counts = normalise_and_fire(given[0], module, activation, given[1])
        (counts * upstream).sum().backward()
        grads = [x.grad for x in (*given, module.weight, module.bias) if x is not None]
        results.append([counts.detach(), *grads])
    (counts, *found), (plain, *expected) = results
    # A current may fall on either side of a half by a rounding error.
    assert (counts != plain).float().mean() < 1e-3
    assert counts.max() > 1
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 1e-2 * theirs.norm()


PLUS = [
    {"activation": "integer_if", "stem_shortcut": True},
    {"activation": "integer_if", "stem_shortcut": True, "stem_gain": True},
    {"activation": "if", "time_steps": 2, "stem_shortcut": True, "stem_gain": True},
    {"activation": "integer_if", "channels": 64, "multipliers": (1,), "image_channels": 1},
    {"activation": "if", "time_steps": 3, "stem_shortcut": True, "mean_shortcuts": True},
    {"activation": "soft_if", "time_steps": 2, "stem_shortcut": True, "mean_shortcuts": True},
    {"activation": "parallel_if", "time_steps": 2, "stem_shortcut": True},
    {"activation": "ternary_if", "time_steps": 2, "mean_shortcuts": True},
    {"activation": "threshold_steps_if", "time_steps": 2},
    {"activation": "if", "time_steps": 2, "temporal_scaling": True, "mean_shortcuts": True,
     "stem_shortcut": True},
]  # fmt: skip


def made(options: dict[str, object]) -> UNet:
    options = dict(options)
    activation = str(options.pop("activation"))
    steps = int(options.pop("time_steps", 1))  # type: ignore[call-overload]
    net = network(activation, steps, **options)
    if net.stem.gain is not None:  # powers of two, by which nothing rounds
        with torch.no_grad():
            net.stem.gain.weight.zero_()
            net.stem.gain.bias.copy_(torch.randint(-2, 3, net.stem.gain.bias.shape) * LN2)
    return net


@pytest.mark.parametrize("int8", [True, False], ids=["any", "no int8"])
@pytest.mark.parametrize("options", PLUS, ids=lambda options: "-".join(map(str, options.values())))
def test_the_engine_equals_the_network(
    options: dict[str, object], int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not int8:
        monkeypatch.setattr(convolutions, "int8_runs", lambda: False)
    net = made(options)
    x, t = inputs(3, net)
    eps = optimize(net)
    assert isinstance(eps, OptimizedUNet)
    with torch.no_grad():
        expected = net(x, t)
    # A current within a rounding of a half may be counted either way.
    assert (eps(x, t) - expected).norm() < 1e-3 * expected.norm()


def test_counts_are_in_bytes_where_int8_products_are() -> None:
    eps = optimize(made(PLUS[0]))
    assert isinstance(eps, OptimizedUNet)
    has = convolutions.int8_runs() and allows("avx512_vnni")
    assert eps.stem_act.in_bytes == ("counts" if has else None)
    binary = optimize(network("if", 2))
    assert isinstance(binary, OptimizedUNet)
    assert isinstance(binary.stem_act.module, IF)


def test_firing_rates_of_counts_are_means_of_events() -> None:
    net = made(PLUS[0])
    x, t = inputs(2, net)
    seen: list[float] = []
    for layer in net.modules():
        if isinstance(layer, IntegerIF):
            layer.register_forward_hook(lambda _, __, out: seen.append(float(out.mean())))
    with torch.no_grad():
        net(x, t)
    eps = optimize(made(PLUS[0]))
    assert isinstance(eps, OptimizedUNet)
    rates = eps.firing_rates(x, t)
    assert rates[0] == pytest.approx(seen[0], rel=1e-3)
    assert rates[-1] == pytest.approx(seen[-1], rel=1e-2)


def test_the_stems_gain_follows_the_diffusion_step() -> None:
    """``exp(w . embedding + b)`` by hand, and 1 before any training."""
    net = network("integer_if", 1, stem_shortcut=True, stem_gain=True)
    stem = net.stem
    assert stem.gain is not None
    x, _ = inputs(2, net)
    embedding = torch.randn(2, stem.gain.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = stem.shortcut(x)
        assert torch.equal(stem.detail(x, embedding), before)
        stem.gain.weight[3, 5], stem.gain.bias[3] = 0.5, -1.0
        after = stem.detail(x, embedding)
    factor = (0.5 * embedding[:, 5] - 1).exp()
    torch.testing.assert_close(after[:, 3], before[:, 3] * factor[:, None, None])
    assert torch.equal(after[:, 4], before[:, 4])


def test_a_gain_without_the_shortcut_is_refused() -> None:
    with pytest.raises(ValueError, match="stem_gain=True: expected stem_shortcut=True"):
        network("integer_if", 1, stem_gain=True)
