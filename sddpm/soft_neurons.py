"""Spiking neurons that lose less of their input than a neuron with hard reset: the options of
SDDPM+.

A hard reset discards the part of the membrane above the threshold, so that four binary steps
encode little more than "large" or "small". The neurons here keep that part (soft reset), emit
signed or several events, or have a separate threshold for every step. Tensors are
``[time_steps * batch, ...]`` with time as the slow axis, as in :mod:`sddpm.neurons`; the spike's
gradient is SpikingJelly's ATan surrogate unless a class says otherwise.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function

from sddpm.kernels.neurons import Dynamics
from sddpm.neurons import SpikingNeuron


class SoftIF(SpikingNeuron):
    """Integrate-and-fire with soft reset and a membrane that starts half full.

    From ``v[0] = theta / 2``::

        h[s] = v[s-1] + x[s]
        spike[s] = 1 if h[s] >= theta else 0
        v[s] = h[s] - theta spike[s]

    With constant input the number of spikes is the input over ``theta``, rounded: the start at
    half the threshold turns rounding down into rounding to the nearest (Bu et al. 2022,
    arXiv 2303.04347, for conversion).
    """

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        return v + x

    def integrate(self, x: Tensor) -> Tensor:
        """Spikes (0 or 1) of currents ``[time_steps * batch, ...]``, in the same shape."""
        currents = x.unflatten(0, (self.time_steps, -1))
        v = torch.zeros_like(currents[0], dtype=torch.float32) + self.theta / 2
        spikes = []
        for current in currents:
            h = self.charge(v, current)
            spike = self.surrogate(h - self.theta)
            v = h - spike * self.theta
            spikes.append(spike.to(x.dtype))
        return torch.cat(spikes)


class TernaryIF(SpikingNeuron):
    """Integrate-and-fire with spikes of both signs and soft reset (SpikingJelly's TernaryIFNode).

    From ``v[0] = 0``: ``h[s] = v[s-1] + x[s]``; a spike of 1 where ``h >= theta``, of -1 where
    ``-h >= theta``; ``v[s] = h[s] - theta spike[s]``.
    """

    signed: ClassVar[bool] = True

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        return v + x

    def integrate(self, x: Tensor) -> Tensor:
        """Spikes (-1, 0 or 1) of currents ``[time_steps * batch, ...]``, in the same shape."""
        currents = x.unflatten(0, (self.time_steps, -1))
        v = torch.zeros_like(currents[0], dtype=torch.float32)
        spikes = []
        for current in currents:
            h = self.charge(v, current)
            spike = self.surrogate(h - self.theta) - self.surrogate(-h - self.theta)
            v = h - spike * self.theta
            spikes.append(spike.to(x.dtype))
        return torch.cat(spikes)


class ParallelIF(SpikingNeuron):
    """The parallel spiking neuron: no reset, learned weights from every step to every step.

    ``h = W x`` over spiking time, ``spike[s] = 1 if h[s] >= theta b[s] else 0``, with ``W``
    ``[time_steps, time_steps]`` and ``b`` ``[time_steps]`` learned, one of each a layer (Fang et
    al. 2023, arXiv 2304.12760). ``W`` starts as the running sum over past steps divided by their
    number, and ``b`` at 1, so that training starts from a neuron that needs no later step. Its
    products read real numbers: the meter prices ``time_steps^2`` multiply-accumulates a neuron.
    """

    reads: ClassVar[str] = "real"

    def __init__(self, time_steps: int, threshold: float = 1.0, alpha: float = 2.0) -> None:
        super().__init__(time_steps, threshold, alpha)
        past = torch.ones(time_steps, time_steps).tril()
        self.mixing = nn.Parameter(past / past.sum(1, keepdim=True))
        self.levels = nn.Parameter(torch.ones(time_steps))

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        raise TypeError("a parallel neuron has no step-by-step charge")

    def integrate(self, x: Tensor) -> Tensor:
        """Spikes (0 or 1) of currents ``[time_steps * batch, ...]``, in the same shape."""
        steps = x.reshape(self.time_steps, -1)
        h = self.mixing.to(x.dtype) @ steps
        spikes = self.surrogate(h.float() - (self.theta * self.levels)[:, None])
        return spikes.to(x.dtype).view(x.shape)


class ThresholdStepsIF(SpikingNeuron):
    """The running mean of the current against a learned threshold a step; no reset.

    ``m[s] = (x[1] + ... + x[s]) / s``; ``spike[s] = 1 if m[s] >= theta b[s] else 0``. The
    thresholds start at ``b[s] = (2 s - 1) / time_steps``, so that the steps together are a
    thermometer code of the current between 0 and 2 ``theta``. Needs additions only: the division
    by ``s`` is one of the threshold.
    """

    def __init__(self, time_steps: int, threshold: float = 1.0, alpha: float = 2.0) -> None:
        super().__init__(time_steps, threshold, alpha)
        odd = 2 * torch.arange(1, time_steps + 1) - 1
        self.levels = nn.Parameter(odd / time_steps)

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        return v + x

    def integrate(self, x: Tensor) -> Tensor:
        """Spikes (0 or 1) of currents ``[time_steps * batch, ...]``, in the same shape."""
        currents = x.unflatten(0, (self.time_steps, -1))
        total = torch.zeros_like(currents[0], dtype=torch.float32)
        spikes = []
        for step, current in enumerate(currents, start=1):
            total = self.charge(total, current)
            spike = self.surrogate(total / step - self.theta * self.levels[step - 1])
            spikes.append(spike.to(x.dtype))
        return torch.cat(spikes)


class IntegerIF(SpikingNeuron):
    """A neuron that sends up to ``levels`` events at once, trained in a single pass.

    ``count = round(clip(x / theta, 0, levels))``, halves upwards, with a gradient that passes
    straight through where ``0 <= x / theta <= levels`` (I-LIF without a leak or a second step,
    arXiv 2407.20708; spike firing approximation, arXiv 2411.16061). A count of ``n`` stands for
    ``n`` binary spikes in ``levels`` steps: :func:`sddpm.unrolled.unroll` makes that network, whose
    output is the same, since a convolution of the sum is the sum of the convolutions.

    In a single pass this is an activation quantised to ``levels + 1`` values; what makes it a
    spiking neuron is that every product of it is unrolled into additions.

    Args:
        time_steps: 1; the events take the place of spiking steps.
        threshold: ``theta``, the current that one event stands for.
        levels: the most events, 1 to 255, so that a count fits a byte.
    """

    emits: ClassVar[str] = "counts"

    def __init__(self, time_steps: int = 1, threshold: float = 1.0, levels: int = 4) -> None:
        super().__init__(time_steps, threshold)
        if time_steps != 1:
            raise ValueError(
                f"time_steps={time_steps}: an integer neuron runs in one pass, use 1 and levels"
            )
        if not 1 <= levels <= 255:
            raise ValueError(f"levels={levels!r}: expected a whole number from 1 to 255")
        self.levels = levels

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        raise TypeError("an integer neuron has no membrane")

    def dynamics(self) -> Dynamics | None:
        if self.theta.numel() != 1:
            return None
        return Dynamics(3, self.levels, self._threshold(), self.surrogate.alpha)

    def _fused(self, x: Tensor) -> Tensor | None:
        return None if x.is_cuda else super()._fused(x)

    def integrate(self, x: Tensor) -> Tensor:
        """Counts 0, 1, ..., ``levels`` of currents ``x``, in the same shape and type."""
        counts: Tensor = _Count.apply(x, self.theta, self.levels)
        return counts

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class _Count(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, levels: int) -> Tensor:
        ctx.levels = levels
        ctx.save_for_backward(x, theta)
        scaled = (x.float() / theta).nan_to_num_(0.0, levels, 0.0)
        return scaled.clamp_(0, levels).add_(0.5).floor_().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, theta = ctx.saved_tensors
        scaled = x.float() / theta
        passed = grad * ((scaled >= 0) & (scaled <= ctx.levels)) / theta
        wanted = ctx.needs_input_grad[1]
        return passed.to(x.dtype), -(passed * scaled).sum() if wanted else None, None
