"""Activations of a U-Net by the names that its configuration may use."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sddpm.layers import Reads
from sddpm.neurons import IF, LIF, ParametricLIF, QuantReLU, RateIF, ReLU, SignedRateIF
from sddpm.soft_neurons import IntegerIF, ParallelIF, SoftIF, TernaryIF, ThresholdStepsIF

ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "if": IF,
    "lif": LIF,
    "plif": ParametricLIF,
    "soft_if": SoftIF,
    "ternary_if": TernaryIF,
    "parallel_if": ParallelIF,
    "threshold_steps_if": ThresholdStepsIF,
    "integer_if": IntegerIF,
    "rate_if": RateIF,
    "signed_rate_if": SignedRateIF,
    "relu": ReLU,
    "quant_relu": QuantReLU,
}
_LEVELLED = (QuantReLU, IntegerIF)


def make_activation(
    name: str, time_steps: int, threshold: float = 1.0, levels: int = 4
) -> nn.Module:
    """Build the activation ``name``, one of :data:`ACTIVATIONS`.

    Args:
        time_steps: spiking time steps; 1 where there is no spiking time.
        threshold: firing threshold, or the start of a quantised rectifier's clip.
        levels: values above 0 of a quantised rectifier or an integer neuron.

    Raises:
        ValueError: the name is unknown, or the activation refuses a value.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    made = ACTIVATIONS[name]
    return made(time_steps, threshold, levels) if made in _LEVELLED else made(time_steps, threshold)


def reads_after(name: str) -> Reads:
    """Kind of input, spikes or real numbers, that layers after the activation ``name`` read."""
    emits: Reads = getattr(ACTIVATIONS[name], "emits", "real")
    return emits


def is_spiking(name: str) -> bool:
    """Whether the activation ``name`` emits binary or signed spikes over spiking time steps."""
    return reads_after(name) == "spikes"


def is_rate_coded(name: str) -> bool:
    """Whether the network is read out by its mean over spiking time, because the mean of the
    activation ``name`` over time is its value."""
    return getattr(ACTIVATIONS[name], "code", None) == "rate"
