"""The neurons of SDDPM+ against SpikingJelly's, against formulas worked by hand, and unrolled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import neuron as sj
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from bench.energy.meter import Meter
from sddpm.activations import ACTIVATIONS, make_activation, reads_after
from sddpm.layers import conv3x3
from sddpm.plus import Config, build
from sddpm.protocol import ImageShape
from sddpm.soft_neurons import IntegerIF, ParallelIF, SoftIF, TernaryIF, ThresholdStepsIF
from sddpm.unrolled import unroll

T = 5
THETA = 0.75


def currents() -> Tensor:
    """``[T, 40]``; no sum of them meets a threshold to within rounding."""
    return torch.randn(T, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float32)


def soft_oracle() -> nn.Module:
    node = sj.IFNode(THETA, None, surrogate.ATan(), step_mode="m")
    node.v = torch.full((40,), THETA / 2)
    return node


def ternary_oracle() -> nn.Module:
    return sj.TernaryIFNode(THETA, None, surrogate.ATan(), step_mode="m")


def parallel_oracle() -> nn.Module:
    node = sj.PSN(T, surrogate.ATan())
    with torch.no_grad():
        node.weight.copy_(mixing())
        node.bias.copy_(-THETA * torch.linspace(0.5, 1.5, T)[:, None])
    return node


def mixing() -> Tensor:
    return torch.randn(T, T, generator=torch.Generator().manual_seed(4))


def parallel() -> ParallelIF:
    node = ParallelIF(T, THETA)
    with torch.no_grad():
        node.mixing.copy_(mixing())
        node.levels.copy_(torch.linspace(0.5, 1.5, T))
    return node


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: SoftIF(T, THETA), soft_oracle),
        (lambda: TernaryIF(T, THETA), ternary_oracle),
        (parallel, parallel_oracle),
    ],
    ids=["soft", "ternary", "parallel"],
)
def test_values_and_gradients_are_spikingjellys(
    ours: Callable[[], nn.Module], theirs: Callable[[], nn.Module]
) -> None:
    upstream = torch.randn(T, 40, generator=torch.Generator().manual_seed(5))
    x, other = currents().requires_grad_(), currents().requires_grad_()
    found, expected = ours()(x.view(-1, 1)).view(T, 40), theirs()(other)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert 0.1 < float(found.detach().abs().mean()) < 0.9
    (found * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_parallel_weights_learn_as_spikingjellys() -> None:
    ours, theirs = parallel(), parallel_oracle()
    ours(currents().view(-1, 1)).sum().backward()
    theirs(currents()).sum().backward()
    torch.testing.assert_close(ours.mixing.grad, theirs.weight.grad, rtol=1e-4, atol=1e-5)
    # Their bias is minus theta times our level.
    torch.testing.assert_close(
        ours.levels.grad, -THETA * theirs.bias.grad[:, 0], rtol=1e-4, atol=1e-5
    )


def test_an_integer_neuron_is_one_step_of_ilif() -> None:
    x = (3 * currents()).requires_grad_()
    other = x.detach().clone().requires_grad_()
    theirs = sj.ILIFNode(v_threshold=THETA, surrogate_function=surrogate.MultiLevelSpikeCount(4))
    found, expected = IntegerIF(1, THETA, 4)(x), theirs(other)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert set(found.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    upstream = torch.randn(T, 40, generator=torch.Generator().manual_seed(6))
    (found * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_an_integer_neurons_threshold_gradient_by_hand() -> None:
    """``d (x / theta) / d theta = -x / theta^2`` inside the range, 0 outside."""
    node = IntegerIF(1, 0.5, 4)
    node.theta.requires_grad_()
    node(torch.tensor([-1.0, 0.4, 1.5, 3.0])).sum().backward()
    assert float(node.theta.grad) == pytest.approx(-(0.4 + 1.5) / 0.25)


def test_threshold_steps_by_hand() -> None:
    """Running means of 1, 2, 0, 1 are 1, 1.5, 1, 1; thresholds 1/4, 3/4, 5/4, 7/4."""
    found = ThresholdStepsIF(4)(torch.tensor([1.0, 2.0, 0.0, 1.0]).view(4, 1))
    assert found.flatten().tolist() == [1, 1, 0, 0]


def test_soft_reset_counts_to_the_nearest() -> None:
    """A constant current of ``c`` for ``T`` steps is ``round(c T)`` spikes, as long as it fits."""
    c = torch.tensor([0.0, 0.09, 0.11, 0.29, 0.31, 0.5, 0.69, 0.71, 0.95])
    spikes = SoftIF(T)(c.repeat(T, 1)).view(T, -1).sum(0)
    assert spikes.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("neuron", [n for n in ACTIVATIONS if reads_after(n) != "real"])
def test_every_neuron_of_sddpm_plus_trains_and_is_metered(neuron: str) -> None:
    if neuron in ("rate_if", "signed_rate_if"):
        with pytest.raises(ValueError, match="expected one of"):
            build(Config(neuron=neuron), ImageShape(1, 8))
        return
    torch.manual_seed(0)
    small = Config(neuron=neuron, channels=8, multipliers=(1, 2), blocks=1)
    net = build(small, ImageShape(1, 8)).net
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    net(x, t).square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None]
    assert not without
    with torch.no_grad(), Meter(net.eval()) as meter:
        net(x, t)
    counts = meter.counts(images=2)
    assert counts.acs > 0
    assert counts.macs > 0


def test_events_cost_what_they_cause() -> None:
    """A count of 3 at a corner of a 3x3 convolution reaches 4 outputs, one of 2 in the middle 9;
    times 5 output channels."""
    conv = conv3x3(1, 5, reads="counts")
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 1, 1] = 3, 2
    with Meter(conv) as meter:
        conv(x)
    assert meter.counts(images=1).acs == 5 * (3 * 4 + 2 * 9)
    with (
        pytest.raises(ValueError, match=r"holds 0\.5, 0\.333333; expected whole numbers"),
        Meter(conv),
    ):
        conv(x / 6)


def test_unrolled_into_binary_spikes_the_output_and_the_count_are_the_same() -> None:
    torch.manual_seed(1)
    small = Config(channels=8, multipliers=(1, 2), blocks=1, time_steps=3)
    net = build(small, ImageShape(1, 8)).net
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 50, 400, 999])
    for _ in range(3):  # running statistics of its own, so that several events are sent
        net(2 * x, t)
    net.eval()
    spiking = unroll(net, 3)
    with torch.no_grad(), Meter(net) as counted:
        ours = net(x, t)
    with torch.no_grad(), Meter(spiking) as unrolled:
        theirs = spiking(x, t)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert counted.counts(images=4).acs == unrolled.counts(images=4).acs
    assert counted.firing_rate == pytest.approx(unrolled.firing_rate)


def test_mean_shortcuts_give_the_mean_of_the_steps() -> None:
    torch.manual_seed(0)
    options = dict(neuron="soft_if", channels=8, multipliers=(1, 2), blocks=1)
    once = build(Config(**options), ImageShape(1, 8)).net
    each = build(Config(**options, mean_shortcuts=False), ImageShape(1, 8)).net
    block, plain = once.down[2], each.down[2]
    plain.shortcut.load_state_dict(block.shortcut[1].state_dict())
    x = torch.randn(8, 8, 4, 4)
    steps = plain.shortcut(x).unflatten(0, (4, 2))
    torch.testing.assert_close(block.shortcut(x).unflatten(0, (4, 2)).mean(0), steps.mean(0))


def test_min_snr_weighs_the_images_error() -> None:
    """At a signal-to-noise ratio of r a squared noise error of 1 counts min(r, 5) / r."""
    model = build(Config(channels=8, multipliers=(1,), blocks=1, min_snr=5.0), ImageShape(1, 8))
    abar = model.diffusion.alphas_cumprod
    for t in (0, 400, 999):
        ratio = float(abar[t] / (1 - abar[t]))
        ones = torch.ones(2, 1, 8, 8)
        loss = model.loss(model.net, ones, torch.zeros_like(ones), torch.tensor([t, t]))
        assert float(loss) == pytest.approx(min(ratio, 5) / ratio, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: IntegerIF(4), "time_steps=4"),
        (lambda: IntegerIF(levels=0), "levels=0"),
        (lambda: make_activation("integer_if", 1, threshold=-1.0), "threshold=-1.0"),
        (lambda: build(Config(min_snr=-1.0), ImageShape(1, 8)), "min_snr=-1.0"),
        (lambda: build(Config(neuron="relu"), ImageShape(1, 8)), "neuron='relu'"),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
