"""Layers that declare what they read, and the time embedding.

Whether a product costs a multiplication depends on what the layer is fed: spikes select
weights (an accumulate), a count of events selects them as often (an accumulate an event), real
numbers multiply them. Each layer with products states which,
and the meter in :mod:`bench.energy.meter` checks the statement against the numbers it sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

Reads = Literal["spikes", "counts", "real"]
Module = TypeVar("Module", bound=nn.Module)


def declare(module: Module, *, reads: Reads) -> Module:
    """State what ``module`` reads and return it.

    Args:
        module: a layer, or a whole foreign network when everything in it reads real numbers.
        reads: ``"spikes"`` if every input is zero or plus or minus one constant per channel,
            ``"counts"`` if every input is a whole number of events from 0, ``"real"`` otherwise.

    The nearest declared module around a product decides how the product is counted.
    """
    if reads not in get_args(Reads):
        raise ValueError(f"reads={reads!r}: expected one of {', '.join(get_args(Reads))}")
    module.reads = reads  # type: ignore[assignment]
    return module


_solving: ContextVar[bool] = ContextVar("solving", default=False)


@contextmanager
def solver_arithmetic() -> Iterator[None]:
    """Context for a solver's work between two evaluations of the network: sums of a few images, in
    any operators. No accounting prices them."""
    token = _solving.set(True)
    try:
        yield
    finally:
        _solving.reset(token)


def in_solver() -> bool:
    """Whether a solver is computing (:func:`solver_arithmetic`)."""
    return _solving.get()


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Run ``net`` in evaluation mode inside the block; its mode is as before after it."""
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, those that no checkpoint holds included."""
    return dict([*net.named_parameters(), *net.named_buffers()])


def check_finite(net: nn.Module) -> None:
    """Raise ValueError, naming the tensor, if a number of ``net`` is NaN or infinite."""
    for name, tensor in tensors_of(net).items():
        # A sum is several times as fast as a look at each number, and overflows rarely.
        if tensor.is_floating_point() and not tensor.sum().isfinite():
            odd = int((~tensor.isfinite()).sum())
            if odd:
                raise ValueError(
                    f"{name}: {odd} of {tensor.numel()} numbers are NaN or infinite; the network "
                    "cannot sample"
                )


def each_step(t: Tensor | int, x: Tensor) -> Tensor:
    """Diffusion steps as ``[batch]``; one number applies to every image of ``x``."""
    steps = torch.as_tensor(t, device=x.device)
    if steps.is_floating_point() or steps.dtype == torch.bool:
        raise ValueError(f"t={t}: expected whole diffusion steps, one or [batch]")
    return steps.expand(len(x)) if steps.ndim == 0 else steps


def conv3x3(
    inputs: int,
    outputs: int,
    *,
    reads: Reads,
    stride: int = 1,
    make: Callable[..., nn.Conv2d] = nn.Conv2d,
    xavier: bool = True,
) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (halves it at stride 2).

    ``make`` builds it, from the arguments of ``nn.Conv2d``. ``xavier``: Xavier-initialised, bias
    0; else it starts as torch's own do.
    """
    layer = declare(make(inputs, outputs, 3, stride, 1), reads=reads)
    return _xavier(layer) if xavier else layer


def conv1x1(
    inputs: int, outputs: int, *, reads: Reads, make: Callable[..., nn.Conv2d] = nn.Conv2d
) -> nn.Conv2d:
    """A 1x1 convolution, Xavier-initialised."""
    return _xavier(declare(make(inputs, outputs, 1), reads=reads))


def linear(inputs: int, outputs: int, *, reads: Reads) -> nn.Linear:
    """A fully connected layer, Xavier-initialised."""
    return _xavier(declare(nn.Linear(inputs, outputs), reads=reads))


Weighted = TypeVar("Weighted", nn.Conv2d, nn.Linear)


def _xavier(layer: Weighted, gain: float = 1.0) -> Weighted:
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class TimeEmbedding(nn.Module):
    """The diffusion step as a vector: a fixed sinusoidal table and a two-layer perceptron.

    Row ``t`` of the table interleaves sin and cos of ``t * exp(-(i / channels) ln 10000)``
    for even ``i`` in 0..channels-2. The table is a buffer: it is fixed, but counted among
    the published parameters.

    Args:
        channels: width of the table (even); the output is ``4 * channels`` wide.
        diffusion_steps: rows of the table.
    """

    table: Tensor

    def __init__(self, channels: int, diffusion_steps: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels={channels}: the sin/cos table needs an even number")
        even = torch.arange(0, channels, 2, dtype=torch.float32)
        frequencies = torch.exp(-even / channels * math.log(10000))
        angles = torch.arange(diffusion_steps, dtype=torch.float32)[:, None] * frequencies
        table = torch.stack([angles.sin(), angles.cos()], dim=-1)
        self.register_buffer("table", table.reshape(diffusion_steps, channels))
        self.linear1 = linear(channels, 4 * channels, reads="real")
        self.linear2 = linear(4 * channels, 4 * channels, reads="real")

    def forward(self, t: Tensor) -> Tensor:
        """Embed integer diffusion steps ``[batch]`` as ``[batch, 4 * channels]``."""
        return self.linear2(nn.functional.silu(self.linear1(self.table[t])))
