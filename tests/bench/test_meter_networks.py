"""The meter around whole networks: as a context manager, per image, and against SpikingJelly."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from spikingjelly.activation_based.op_counter import ACCounter, DispatchCounterMode, MACCounter
from torch import Tensor, nn

from bench.energy.meter import LayerCounts, Meter
from bench.energy.prices import DEFAULT_TABLE, TABLES, published_mj
from sddpm.layers import Reads, declare
from sddpm.unet import UNet, UNetConfig
from tests.support.metering import GRADIENT_MODES, LAYERS, Call, Fire, Toy, count

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


def test_where_every_convolution_reads_spikes_none_is_the_first() -> None:
    """As in a spiking decoder: a linear layer of real numbers, neurons, transposed convolutions."""
    net = nn.Sequential(
        declare(nn.Linear(3, 4, bias=False), reads="real"),
        Fire(),
        nn.Unflatten(1, (1, 2, 2)),
        declare(nn.ConvTranspose2d(1, 5, 2, stride=2, bias=False), reads="spikes"),
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]).expand(4, 3))
    counts = count(net, torch.ones(1, 3))
    assert counts.macs_first_conv == 0
    # Two of four pixels spike, and each reaches 2 x 2 pixels of 5 channels.
    assert (counts.macs, counts.acs) == (12, 2 * 4 * 5)
    assert counts.sops == 12 + 2 * 4 * 5
    priced = published_mj(counts, TABLES[DEFAULT_TABLE])
    assert priced == pytest.approx(0.9 * (12 + 40) * 1e-9)


def test_the_first_convolution_of_real_numbers_may_come_after_one_of_spikes() -> None:
    net = nn.Sequential(
        Fire(),
        declare(nn.Conv2d(1, 2, 1, bias=False), reads="spikes"),
        declare(nn.Conv2d(2, 3, 1, bias=False), reads="real"),
    )
    counts = count(net, torch.ones(1, 1, 4, 4))
    assert counts.macs_first_conv == counts.macs == 16 * 2 * 3
    assert counts.sops == counts.acs == 16 * 2


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
    net = UNet(UNetConfig(1, "if", 4, channels=32, multipliers=(1, 2), blocks=1)).eval()
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
