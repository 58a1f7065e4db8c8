"""The meter against counts made by hand, against an oracle, and against known wrong counters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.energy.meter import Meter
from bench.energy.products import RULES, looks_like_product
from sddpm.diffusion import DiffusionConfig
from sddpm.layers import declare, solver_arithmetic
from sddpm.protocol import ImageShape
from sddpm.samplers import SAMPLERS, Sampling, sample
from sddpm.unet import UNet, UNetConfig
from tests.support.metering import GRADIENT_MODES, LAYERS, Call, count


def spike_at(shape: tuple[int, ...], *positions: tuple[int, ...]) -> Tensor:
    x = torch.zeros(shape)
    for position in positions:
        x[position] = 1
    return x


# Dense counts of layers whose input and output widths differ.


def test_dense_linear_is_inputs_times_outputs() -> None:
    counts = count(declare(nn.Linear(3, 5), reads="real"), torch.randn(2, 3))
    assert counts.macs == 2 * 3 * 5  # input width squared, as others count, would give 18
    assert counts.acs == 0
    assert not counts.spiking


def test_dense_linear_with_three_dimensions_and_no_bias() -> None:
    counts = count(declare(nn.Linear(3, 5, bias=False), reads="real"), torch.randn(2, 7, 3))
    assert counts.macs == 2 * 7 * 3 * 5


def test_dense_convolution_with_stride_and_groups() -> None:
    layer = declare(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), reads="real")
    counts = count(layer, torch.randn(2, 4, 8, 8))
    assert counts.macs == 2 * (6 * 4 * 4) * (4 // 2) * 9
    assert counts.macs_first_conv == counts.macs


def test_dense_transposed_convolution() -> None:
    layer = declare(nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), reads="real")
    assert count(layer, torch.randn(1, 2, 3, 3)).macs == (2 * 3 * 3) * 3 * 9


# Accumulates of single spikes.


@pytest.mark.parametrize(
    ("position", "taps"), [((0, 0), 4), ((0, 1), 6), ((3, 2), 6), ((1, 2), 9), ((3, 3), 4)]
)
def test_spike_at_corner_edge_centre(position: tuple[int, int], taps: int) -> None:
    layer = declare(nn.Conv2d(2, 3, 3, padding=1), reads="spikes")
    counts = count(layer, spike_at((1, 2, 4, 4), (0, 1, *position)))
    assert counts.acs == taps * 3
    assert counts.dense_macs_spikes == (3 * 16) * 2 * 9
    assert counts.macs == 0


@pytest.mark.parametrize(("position", "taps"), [((0, 0), 1), ((1, 1), 4), ((1, 2), 2), ((3, 3), 1)])
def test_spike_under_stride_two(position: tuple[int, int], taps: int) -> None:
    layer = declare(nn.Conv2d(2, 5, 3, stride=2, padding=1), reads="spikes")
    assert count(layer, spike_at((1, 2, 4, 4), (0, 0, *position))).acs == taps * 5


def test_spike_in_a_group_reaches_its_own_outputs_only() -> None:
    layer = declare(nn.Conv2d(4, 6, 3, padding=1, groups=2), reads="spikes")
    assert count(layer, spike_at((1, 4, 3, 3), (0, 3, 1, 1))).acs == 9 * 3


@pytest.mark.parametrize(("position", "taps"), [((0, 0), 4), ((1, 1), 9), ((2, 1), 6)])
def test_spike_into_a_transposed_convolution(position: tuple[int, int], taps: int) -> None:
    layer = declare(nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), reads="spikes")
    assert count(layer, spike_at((1, 2, 3, 3), (0, 0, *position))).acs == taps * 3


def test_spikes_into_linear() -> None:
    layer = declare(nn.Linear(3, 5), reads="spikes")
    counts = count(layer, torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    assert counts.acs == 3 * 5
    assert counts.sops == 3 * 5
    assert counts.dense_macs_spikes == 2 * 3 * 5


def test_silent_and_empty_inputs_cost_nothing() -> None:
    layer = declare(nn.Conv2d(2, 3, 3), reads="spikes")
    assert count(layer, torch.zeros(1, 2, 4, 4)).acs == 0
    assert count(layer, torch.zeros(0, 2, 4, 4)).acs == 0


@pytest.mark.parametrize("build", LAYERS)
@pytest.mark.parametrize("mode", GRADIENT_MODES)
def test_accumulates_equal_a_ones_kernel_over_the_mask(
    build: Callable[[], nn.Module], mode: Callable[[], AbstractContextManager[None]]
) -> None:
    """Summing the output of the same layer with all weights 1 counts every pair once."""
    layer = declare(build(), reads="spikes")
    generator = torch.Generator().manual_seed(0)
    axes = {1: 3, 3: 3, 4: 4, 5: 5}[layer.weight.dim()]
    x = (torch.rand(3, 4, *[9, 7, 5][: axes - 2], generator=generator) < 0.3).double()
    ones = build().double()
    nn.init.ones_(ones.weight)
    nn.init.zeros_(ones.bias)
    with mode(), Meter(layer) as meter:
        out = layer(x.float())
    counts = meter.counts(images=1)
    assert counts.acs == ones(x).sum().item()
    positions = x[0, 0].numel() if "Transpose" in type(layer).__name__ else out[0, 0].numel()
    assert counts.dense_macs_spikes == 3 * positions * layer.weight.numel()


# Spikes are declared and verified, never guessed.


def test_real_layer_fed_binary_values_stays_mac() -> None:
    layer = declare(nn.Linear(3, 5), reads="real")
    counts = count(layer, torch.ones(2, 3))
    assert (counts.macs, counts.acs) == (30, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_and_signed_spikes_are_spikes(dtype: torch.dtype) -> None:
    layer = declare(nn.Conv2d(2, 3, 1), reads="spikes").to(dtype)
    x = torch.tensor([[0.7, -0.7, 0.0], [0.0, 1.3, 1.3]]).view(1, 2, 1, 3).to(dtype)
    assert count(layer, x).acs == 4 * 3


def test_linear_takes_one_constant_per_feature() -> None:
    layer = declare(nn.Linear(2, 5), reads="spikes")
    assert count(layer, torch.tensor([[0.5, 3.0], [0.5, 0.0]])).acs == 3 * 5


@pytest.mark.parametrize("mode", GRADIENT_MODES)
def test_two_sizes_in_one_channel_are_not_spikes(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    net = nn.Sequential(nn.Identity(), declare(nn.Conv2d(2, 3, 1), reads="spikes"))
    x = torch.tensor([[0.0, 1.0, 1.0], [0.5, 1.0, 0.0]]).view(1, 2, 1, 3)
    with mode(), Meter(net) as meter, pytest.raises(ValueError, match=r"in 1, .*channel 1.*0\.5"):
        net(x)
    with pytest.raises(ValueError, match="run failed"):  # swallowing the error yields no counts
        meter.counts(images=1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.99999994, 1e-38, -0.5])
def test_values_that_are_nearly_or_never_spikes(bad: float) -> None:
    layer = declare(nn.Linear(3, 5), reads="spikes")
    x = torch.ones(4, 3)
    x[2, 1] = bad
    with pytest.raises(ValueError, match="channel 1"):
        count(layer, x)


def test_channel_of_infinities_is_not_spikes() -> None:
    with pytest.raises(ValueError, match="channel 0"):
        count(declare(nn.Linear(1, 5), reads="spikes"), torch.full((2, 1), float("inf")))


# No product escapes, none goes undeclared.


@pytest.mark.parametrize("mode", GRADIENT_MODES)
@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: functional.linear(x, torch.ones(5, 4)), 2 * 3 * 4 * 5),
        (lambda x: x @ torch.ones(4, 5), 2 * 3 * 4 * 5),
        (lambda x: x @ torch.ones(4), 2 * 3 * 4),
        (lambda x: torch.einsum("bik,bjk->bij", x, torch.ones(2, 6, 4)), 2 * 3 * 6 * 4),
        (lambda x: torch.baddbmm(torch.ones(1), x, torch.ones(2, 4, 5)), 2 * 3 * 4 * 5),
        (lambda x: x[0].addmm(x[0], torch.ones(4, 4)), 3 * 4 * 4),
        (lambda x: x.new_zeros(2, 3, 5).baddbmm_(x, torch.ones(2, 4, 5)), 2 * 3 * 4 * 5),
        (lambda x: functional.conv1d(x, torch.ones(5, 3, 2)), 2 * (5 * 3) * 3 * 2),
        (lambda x: torch.dot(x[0, 0], x[0, 1]), 4),
        (lambda x: torch.tensordot(x, torch.ones(4, 5), 1), 2 * 3 * 4 * 5),
        (lambda x: functional.interpolate(x, scale_factor=2, mode="linear").softmax(-1), 0),
    ],
)
def test_functional_products_count(
    function: Callable[[Tensor], Tensor],
    macs: int,
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    net = Call(function, reads="real")
    with mode(), Meter(net) as meter:
        net(torch.randn(2, 3, 4))
    assert meter.counts(images=1).macs == macs


@pytest.mark.parametrize("mode", GRADIENT_MODES)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_counts_both_products(
    mode: Callable[[], AbstractContextManager[None]], dropout: float
) -> None:
    attend = functional.scaled_dot_product_attention
    net = Call(lambda q, k, v: attend(q, k, v, dropout_p=dropout), reads="real")
    inputs = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    with mode(), Meter(net) as meter:
        net(*inputs)
    assert meter.counts(images=1).macs == 2 * 3 * (5 * 7 * 8 + 5 * 7 * 8)


def test_attention_on_declared_spikes_has_no_rule() -> None:
    net = Call(functional.scaled_dot_product_attention, reads="spikes")
    with pytest.raises(ValueError, match="reads='real'"):
        count(net, *[torch.ones(1, 1, 2, 4)] * 3)


@pytest.mark.parametrize("mode", GRADIENT_MODES)
def test_undeclared_product_is_named(mode: Callable[[], AbstractContextManager[None]]) -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 5)))
    with mode(), Meter(net), pytest.raises(ValueError, match=r"addmm.* in 0\.0: .*declare"):
        net(torch.randn(2, 3))


def test_nearest_declaration_decides() -> None:
    inner = declare(nn.Linear(3, 3), reads="spikes")
    net = declare(nn.Sequential(inner, nn.Linear(3, 5)), reads="real")
    counts = count(net, torch.ones(1, 3))
    assert (counts.acs, counts.macs) == (9, 15)


def test_product_outside_the_metered_module() -> None:
    layer = declare(nn.Linear(3, 5), reads="real")
    with Meter(layer), pytest.raises(ValueError, match="outside the metered module"):
        torch.ones(2, 2) @ torch.ones(2, 2)


def test_a_solver_is_free_and_what_it_calls_is_not() -> None:
    layer = declare(nn.Linear(3, 5), reads="real")
    with Meter(layer) as meter:
        layer(torch.ones(2, 3))
        with solver_arithmetic():
            torch.linalg.solve(torch.eye(2), torch.ones(2)) @ torch.ones(2)
            layer(torch.ones(2, 3))
    assert (meter.counts(images=2).macs, meter.evaluations) == (2 * 15, 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_costs_its_evaluations_and_nothing_else(sampler: str) -> None:
    net = UNet(
        UNetConfig(
            1,
            channels=4,
            multipliers=(1,),
            blocks=1,
            activation="relu",
            time_steps=1,
            diffusion_steps=1000,
        )
    )
    net.eval()

    def macs(steps: int) -> float:
        with Meter(net) as meter:
            sample(net, ImageShape(1, 8), [0, 1], DiffusionConfig(1000), Sampling(sampler, steps),
                   gamma=torch.linspace(0.5, 1, 1001))  # fmt: skip
        counts = meter.counts(images=2)
        assert counts.evaluations == steps
        return counts.macs

    with Meter(net) as once, torch.no_grad():
        net(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))
    assert macs(7) == 7 * once.counts(images=2).macs


@pytest.mark.parametrize("mode", GRADIENT_MODES)
def test_product_without_a_rule(mode: Callable[[], AbstractContextManager[None]]) -> None:
    net = declare(nn.Bilinear(2, 3, 4), reads="real")
    with mode(), Meter(net), pytest.raises(ValueError, match="no rule"):
        net(torch.ones(1, 2), torch.ones(1, 3))


def test_names_of_products_are_told_from_other_names() -> None:
    products = "_trilinear convolution_backward mkldnn_rnn_layer fbgemm_linear_int8_weight addr "
    products += "_sparse_addmm cudnn_convolution _flash_attention_forward linalg_matmul _int_mm"
    others = "upsample_bilinear2d lgamma cummax hamming_window _convert_indices_from_coo_to_csr "
    others += "linalg_vector_norm native_group_norm avg_pool2d resolve_conj igamma add"
    assert all(looks_like_product("aten", name) for name in products.split())
    assert not any(looks_like_product("aten", name) for name in others.split())
    assert looks_like_product("sj_if_linear", "forward")
    for name in RULES:
        assert any(hasattr(torch.ops.aten, n) for n in (name, f"{name}_")), f"{name} is no operator"


def test_foreign_operator_is_free_in_a_neuron_only() -> None:
    with torch.library._scoped_library("meter_test", "DEF") as library:
        library.define("fire(Tensor x) -> Tensor")
        library.impl("fire", lambda x: (x > 0).to(x.dtype), "CPU")
        net = Call(torch.ops.meter_test.fire)
        with torch.no_grad(), Meter(net), pytest.raises(ValueError, match=r"meter_test\.fire"):
            net(torch.ones(2))
        net.emits = "spikes"  # type: ignore[assignment]
        with torch.no_grad(), Meter(net) as meter:
            net(torch.tensor([1.0, -1.0]))
        assert meter.firing_rate == 0.5
