"""Counts of the meter: operations, and the numbers that they move. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from sddpm.layers import Reads


@dataclass(frozen=True)
class LayerCounts:
    """One module with products; its figures are in the unit of the :class:`Counts` around it."""

    name: str
    """Path of the innermost module around the products, from the metered module."""
    reads: Reads
    """Declaration of that module, or of its nearest ancestor that declares."""
    dense_macs: float
    """Dense MACs, if nothing were skipped, over all executed spiking time steps."""
    ops: float
    """MACs where it reads real numbers, exact accumulates where it reads spikes or events."""
    input_nonzero_fraction: float | None
    """Spikes or events / inputs over the run, for a layer of real numbers its nonzero share; None
    where values were not known (meta device)."""


@dataclass(frozen=True)
class LayerTraffic:
    """The numbers that one module with products works on, whatever memory they lie in.

    Sizes of buffers are of one image at one spiking step: the first dimension of a tensor, which
    holds steps times images, is divided out.
    """

    name: str
    reads: Reads
    ops: float
    """Operations, as :attr:`LayerCounts.ops`. Each uses one weight (for attention: one second
    operand)."""
    inputs: float
    nonzero_inputs: float | None
    """None where values were not known (meta device)."""
    outputs: float
    biased_outputs: float
    """Outputs that a bias is added to."""
    slots: float
    """Images times spiking steps that went through."""
    weights: int
    """Size of the buffer of weights and biases, in numbers."""
    input_size: int
    output_size: int
    taps: int
    """Kernel positions times output channels of a convolution; 0 for a matrix product."""


@dataclass(frozen=True)
class NeuronTraffic:
    """One layer of spiking neurons."""

    name: str
    updates: float
    """Neurons times spiking steps: each reads its membrane and writes it back."""
    spikes: float
    size: int
    """Neurons of one image."""


@dataclass(frozen=True)
class Counts:
    """Operations for one finished image, or for one evaluation of one image.

    The figures are means over the metered images, so they need not be whole numbers.
    """

    evaluations: int
    """Network evaluations that the figures cover (all steps of one image, or 1)."""
    macs_first_conv: float
    """Dense MACs of the first convolution that reads real numbers, in each evaluation and as often
    as it is executed; 0 where no convolution reads them."""
    macs: float
    """MACs of all products that read real numbers, the first convolution included."""
    acs: float
    """Exact accumulates of all products that read spikes or events."""
    dense_macs_spikes: float
    """Dense MACs of the products that read spikes, over all time steps; for products that read
    counts, of the one pass."""
    sops: float | None
    """Synaptic operations as published: nonzero fraction of the input * dense MACs, summed over
    everything except that convolution. None if input values were not known."""
    layers: tuple[LayerCounts, ...] = ()
    """One row per module with products, in order of first execution."""
    traffic: tuple[LayerTraffic, ...] = ()
    """The same modules."""
    neurons: tuple[NeuronTraffic, ...] = ()
    """One row per layer of spiking neurons."""

    @property
    def spiking(self) -> bool:
        """Whether any product reads spikes."""
        return self.dense_macs_spikes > 0

    def per_evaluation(self) -> Counts:
        """The same figures for one network evaluation of one image."""
        n = self.evaluations
        scale = ("macs_first_conv", "macs", "acs", "dense_macs_spikes", "sops")
        moved = ("ops", "inputs", "nonzero_inputs", "outputs", "biased_outputs", "slots")
        return replace(
            _divided(self, n, scale),
            evaluations=1,
            layers=tuple(_divided(row, n, ("dense_macs", "ops")) for row in self.layers),
            traffic=tuple(_divided(row, n, moved) for row in self.traffic),
            neurons=tuple(_divided(row, n, ("updates", "spikes")) for row in self.neurons),
        )


Row = TypeVar("Row", Counts, LayerCounts, LayerTraffic, NeuronTraffic)


def _divided(row: Row, by: int, names: tuple[str, ...]) -> Row:
    """``row`` with the figures of these names divided; None stays None."""
    figures = {name: getattr(row, name) for name in names}
    divided: dict[str, Any] = {k: None if v is None else v / by for k, v in figures.items()}
    return replace(row, **divided)
