"""Neurons as nodes of NIR, and the reasons why some cannot be.

NIR (Pedersen et al. 2024, "Neuromorphic intermediate representation", Nature Communications 15,
8122) defines neurons in continuous time. A step of ``DT`` seconds by Euler's rule is a spiking step
of :class:`sddpm.neurons.SpikingNeuron`: ``IF`` with ``r = 1 / DT`` charges ``v + x``, ``LIF`` with
``r = 1`` charges ``v + (x - v) DT / tau``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from sddpm.activations import ACTIVATIONS
from sddpm.attention import SpikingAttention
from sddpm.neurons import IF, LIF, ParametricLIF, RateIF, SpikingNeuron
from sddpm.soft_neurons import IntegerIF, ParallelIF, SoftIF, TernaryIF, ThresholdStepsIF
from sddpm.temporal import TemporalConv2d

DT = 1e-4
"""Seconds of a spiking step; most readers of NIR assume this value."""

_SOFT = (
    "its soft reset takes the threshold off the membrane and keeps the rest, while NIR's neurons "
    "are set to v_reset"
)
_REASONS: dict[type[nn.Module], str] = {
    SoftIF: _SOFT,
    RateIF: _SOFT,
    TernaryIF: "it sends spikes of both signs, while NIR's neurons send spikes of 1",
    ParallelIF: "it mixes all spiking steps by a matrix, while NIR's neurons know only their past",
    ThresholdStepsIF: "it has a threshold for each spiking step, while NIR's do not change",
    IntegerIF: "it sends counts of events, while NIR's neurons send spikes of 1",
}
_TSM = (
    "TSM scales the currents of each spiking step by another number, while NIR's convolutions do "
    "not change over time"
)
_ATTENTION = "attention multiplies spikes by spikes, while NIR's layers have fixed weights"
"""Reasons in words that follow a colon."""
_EXACT = (IF, LIF, ParametricLIF)
_ACTIVATIONS = tuple(ACTIVATIONS.values())


def check_exportable(net: nn.Module) -> None:
    """Raise ValueError, with the reason, if a layer of ``net`` has no node in NIR."""
    for name, layer in net.named_modules():
        if isinstance(layer, TemporalConv2d):
            raise ValueError(f"NIR cannot hold {name}: {_TSM}")
        if isinstance(layer, SpikingAttention):
            raise ValueError(f"NIR cannot hold {name}: {_ATTENTION}")
        if type(layer) in _ACTIVATIONS and type(layer) not in _EXACT:
            raise ValueError(_why_not(name, layer))


def _why_not(name: str, layer: nn.Module) -> str:
    title = f"NIR cannot hold {name} ({type(layer).__name__})"
    if not isinstance(layer, SpikingNeuron):
        return f"{title}: it sends real numbers, while NIR's neurons send spikes of 1"
    reasons = (reason for kind, reason in _REASONS.items() if isinstance(layer, kind))
    return f"{title}: {next(reasons, 'no node of NIR is known to compute it')}"


def neuron_node(layer: SpikingNeuron, shape: tuple[int, ...]) -> Any:
    """The node ``nir.IF`` or ``nir.LIF`` of a layer of neurons.

    NIR's neurons fire above ``v_threshold``, these at ``theta``. The node holds the float32 number
    just below ``theta``: no float32 membrane lies between the two, so both fire alike.

    Args:
        layer: neurons that :func:`check_exportable` accepts.
        shape: ``(channels, H, W)`` of the layer.
    """
    import nir

    below = np.nextafter(layer.theta.detach().cpu().numpy(), np.float32(0))
    threshold = np.broadcast_to(below, shape).copy()
    rest = np.zeros(shape, np.float32)
    if type(layer) is IF:
        return nir.IF(np.full(shape, 1 / DT, np.float32), v_threshold=threshold, v_reset=rest)
    leak = layer.leak()
    tau = layer.tau if isinstance(layer, LIF) else 1 / leak.double().item()  # type: ignore[union-attr]
    return nir.LIF(
        # float64: DT / tau must give the leak back.
        tau=np.full(shape, tau * DT, np.float64),
        r=np.ones(shape, np.float32),
        v_leak=rest,
        v_threshold=threshold,
        v_reset=rest.copy(),
    )
