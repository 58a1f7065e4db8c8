"""The meter against counts made by hand, against an oracle, and against known wrong counters."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from spikingjelly.activation_based.op_counter import ACCounter, DispatchCounterMode, MACCounter
from torch import Tensor, nn
from torch.nn import functional

from bench.meter import Counts, LayerCounts, Meter
from bench.products import RULES, looks_like_product
from sddpm.diffusion import DiffusionConfig
from sddpm.layers import Reads, declare, solver_arithmetic
from sddpm.protocol import ImageShape
from sddpm.samplers import SAMPLERS, Sampling, sample
from sddpm.unet import UNet, UNetConfig

GRADIENT_MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


class Call(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function: Callable[..., Tensor], reads: Reads | None = None) -> None:
        super().__init__()
        self.function = function
        if reads is not None:
            declare(self, reads=reads)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


class Fire(nn.Module):
    """A neuron without memory."""

    emits = "spikes"

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)


class Toy(nn.Module):
    """Stem once, two spiking steps folded into the batch, a spiking convolution, a real head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = declare(nn.Conv2d(1, 2, 3, padding=1), reads="real")
        self.fire = Fire()
        self.conv = declare(nn.Conv2d(2, 3, 3, padding=1, bias=False), reads="spikes")
        self.head = declare(nn.Linear(3, 5), reads="real")

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.fire(self.stem(x).repeat(2, 1, 1, 1))
        return self.head(self.conv(spikes).mean((2, 3)))


def count(module: nn.Module, *inputs: Tensor) -> Counts:
    with torch.no_grad(), Meter(module) as meter:
        module(*inputs)
    return meter.counts(images=1)


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


LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv1d(4, 3, 5, stride=3, padding=2, dilation=2),
    lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 3), dilation=(1, 2), groups=2),
    lambda: nn.Conv2d(4, 3, 3, padding="same", dilation=2),
    lambda: nn.Conv2d(4, 8, 1, stride=2, groups=4),
    lambda: nn.Conv3d(4, 2, (1, 3, 3), padding=(0, 1, 1)),
    lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, output_padding=1),
    lambda: nn.ConvTranspose2d(4, 6, 3, stride=(2, 3), padding=2, groups=2, dilation=2),
]


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
    net = UNet(UNetConfig(1, 4, (1,), 1, activation="relu", time_steps=1, diffusion_steps=1000))
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


# The context manager.


def test_exception_inside_leaves_no_hooks_and_no_counts() -> None:
    net = nn.Sequential(declare(nn.Linear(3, 5), reads="real"), Call(lambda x: x.view(7)))
    with pytest.raises(RuntimeError), Meter(net) as meter:
        net(torch.ones(1, 3))
    assert meter._stack == []
    for module in net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_always_called
    torch.ones(2, 2) @ torch.ones(2, 2)  # the listener is gone too
    with pytest.raises(ValueError, match="shape"):
        meter.counts(images=1)


def test_caught_exception_does_not_leave_its_module_on_the_stack() -> None:
    declared = declare(Call(lambda x: x.view(7)), reads="real")

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.declared = declared

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.declared(x)
            except RuntimeError:
                return x @ x.t()  # not inside `declared` any more

    with Meter(net := Tries()), pytest.raises(ValueError, match="no module around it declares"):
        net(torch.ones(1, 3))


def test_bad_declaration_is_refused_on_entry() -> None:
    net = nn.Sequential(nn.Linear(3, 5))
    net[0].reads = "spike"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"0: reads='spike'"), Meter(net):
        pass
    assert not net._forward_hooks


def test_meter_cannot_be_entered_twice_at_once() -> None:
    meter = Meter(nn.Identity())
    with meter, pytest.raises(ValueError, match="already active"), meter:
        pass


@pytest.mark.parametrize(("images", "batches"), [(0, 1), (1, 0), (6, 4)])
def test_images_and_batches_that_cannot_be(images: int, batches: int) -> None:
    net = Toy()
    with torch.no_grad(), Meter(net) as meter:
        for _ in range(6):
            net(torch.randn(1, 1, 4, 4))
    with pytest.raises(ValueError, match="batches"):
        meter.counts(images=images, batches=batches)


def test_module_that_was_never_called() -> None:
    with Meter(Toy()) as meter:
        pass
    with pytest.raises(ValueError, match="0 evaluations of Toy"):
        meter.counts(images=1)


# A spiking network, per finished image and per evaluation.


def test_toy_by_hand() -> None:
    """Two batches of 3 and 1 images, five evaluations each, every neuron of channel 0 firing."""
    net = Toy()
    nn.init.zeros_(net.stem.weight)
    with torch.no_grad():
        net.stem.bias.copy_(torch.tensor([1.0, -1.0]))
    with torch.inference_mode(), Meter(net) as meter:
        for batch in (3, 1):
            for _ in range(5):
                net(torch.randn(batch, 1, 4, 4))
    assert meter.evaluations == 10
    counts = meter.counts(images=4, batches=2)
    stem = 2 * 16 * 1 * 9  # once, not once a spiking step
    head = 2 * 3 * 5
    taps = (2 * 2 + 2 * 3) ** 2  # per axis: two border positions of 2 taps, two of 3
    one = counts.per_evaluation()
    assert counts.evaluations == 5
    assert one.evaluations == 1
    assert one.macs_first_conv == stem
    assert one.macs == stem + head
    assert one.acs == 2 * taps * 3
    assert one.dense_macs_spikes == 2 * (3 * 16) * 2 * 9
    # Half the inputs of the convolution are nonzero, all of the head's are.
    assert one.sops == one.dense_macs_spikes / 2 + head
    assert counts.macs == 5 * one.macs
    assert counts.sops == 5 * one.sops
    assert one.layers[1] == LayerCounts("conv", "spikes", 1728, 600, 0.5)
    assert [(row.name, row.reads) for row in one.layers] == [
        ("stem", "real"),
        ("conv", "spikes"),
        ("head", "real"),
    ]
    assert meter.firing_rates == {"fire": 0.5}
    assert meter.firing_rate == 0.5


def test_first_convolution_called_step_by_step_is_still_the_first() -> None:
    stem = declare(nn.Conv2d(1, 2, 1), reads="real")
    second = declare(nn.Conv2d(2, 2, 1), reads="real")
    net = Call(lambda x: second(stem(x)) + second(stem(x)))
    net.stem, net.second = stem, second
    counts = count(net, torch.randn(1, 1, 4, 4))
    assert counts.macs_first_conv == 2 * 16 * 2
    assert counts.sops == 2 * 16 * 2 * 2


def test_firing_rate_weighs_layers_by_size() -> None:
    net = nn.Sequential(Fire(), nn.AdaptiveAvgPool1d(1), Call(torch.neg), Fire())
    with Meter(net) as meter:
        net(torch.ones(1, 2, 4))
    assert meter.firing_rates == {"0": 1.0, "3": 0.0}
    assert meter.firing_rate == 8 / 10


def test_network_without_neurons_has_no_firing_rate() -> None:
    with Meter(nn.Identity()) as meter:
        pass
    assert meter.firing_rate is None


# Second opinion: SpikingJelly's counters, where they count the same thing.


@pytest.mark.parametrize("build", [*LAYERS, lambda: nn.Linear(4, 3)])
@pytest.mark.parametrize("reads", ["spikes", "real"])
def test_spikingjelly_agrees(build: Callable[[], nn.Module], reads: Reads) -> None:
    layer = declare(build(), reads=reads)
    shape = (3, 4, *[9, 7, 5][: layer.weight.dim() - 2])
    x = (torch.rand(shape) < 0.3).float() if reads == "spikes" else torch.randn(shape)
    macs, acs = MACCounter(), ACCounter()
    with torch.no_grad(), DispatchCounterMode([macs, acs]):
        layer(x)
    counts = count(layer, x)
    assert (counts.macs, counts.acs) == (macs.get_total(), acs.get_total())


def test_spikingjelly_guesses_where_we_ask() -> None:
    layer, x = declare(nn.Linear(4, 3), reads="real"), torch.ones(2, 4)
    macs = MACCounter()
    with torch.no_grad(), DispatchCounterMode([macs]):
        layer(x)
    assert macs.get_total() == 0
    assert count(layer, x).macs == 24


# The U-Net itself.


@pytest.mark.parametrize("mode", GRADIENT_MODES)
def test_paper_configuration_costs_6_48_gmac(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    with torch.device("meta"):
        net = UNet(UNetConfig(activation="relu", time_steps=1)).eval()
        with mode(), Meter(net) as meter:
            net(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))
    counts = meter.counts(images=1)
    assert counts.macs == 6_483_821_568
    assert counts.macs_first_conv == 32 * 32 * 128 * 3 * 9
    assert counts.sops is None  # the meta device holds no values
    assert counts.layers[0].input_nonzero_fraction is None


def test_spikes_cannot_be_verified_on_the_meta_device() -> None:
    layer = declare(nn.Linear(3, 5), reads="spikes").to("meta")
    with pytest.raises(ValueError, match="meta device"):
        count(layer, torch.ones(1, 3, device="meta"))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_metering_changes_no_bit_and_costs_little(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    torch.manual_seed(0)
    net = UNet(UNetConfig(1, 32, (1, 2), 1, "if", 4)).eval()
    x, t = torch.randn(32, 1, 8, 8), torch.zeros(32, dtype=torch.long)
    plain, metered = [], []
    with mode():
        expected = net(x, t)
        for _ in range(5):
            start = time.process_time()
            net(x, t)
            plain.append(time.process_time() - start)
            with Meter(net) as meter:
                start = time.process_time()
                assert torch.equal(net(x, t), expected)
                metered.append(time.process_time() - start)
    # Processor time, which a busy machine does not stretch; the fused neurons made the plain
    # pass fast, so what metering adds shows more than it did.
    assert min(metered) < 4 * min(plain)
    counts = meter.counts(images=32)
    assert 0 < counts.acs < counts.dense_macs_spikes
    assert counts.macs_first_conv == 64 * 32 * 9
    assert meter.firing_rate is not None
    assert 0 < meter.firing_rate < 1
