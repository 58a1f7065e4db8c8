"""A layer of neurons as one differentiable operation, on the CPU's and the GPU's kernels.

On the CPU the gradient keeps the input currents and computes the membranes again, so that
nothing of the loop over spiking steps is stored.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from spikingjelly.activation_based import functional, surrogate
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sddpm.kernels import neurons as kernels
from sddpm.kernels.neurons import Dynamics


def fire(
    currents: Tensor, time_steps: int, dynamics: Dynamics, theta: Tensor, leak: Tensor | None
) -> Tensor:
    """Spikes of ``currents`` ``[time_steps * batch, ...]``, in their shape and type.

    Callers ask :func:`sddpm.kernels.neurons.usable` first.

    Args:
        currents: CPU tensor, float32 or bfloat16.
        time_steps: spiking time steps.
        dynamics: the neuron, with the values of the next two.
        theta: the threshold, for its gradient.
        leak: the leak, for its gradient; None if it is a constant.
    """
    return _Fire.apply(currents, theta, leak, time_steps, dynamics)


class _Fire(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, theta: Tensor, leak: Tensor | None, time_steps: int, dynamics: Dynamics
    ) -> Tensor:
        x = kernels.dense(x)
        ctx.time_steps, ctx.dynamics = time_steps, dynamics
        ctx.save_for_backward(x)
        spikes, _ = kernels.fire(x, time_steps, dynamics)
        assert spikes is not None
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        grad, _, *scalars = kernels.fire_backward(
            x, kernels.like(grad_spikes, x), ctx.time_steps, ctx.dynamics
        )
        return grad, *wanted(scalars, ctx.needs_input_grad[1:3]), None, None


def wanted(values: list[float], needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Scalar gradients as tensors; None for those that are not needed."""
    return [torch.tensor(x) if ask else None for x, ask in zip(values, needed, strict=True)]


def fire_cuda(
    currents: Tensor, time_steps: int, dynamics: Dynamics, leak: Tensor | None
) -> Tensor | None:
    """The same on SpikingJelly's CUDA or Triton kernels; None where it has none to offer.

    The threshold gets no gradient. ``leak`` is the parametric neuron's ``w``, before the sigmoid.
    """
    kind = ("if", "lif", "plif")[dynamics.kind]
    if not _spikingjelly_has(kind, currents.device):
        return None
    steps = currents.unflatten(0, (time_steps, -1))
    v = torch.zeros_like(steps[0], dtype=torch.float32)
    options = {
        "v_threshold": dynamics.theta,
        "v_reset": 0.0,
        "surrogate_function": surrogate.ATan(alpha=dynamics.alpha),
    }
    if kind == "if":
        spikes, *_ = functional.if_multi_step(steps, v, **options)
    elif kind == "lif":
        spikes, *_ = functional.lif_multi_step(steps, v, tau=dynamics.leak, **options)
    else:
        spikes, *_ = functional.plif_multi_step(steps, v, leak, **options)
    return spikes.flatten(0, 1)


@cache
def _spikingjelly_has(kind: str, device: torch.device) -> bool:
    try:
        functional.neuron_implementation(kind, device)
    except (ImportError, RuntimeError, ValueError):
        return False
    return True
