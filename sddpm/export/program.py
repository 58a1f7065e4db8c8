"""A network as a program of two machines: a chip runs NIR graphs, a host the rest.

The steps run in their order. Each reads values that were written before and writes one. A value is
one array for the whole evaluation, or with ``per_step`` one for each spiking step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

OPERATIONS: Mapping[str, str] = {
    "look_up": "row a of table",
    "linear": "weight a + bias",
    "silu": "a / (1 + exp(-a))",
    "exp": "exp(a)",
    "affine": "scale a + shift, one number of each for a channel",
    "conv2d": "the convolution of a with weight, plus bias; stride 1, zeros around, size kept",
    "add": "a + b",
    "multiply": "a b",
    "concatenate": "the channels of a, then those of b",
    "double": "a with every pixel twice in height and in width",
    "mean": "the mean of a over the spiking steps",
    "read_out": "the sum over spiking steps s of weights[s] a[s]",
    "noise_of_v": "noise_level[t] x + signal[t] v, where a, b, c are v, x, t",
}
"""Operations of the host on what they read, called a, b, c. A value ``[channels]`` beside one of
``[channels, height, width]`` stands for every pixel."""


@dataclass(frozen=True)
class Value:
    """An array that a step writes or the user gives."""

    name: str
    """Name in the manifest; unique."""
    shape: tuple[int, ...]
    """Shape for one image and one spiking step."""
    per_step: bool = False
    """Whether there is one for each spiking step."""


@dataclass
class Program:
    """Steps in their order, the tensors that the host needs, the graphs that the chip runs."""

    time_steps: int
    """Spiking steps of an evaluation."""
    inputs: tuple[Value, ...]
    """Values that the user gives."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """JSON-ready descriptions."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Numbers of the host's operations, by name."""
    graphs: dict[str, Any] = field(default_factory=dict)
    """``nir.NIRGraph`` by name."""

    def host(
        self,
        operation: str,
        *reads: Value,
        writes: str,
        shape: tuple[int, ...] | None = None,
        per_step: bool | None = None,
        **tensors: Tensor,
    ) -> Value:
        """Add an operation of the host, and return the value that it writes.

        Args:
            operation: one of :data:`OPERATIONS`.
            shape: of the result; by default that of the first value read.
            per_step: whether the result is; by default, whether one of the values read is.
            tensors: numbers that the operation needs, by their name in its formula.
        """
        stored = {name: f"{writes}.{name}" for name in tensors}
        self.tensors |= {stored[name]: tensor for name, tensor in tensors.items()}
        made = Value(
            writes,
            reads[0].shape if shape is None else shape,
            any(value.per_step for value in reads) if per_step is None else per_step,
        )
        step: dict[str, Any] = {"host": operation}
        step["reads"] = [value.name for value in reads]
        if stored:
            step["tensors"] = stored
        return self._append(step, made)

    def chip(
        self, graph: Any, name: str, reads: Value, shape: tuple[int, ...], **facts: Any
    ) -> Value:
        """Add a graph that runs once for each spiking step, its membranes kept between them and
        fresh at the first. A value that is no ``per_step`` one is its input at every step."""
        self.graphs[name] = graph
        step = {"chip": name, "reads": [reads.name], **facts}
        return self._append(step, Value(name, shape, True))

    def _append(self, step: dict[str, Any], made: Value) -> Value:
        step |= {"writes": made.name, "shape": list(made.shape), "per_step": made.per_step}
        self.steps.append(step)
        return made
