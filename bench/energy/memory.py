"""Energy with memory accesses: SpikingJelly 2's two inference models, applied to the meter's
counts.

The prices are SpikingJelly's (``op_counter.simple_energy``, ``op_counter.analytical_energy``);
the numbers moved are ours, because its counters see only its own neurons, skip functional
products and take a spike for one by its value. A word is a number of 32 bits.

- ``simple`` (45 nm, float32): :func:`bench.energy.prices.strict_mj`'s operations, four additions
  for each neuron and spiking step, and 24.96 pJ a byte (3.12 pJ a bit) for every weight used, every
  bias added and each membrane read and written. Nothing is reused: a weight is fetched for each
  operation. Activations and spikes are free.
- ``lemaire`` (Lemaire et al. 2022, arXiv 2210.13107; 45 nm, int32): every number lies in an SRAM
  of the size of its layer's buffer, 10 pJ a word at 8 KiB, 20 at 32 KiB, 100 at 1 MiB and above,
  straight lines between. Inputs, weights, biases, outputs, membranes and addresses all cost.

Departures from SpikingJelly's counters: accumulates are exact at the border, where ``lemaire``
there takes the whole kernel; a layer that reads real numbers writes its outputs in a spiking
network too; products of attention are counted. Every neuron's update counts as that of an
integrate-and-fire neuron with a hard reset: the operations of a leak are left out, and a soft
reset, which has an addition less, costs the same. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from bench.energy.counts import Counts, LayerTraffic, NeuronTraffic
from bench.energy.prices import MJ_PER_PJ

WORD_BYTES = 4
FIFO_BYTES = 1000 * WORD_BYTES
"""Queue of spikes between two layers: 1,000 of them, as in Lemaire et al."""
UPDATE_ADDITIONS = 4
"""Additions of one neuron at one spiking step: input to membrane, membrane minus threshold, and two
of the hard reset. SpikingJelly counts the same number for its integrate-and-fire neuron."""
SIMPLE_MAC_PJ, SIMPLE_AC_PJ, SIMPLE_WORD_PJ = 4.6, 0.9, 24.96 * WORD_BYTES
LEMAIRE_MULTIPLY_PJ, LEMAIRE_ADD_PJ = 3.1, 0.1
SRAM_PJ = ((0, 0.0), (8 * 1024, 10.0), (32 * 1024, 20.0), (1024 * 1024, 100.0))
"""Bytes of an SRAM, and picojoules of one of its words; straight lines between the points."""


@dataclass
class Accesses:
    """Words moved, and the additions for their addresses, for the operations of the
    :class:`Counts`."""

    weight_reads: float = 0.0
    bias_reads: float = 0.0
    input_reads: float = 0.0
    """Spikes are read once each; a convolution of real numbers reads its input for every MAC."""
    output_writes: float = 0.0
    """Real outputs, and spikes."""
    potential_reads: float = 0.0
    """Membranes: once for every accumulate, and once for every neuron and spiking step."""
    potential_writes: float = 0.0
    neuron_updates: float = 0.0
    """Neurons times spiking steps."""
    spikes: float = 0.0
    """Emitted."""
    address_additions: float = 0.0
    address_macs: float = 0.0
    words_by_buffer_bytes: dict[int, float] = field(default_factory=dict)
    """All of ``lemaire``'s words, by the size of the buffer that they lie in."""

    def add(self, buffer_bytes: int, words: float) -> None:
        """Move ``words`` to or from a buffer of this size."""
        known = self.words_by_buffer_bytes
        known[buffer_bytes] = known.get(buffer_bytes, 0.0) + words


def accesses(counts: Counts) -> Accesses | None:
    """Memory accesses of ``counts``. None if they were not counted: in stored counts of older
    versions, and in runs on the meta device, which have no values."""
    if not counts.traffic and counts.macs + counts.acs > 0:
        return None
    if any(row.nonzero_inputs is None for row in counts.traffic):
        return None
    total = Accesses()
    for row in counts.traffic:
        _add_layer(total, row)
    for neurons in counts.neurons:
        _add_neurons(total, neurons)
    return total


def _add_layer(total: Accesses, row: LayerTraffic) -> None:
    weights, outputs = row.weights * WORD_BYTES, row.output_size * WORD_BYTES
    total.weight_reads += row.ops
    total.bias_reads += row.biased_outputs
    total.add(weights, row.ops + row.biased_outputs)
    if row.reads != "real":
        assert row.nonzero_inputs is not None
        total.input_reads += row.nonzero_inputs
        total.add(FIFO_BYTES, row.nonzero_inputs)
        # Each accumulate reads a membrane and writes it back.
        total.potential_reads += row.ops
        total.potential_writes += row.ops
        total.add(outputs, 2 * row.ops)
        total.address_additions += row.ops
        if row.taps:  # row and column of a spike's first output
            total.address_macs += 2 * row.nonzero_inputs
        return
    read = row.ops if row.taps else row.inputs
    total.input_reads += read
    total.add(row.input_size * WORD_BYTES, read)
    total.output_writes += row.outputs
    total.add(outputs, row.outputs)
    total.address_additions += row.inputs + row.outputs + row.taps * row.slots


def _add_neurons(total: Accesses, row: NeuronTraffic) -> None:
    total.neuron_updates += row.updates
    total.spikes += row.spikes
    total.potential_reads += row.updates
    total.potential_writes += row.updates
    total.add(row.size * WORD_BYTES, 2 * row.updates)
    total.output_writes += row.spikes
    total.add(FIFO_BYTES, row.spikes)


def simple_mj(counts: Counts, moved: Accesses) -> float:
    """Millijoules by SpikingJelly's simple model: operations, neuron updates, weights, biases and
    membranes."""
    words = moved.weight_reads + moved.bias_reads + 2 * moved.neuron_updates
    additions = counts.acs + UPDATE_ADDITIONS * moved.neuron_updates
    operations = SIMPLE_MAC_PJ * counts.macs + SIMPLE_AC_PJ * additions
    return (operations + SIMPLE_WORD_PJ * words) * MJ_PER_PJ


def lemaire_mj(counts: Counts, moved: Accesses) -> float:
    """Millijoules by the model of Lemaire et al.: operations, addresses, and every word.

    Additions are the accumulates, the biases, and the reset after each spike.
    """
    mac = LEMAIRE_MULTIPLY_PJ + LEMAIRE_ADD_PJ
    additions = counts.acs + moved.bias_reads + moved.spikes + moved.address_additions
    pj = mac * (counts.macs + moved.address_macs) + LEMAIRE_ADD_PJ * additions
    for buffer_bytes, words in moved.words_by_buffer_bytes.items():
        pj += words * sram_pj(buffer_bytes)
    return pj * MJ_PER_PJ


def sram_pj(buffer_bytes: float) -> float:
    """Picojoules to move one word to or from an SRAM of this size."""
    for (small, low), (large, high) in pairwise(SRAM_PJ):
        if buffer_bytes <= large:
            return low + (high - low) * (buffer_bytes - small) / (large - small)
    return SRAM_PJ[-1][1]
