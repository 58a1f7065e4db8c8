"""Energy in integer arithmetic, and the energy of a quantised ANN that carries as much information
as a spiking network.

``T`` binary spikes encode one of ``T + 1`` values, as an activation of ``ceil(log2(T + 1))`` bits
does in one pass. Both read the same weights. Weights have 8 bits and sums 32 bits. The prices are
the 45 nm figures of Horowitz (ISSCC 2014) for integers:

=========  ==========  ===========
operation  8 bits, pJ  32 bits, pJ
=========  ==========  ===========
multiply   0.2         3.1
add        0.03        0.1
=========  ==========  ===========

Between them the multiplication follows the power law through both points in the product of the
operands' widths, ``0.2 pJ * (a * w / 64) ** 0.989``: an array multiplier has ``a * w`` cells. Below
8 bits this extrapolates. A one-bit activation selects a weight and multiplies nothing.

Not included, as in :mod:`bench.energy.prices`: memory, biases, normalisation, neurons.
Imports no torch.
"""

from __future__ import annotations

from math import log
from typing import Protocol

from bench.energy.prices import MJ_PER_PJ

WEIGHT_BITS = 8
INPUT_BITS = 8
"""Bits of real inputs: images, and the time embedding."""
MULTIPLY_PJ = {8: 0.2, 32: 3.1}
ADD_PJ = {8: 0.03, 32: 0.1}
ACCUMULATE_PJ = ADD_PJ[32]
"""A sum of many 8-bit weights needs more than 8 bits."""
_EXPONENT = log(MULTIPLY_PJ[32] / MULTIPLY_PJ[8]) / log(32 * 32 / (8 * 8))


class Operations(Protocol):
    """Counts that are priced: :class:`bench.energy.counts.Counts`, or a record's."""

    @property
    def macs_first_conv(self) -> float: ...
    @property
    def macs(self) -> float: ...
    @property
    def acs(self) -> float: ...


def rival_bits(time_steps: int) -> int:
    """Bits that encode as many values as ``time_steps`` binary spikes: ``ceil(log2(time_steps +
    1))``.

    Raises:
        ValueError: ``time_steps`` is below 1.
    """
    if time_steps < 1:
        raise ValueError(f"time_steps={time_steps}: expected at least 1")
    return time_steps.bit_length()  # exact, where a logarithm in floats may round over


def mac_pj(bits: int, weight_bits: int = WEIGHT_BITS) -> float:
    """Picojoules of one multiply-accumulate of a ``bits``-bit activation into 32 bits."""
    if bits < 1 or weight_bits < 1:
        raise ValueError(f"bits={bits}, weight_bits={weight_bits}: expected at least 1 of each")
    if min(bits, weight_bits) == 1:
        return ACCUMULATE_PJ
    multiply = MULTIPLY_PJ[8] * (bits * weight_bits / 64) ** _EXPONENT
    return multiply + ACCUMULATE_PJ


def integer_mj(counts: Operations) -> float:
    """Millijoules of any network in 8-bit arithmetic: real inputs have 8 bits, spikes one."""
    return (mac_pj(INPUT_BITS) * counts.macs + ACCUMULATE_PJ * counts.acs) * MJ_PER_PJ


def quantised_mj(counts: Operations, bits: int) -> float:
    """Millijoules of an ANN with activations of ``bits`` bits.

    The first convolution reads the image at 8 bits. That every other product reads ``bits`` bits
    favours the rival: where a spiking network reads real numbers (shortcuts, head), so would it.

    Raises:
        ValueError: the network spikes.
    """
    if counts.acs:
        raise ValueError(f"acs={counts.acs:g}: only a network without spikes has a bit width")
    inner = counts.macs - counts.macs_first_conv
    return (mac_pj(INPUT_BITS) * counts.macs_first_conv + mac_pj(bits) * inner) * MJ_PER_PJ


def rival_mj(counts: Operations, time_steps: int) -> float:
    """Millijoules of an ANN at the bits that a spiking network of ``time_steps`` would carry."""
    return quantised_mj(counts, rival_bits(time_steps))
