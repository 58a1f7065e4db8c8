"""Training at several numbers of spiking time steps, so that one network runs at each of them.

Every training step draws its own number (mixed time-step training, Du et al. 2025, arXiv
2503.17394; there each part of the network draws one, here the whole network draws one). The
weights are shared. Sampling uses the configured number, or the one that ``--time-steps`` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from sddpm.neurons import (
    DirectEncoding,
    MeanReadout,
    MembraneReadout,
    SpikingNeuron,
    check_time_steps,
)
from sddpm.protocol import Step
from sddpm.soft_neurons import IntegerIF, ParallelIF, ThresholdStepsIF
from sddpm.temporal import TemporalConv2d


def check_mixed(net: nn.Module, choices: Sequence[int]) -> None:
    """Raise ValueError if ``net`` cannot be trained at all of ``choices``, numbers of time steps.

    A network with weights of a single spiking step runs at one number of them. An empty sequence
    asks for nothing.
    """
    name = f"mixed_time_steps={tuple(choices)}"
    if len(set(choices)) < len(choices):
        raise ValueError(f"{name}: expected different numbers")
    counts = any(isinstance(module, IntegerIF) for module in net.modules())
    try:
        for choice in choices:
            check_time_steps(choice)
            if counts:
                IntegerIF(levels=choice)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    for module in net.modules() if choices else ():
        if isinstance(module, ParallelIF | ThresholdStepsIF | TemporalConv2d):
            raise ValueError(
                f"{name}: {type(module).__name__} has a weight for each spiking step, so the "
                "network runs at one number of them; expected no mixed_time_steps"
            )


def drawn(choices: Sequence[int], step: Step) -> int:
    """The one of ``choices`` that the training step ``step`` has, the same in every process."""
    return choices[int(step.gather(step.randint(len(choices), 1))[0])]


@contextmanager
def running_at(net: nn.Module, time_steps: int) -> Iterator[None]:
    """Run ``net`` at another number of spiking time steps inside this context.

    Integer neurons send at most ``time_steps`` events. Other networks repeat and read out
    ``time_steps`` steps, and their membrane read-outs keep the sum of their weights.
    """
    counts = any(isinstance(module, IntegerIF) for module in net.modules())
    kept = []
    try:
        for module in net.modules():
            name = _attribute(module, counts)
            if name is None:
                continue
            kept.append((module, name, getattr(module, name)))
            setattr(module, name, _value(module, time_steps))
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def _attribute(module: nn.Module, counts: bool) -> str | None:
    """The attribute of ``module`` that depends on the number of time steps, if there is one."""
    if counts:  # one pass for every number of events
        return "levels" if isinstance(module, IntegerIF) else None
    if isinstance(module, MembraneReadout):
        return "weights"
    timed = isinstance(module, SpikingNeuron | DirectEncoding | MeanReadout)
    return "time_steps" if timed else None


def _value(module: nn.Module, time_steps: int) -> int | Tensor:
    if not isinstance(module, MembraneReadout):
        return time_steps
    other = MembraneReadout(time_steps, module.decay)
    other.keep_sum_of(len(module.weights))
    return other.weights.to(module.weights.device)
