"""Neurons against SpikingJelly's nodes, activations against formulas worked by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from spikingjelly.activation_based import neuron as sj
from spikingjelly.activation_based import surrogate

from sddpm.activations import ACTIVATIONS, make_activation
from sddpm.neurons import (
    IF,
    LIF,
    DirectEncoding,
    MembraneReadout,
    ParametricLIF,
    QuantReLU,
    ReLU,
    SpikingNeuron,
    add_per_image,
)

PAIRS = {
    "if": (IF, lambda: sj.IFNode(surrogate_function=surrogate.ATan(), step_mode="m")),
    "lif": (LIF, lambda: sj.LIFNode(surrogate_function=surrogate.ATan(), step_mode="m")),
    "plif": (
        ParametricLIF,
        lambda: sj.ParametricLIFNode(surrogate_function=surrogate.ATan(), step_mode="m"),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("time_steps", [1, 2, 4, 16])
def test_values_and_gradients_equal_spikingjelly(name: str, time_steps: int) -> None:
    torch.manual_seed(time_steps)
    ours_class, make_theirs = PAIRS[name]
    ours, theirs = ours_class(time_steps), make_theirs()
    x = torch.randn(time_steps, 3, 5, 4, 4) * 1.5
    weight = torch.randn_like(x)
    a = x.flatten(0, 1).clone().requires_grad_()
    b = x.clone().requires_grad_()
    spikes, expected = ours(a), theirs(b)
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(spikes, expected.flatten(0, 1))
    (spikes * weight.flatten(0, 1)).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad.flatten(0, 1), rtol=1e-4, atol=1e-6)
    if name == "plif":
        torch.testing.assert_close(ours.w.grad, theirs.w.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_threshold_other_than_one(name: str) -> None:
    ours_class, make_theirs = PAIRS[name]
    theirs = make_theirs()
    theirs.v_threshold = 0.75
    x = torch.randn(4, 2, 6)
    assert torch.equal(ours_class(4, 0.75)(x.flatten(0, 1)), theirs(x).flatten(0, 1))


def test_if_by_hand() -> None:
    """Charges 0.5, 0.5, 0.7, 0.4: the second and last... v = .5, 1.0 -> fire, .7, 1.1 -> fire."""
    assert IF(4)(torch.tensor([0.5, 0.5, 0.7, 0.4])[:, None]).flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", PAIRS)
def test_no_state_survives_a_forward(name: str) -> None:
    neuron = PAIRS[name][0](4)
    x = torch.full((8, 3), 0.3)
    assert torch.equal(neuron(x), neuron(x))
    assert torch.equal(neuron(x[:, :1]), neuron(x)[:, :1])


def test_images_of_a_batch_do_not_mix() -> None:
    x = torch.randn(4, 5, 7)
    together = IF(4)(x.flatten(0, 1)).unflatten(0, (4, 5))
    for image in range(5):
        assert torch.equal(IF(4)(x[:, image]), together[:, image])


def test_membrane_stays_float32_in_bfloat16() -> None:
    """256 + 1/4 is 256 in bfloat16: a bfloat16 membrane would never reach 257."""
    x = torch.tensor([256.0, 0.25, 0.25, 0.25, 0.25], dtype=torch.bfloat16)[:, None]
    spikes = IF(5, threshold=257.0)(x)
    assert spikes.dtype == torch.bfloat16
    assert spikes.flatten().tolist() == [0, 0, 0, 0, 1]


def test_every_activation_names_its_threshold_theta() -> None:
    for name in ACTIVATIONS:
        assert "theta" in make_activation(name, 1).state_dict()


def test_quantised_relu_rounds_half_up_on_every_level() -> None:
    """levels 4, clip 2: steps of 0.5, ties at 0.25, 0.75, ... go up; torch.round would miss."""
    x = torch.tensor([-1.0, 0.0, 0.24, 0.25, 0.74, 0.75, 1.25, 1.75, 2.0, 9.0])
    expected = [0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert QuantReLU(threshold=2.0, levels=4)(x).tolist() == expected


def test_quantised_relu_gradients() -> None:
    """dx is 1 inside the clip and 0 outside; dtheta is (y - x) / theta inside and 1 above."""
    layer = QuantReLU(threshold=2.0, levels=4)
    x = torch.tensor([-0.5, 0.6, 3.0], requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.tolist() == pytest.approx([0, 1, 0])
    assert layer.theta.grad.item() == pytest.approx((0.5 - 0.6) / 2 + 1)


def test_membrane_readout_by_hand() -> None:
    x = torch.tensor([1.0, 10.0, 100.0])[:, None]
    assert MembraneReadout(3)(x).item() == pytest.approx(0.64 + 8 + 100)


def test_encoding_repeats_with_time_as_the_slow_axis() -> None:
    x = torch.tensor([[1.0], [2.0]])
    assert DirectEncoding(3)(x).flatten().tolist() == [1, 2, 1, 2, 1, 2]


def test_add_per_image_reaches_every_step_of_its_image() -> None:
    out = add_per_image(torch.zeros(6, 1, 1, 1), torch.tensor([[1.0], [2.0]]))
    assert out.flatten().tolist() == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    "build",
    [
        lambda: IF(0),
        lambda: IF(4, threshold=0.0),
        lambda: LIF(4, tau=1.0),
        lambda: ReLU(time_steps=2),
        lambda: QuantReLU(levels=0),
        lambda: make_activation("gelu", 1),
        lambda: SpikingNeuron(time_steps=2.5),
    ],
)
def test_bad_arguments_are_named(build) -> None:
    with pytest.raises(ValueError, match=r"time_steps|threshold|tau|levels|gelu"):
        build()


def test_a_threshold_changed_in_any_way_takes_effect() -> None:
    """The number behind theta is kept; filling, copying, loading and replacing must renew it."""
    neuron, x = IF(1), torch.full((1, 1), 0.75)
    assert neuron(x).item() == 0
    neuron.theta.fill_(0.5)
    assert neuron(x).item() == 1
    neuron.load_state_dict({"theta": torch.tensor(2.0)})
    assert neuron(x).item() == 0
    neuron.theta = torch.tensor(0.5)
    assert neuron(x).item() == 1
    with torch.inference_mode():
        neuron.theta.copy_(torch.tensor(3.0))
        assert neuron(x).item() == 0
    copied = copy.deepcopy(neuron)
    copied.theta.fill_(0.1)
    assert copied(x).item() == 1
    assert neuron(x).item() == 0
    assert neuron.to(torch.float64)(x.double()).item() == 0
