"""A training that pays for events: the gradient is that of a loss with the accumulates in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sddpm import taught
from sddpm.denoising import Denoiser
from sddpm.neurons import SpikingNeuron
from sddpm.plus import Config, build
from sddpm.protocol import ImageShape
from sddpm.soft_neurons import TernaryIF
from sddpm.unet import UNet

SHAPE = ImageShape(1, 8)
WEIGHT = 5.0


def made(neuron: str = "integer_if", **options: Any) -> Denoiser:
    """Equal weights for equal widths; a head whose gradient reaches the neurons."""
    torch.manual_seed(0)
    config = Config(channels=16, multipliers=(1, 2), blocks=1, neuron=neuron, **options)
    system = build(config, SHAPE)
    assert isinstance(system.net, UNet)
    nn.init.normal_(
        system.net.head.conv.weight, std=0.02, generator=torch.Generator().manual_seed(1)
    )
    return system


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images, wanted = torch.randn(2, 3, 1, 8, 8, generator=generator)
    return images, torch.tensor([3, 300, 900]), wanted


def gradients(net: nn.Module, penalty: Any = None) -> dict[str, Tensor]:
    images, t, wanted = inputs()
    net.train().zero_grad()
    loss = (net(images, t) - wanted).square().mean()
    (loss if penalty is None else loss + penalty()).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def fan_out(name: str) -> float:
    """Weights that an event of the layer ``name`` meets: 9 for each output channel, a quarter of
    them at a stride of 2, four times as many where its layer is doubled in height and width."""
    if name == "down.1.act":
        return 9 * 16 / 4
    if name == "up.2.act":
        return 9 * 32 * 4
    wide = name.startswith(("down.2", "middle", "up.0", "up.1"))
    return 9 * (32 if wide else 16)


@pytest.mark.parametrize("neuron", ["integer_if", "if", "ternary_if", "parallel_if"])
def test_the_gradient_is_that_of_a_loss_with_the_accumulates(neuron: str) -> None:
    paying = gradients(made(neuron, event_weight=WEIGHT).net)
    free = made(neuron).net
    events: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    for name, module in free.named_modules():
        if isinstance(module, SpikingNeuron):

            def keep(module: Any, given: Any, out: Tensor, name: str = name) -> None:
                # Absolute, since a spike below 0 costs as much; three images.
                sign = out.detach().sign() if neuron == "ternary_if" else 1
                events[name] = (sign * out).sum() / 3
                sizes[name] = out.numel() // 3 // module.time_steps

            module.register_forward_hook(keep)

    def penalty() -> Tensor:
        accumulates = sum(fan_out(name) * sent for name, sent in events.items())
        products = sum(fan_out(name) * size for name, size in sizes.items())
        return WEIGHT * accumulates / products

    explicit = gradients(free, penalty)
    assert paying.keys() == explicit.keys()
    plain = gradients(made(neuron).net)
    for name, expected in explicit.items():
        if name.endswith(("conv.bias", "conv1.bias", "conv2.bias", "0.bias")):
            continue  # a normalisation follows: its gradient is rounding
        size = float(expected.abs().max())
        torch.testing.assert_close(paying[name], expected, rtol=0, atol=2e-3 * size, msg=name)
        if name.startswith("down") and name.endswith("conv1.weight"):
            assert (plain[name] - expected).abs().max() > 0.05 * size, f"{name} pays nothing"


def test_the_weight_is_the_price_of_one_event_of_every_neuron() -> None:
    net = made(event_weight=WEIGHT).net
    paid: list[float] = []
    for module in net.modules():
        if isinstance(module, SpikingNeuron):
            module.register_forward_hook(
                lambda m, i, out: paid.append(m.event_cost * out[0].numel())
            )
    net.eval()(*inputs()[:2])
    assert sum(paid) == pytest.approx(WEIGHT)


def firing(net: nn.Module) -> float:
    """Events a neuron and image, the mean over the layers."""
    rates: list[float] = []

    def keep(module: nn.Module, given: Any, out: Tensor) -> None:
        rates.append(out.detach().mean().item())

    handles = [
        module.register_forward_hook(keep)
        for module in net.modules()
        if isinstance(module, SpikingNeuron)
    ]
    net(*inputs()[:2])
    for handle in handles:
        handle.remove()
    return sum(rates) / len(rates)


def test_training_sends_fewer_events() -> None:
    paying, free = made(event_weight=WEIGHT).net, made().net
    for net in (paying, free):
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(30):
            gradients(net)
            optimizer.step()
    assert firing(paying) < 0.7 * firing(free)


def test_nothing_is_paid_outside_a_training() -> None:
    paying, free = made(event_weight=WEIGHT).net, made().net
    images, t, _ = inputs()
    torch.testing.assert_close(paying(images, t), free(images, t), rtol=0, atol=0)
    assert not paying.state_dict().keys() ^ free.state_dict().keys()
    x = images.clone().requires_grad_()
    paying.eval()(x, t).sum().backward()
    mine = x.grad
    x = images.clone().requires_grad_()
    free.load_state_dict(paying.state_dict())
    free.eval()(x, t).sum().backward()
    torch.testing.assert_close(mine, x.grad, rtol=0, atol=0)


def test_a_spike_below_zero_costs_what_one_above_does() -> None:
    neuron = TernaryIF(1, threshold=1.0)
    neuron.event_cost = 0.5
    events = torch.tensor([[-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]], requires_grad=True)
    neuron.charged(events).backward(torch.zeros(2, 3))
    assert events.grad is not None
    assert events.grad.tolist() == [[-0.25, 0.0, 0.25], [0.25, -0.25, 0.0]]


def test_a_network_that_is_taught_pays_too() -> None:
    widths: Any = dict(channels=16, multipliers=(1, 2), blocks=1)
    net = taught.build(taught.Config(event_weight=WEIGHT, **widths), SHAPE).net
    costs = [m.event_cost for m in made(event_weight=WEIGHT).net.modules()
             if isinstance(m, SpikingNeuron)]  # fmt: skip
    assert [m.event_cost for m in net.modules() if isinstance(m, SpikingNeuron)] == costs
    assert min(costs) > 0


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"event_weight=-0\.1: expected 0 or"):
        made(event_weight=-0.1)
