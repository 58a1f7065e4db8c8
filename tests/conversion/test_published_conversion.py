"""Quantised ReLU and IF neurons of the published conversion, as its authors' code computed them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from sddpm.neurons import QuantReLU, RateIF, SignedRateIF
from tests.support import golden

RECORDED = golden.read("conversion")
CASES = RECORDED["quantised_relu"]
SPIKING = RECORDED["spiking"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['bit']} bits")
def test_the_quantised_relu_and_its_gradients(case: dict) -> None:
    relu = QuantReLU(threshold=case["alpha"], levels=2 ** case["bit"] - 1)
    x = case["x"].clone().requires_grad_()
    y = relu(x)
    assert golden.distance(y.detach(), case["y"]) < 1e-5
    y.backward(case["upstream"])
    assert x.grad is not None
    assert relu.theta.grad is not None
    assert golden.distance(x.grad, case["dx"]) < 1e-5
    assert relu.theta.grad.item() == pytest.approx(case["dalpha"], rel=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['bit']} bits")
def test_ties_go_up_where_the_original_rounds_to_even(case: dict) -> None:
    """The one deliberate difference: half up is what a neuron that starts at half does."""
    levels, tied = 2 ** case["bit"] - 1, case["ties"]
    y = QuantReLU(threshold=tied["alpha"], levels=levels)(tied["x"]).detach()
    assert torch.equal(y, torch.floor(tied["x"] + 0.5))
    higher = y != tied["y"]
    assert torch.equal(y[higher], tied["y"][higher] + 1)
    assert (tied["x"][higher] % 2 == 0.5).all()
    assert higher.sum() == (levels + 1) // 2


def emitted(case: dict) -> Tensor:
    """Spikes [4, T, 30] in units of the threshold, from the loop that defines the neuron."""
    kind = SignedRateIF if case["signed"] else RateIF
    neuron = kind(case["T"], case["threshold"])
    images = case["x"].shape[0]
    spikes = neuron(case["x"].transpose(0, 1).flatten(0, 1))
    return spikes.unflatten(0, (case["T"], images)).transpose(0, 1) / case["threshold"]


@pytest.mark.parametrize(
    "case",
    [case for case in SPIKING if case["kind"] != "band"],
    ids=lambda case: f"{case['kind']} T={case['T']} signed={case['signed']}",
)
def test_spikes_of_the_if_layer(case: dict) -> None:
    spikes = emitted(case)
    assert torch.equal(spikes.round().to(torch.int8), case["spikes"])
    mean = (spikes * case["threshold"]).mean(1)
    assert golden.distance(mean, case["mean"]) < 1e-5


def by_hand(x: Tensor, threshold: float, takes_back: Callable[[float], bool]) -> Tensor:
    """Spikes [batch, T, n] of signed neurons, number by number."""
    spikes = torch.zeros_like(x, dtype=torch.int8)
    for image, unit in product(range(x.shape[0]), range(x.shape[2])):
        u, net = threshold / 2, 0
        for s, current in enumerate(x[image, :, unit].tolist()):
            u += current
            spike = int(u >= threshold)
            u -= spike * threshold
            if takes_back(u) and net + spike > 0:
                spike, u = spike - 1, u + threshold
            net += spike
            spikes[image, s, unit] = spike
    return spikes


def test_membranes_just_below_zero_give_a_spike_back_that_the_original_keeps() -> None:
    """The original takes back at -0.001 and below, ours below 0; in between they differ."""
    (case,) = [case for case in SPIKING if case["kind"] == "band"]
    assert torch.equal(by_hand(case["x"], 1.0, lambda u: u <= -0.001), case["spikes"])
    spikes = emitted(case).round().to(torch.int8)
    assert torch.equal(by_hand(case["x"], 1.0, lambda u: u < 0), spikes)
    assert (spikes != case["spikes"]).sum() == 6
