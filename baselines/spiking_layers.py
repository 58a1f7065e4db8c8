"""Parts that several prior systems share: their LIF neuron, its surrogates, tdBN, the PSP filter.

Not a system. FSVAE and FSDDIM (Kamata et al.; Watanabe et al.) use one neuron and one norm with
different constants and different surrogates, copied in their code until they drifted; here they
stand once and every constant is a parameter. The leaky read-out without a threshold is
:class:`sddpm.neurons.MembraneReadout`; direct coding is :class:`sddpm.neurons.DirectEncoding`.

Spiking time is folded into the batch, ``[time_steps * batch, ...]`` with time as the slow axis,
and no module keeps state: a membrane is born inside ``forward``, or is a :class:`Membrane` of
the caller's that is carried from one call to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sddpm.neurons import check_time_steps

Surrogate = Callable[[Tensor], Tensor]
"""Surrogate gradient: membrane potential before firing -> derivative used for the spike."""


@dataclass(frozen=True)
class Rectangle:
    """``height`` where ``|u - centre| < half_width``, else 0."""

    centre: float
    half_width: float
    height: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return ((u - self.centre).abs() < self.half_width).to(u.dtype) * self.height


@dataclass(frozen=True)
class Triangle:
    """``height * max(0, 1 - |u - centre| / half_width)``."""

    centre: float
    half_width: float
    height: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        window = (u - self.centre).abs_().mul_(-1 / self.half_width).add_(1).clamp_(min=0)
        return window if self.height == 1 else window.mul_(self.height)


@dataclass
class Membrane:
    """Potentials after the last spike's reset, float32; the caller's, for one neuron layer."""

    v: Tensor | None = None
    """Membrane potential; None is the resting potential, 0."""


class LeakyNeuron(nn.Module):
    """The LIF of the FSVAE family: the input is not scaled and the reset is hard, to 0.

    Per spiking step ``s``, from ``v[-1] = 0``::

        u[s] = decay v[s-1] + x[s]
        spike[s] = 1 if u[s] > threshold else 0
        v[s] = u[s] (1 - spike[s])

    The membrane is kept in float32 whatever the input's precision.

    Args:
        time_steps: spiking time steps folded into the batch.
        decay: share of the potential that stays from one step to the next, in [0, 1].
        threshold: strict: a potential equal to it does not fire.
        surrogate: derivative of the spike.
        detach_reset: whether the gradient leaves out the factor ``1 - spike``'s dependence.
    """

    emits: ClassVar[str] = "spikes"

    def __init__(
        self,
        time_steps: int,
        *,
        decay: float,
        threshold: float,
        surrogate: Surrogate,
        detach_reset: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay!r}: expected a number in [0, 1]")
        self.time_steps = check_time_steps(time_steps)
        self.decay, self.threshold = decay, threshold
        self.surrogate, self.detach_reset = surrogate, detach_reset

    def forward(
        self, x: Tensor, time_steps: int | None = None, membrane: Membrane | None = None
    ) -> Tensor:
        """Spikes (0 or 1) of currents ``[time_steps * batch, ...]``, in the same shape.

        Args:
            time_steps: of this call, where it sees a part of the sequence; None: all.
            membrane: where the potentials come from and are left; no gradient passes through it.
        """
        currents = x.unflatten(0, (time_steps or self.time_steps, -1))
        start = None if membrane is None else membrane.v
        spikes, v = _Integrate.apply(currents, start, self)
        if membrane is not None:
            membrane.v = v
        return spikes.flatten(0, 1)

    def extra_repr(self) -> str:
        return f"time_steps={self.time_steps}, decay={self.decay}, threshold={self.threshold}"


class _Integrate(torch.autograd.Function):
    """The loop over spiking steps with its gradient written out: autograd's own would hold six
    tensors a step instead of one."""

    @staticmethod
    def forward(
        ctx: Any, currents: Tensor, start: Tensor | None, neuron: LeakyNeuron
    ) -> tuple[Tensor, Tensor]:
        potentials = torch.empty_like(currents, dtype=torch.float32)
        spikes = torch.empty_like(currents)
        before, v = start, torch.empty_like(potentials[0])
        for current, u, spike in zip(currents, potentials, spikes, strict=True):
            if before is None:
                u.copy_(current)
            else:
                torch.add(current, before, alpha=neuron.decay, out=u)
            torch.gt(u, neuron.threshold, out=spike)
            # Comparing into numbers is several times faster than masking.
            before = torch.le(u, neuron.threshold, out=v).mul_(u)
        ctx.save_for_backward(potentials)
        ctx.neuron = neuron
        ctx.mark_non_differentiable(v)
        return spikes, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (potentials,) = ctx.saved_tensors
        neuron: LeakyNeuron = ctx.neuron
        grad = torch.empty_like(gradients[0])
        later: Tensor | None = None  # gradient of the next step's potential
        kept = torch.empty_like(potentials[0])
        for s in range(len(potentials) - 1, -1, -1):
            u = potentials[s]
            window = neuron.surrogate(u)
            total = gradients[0][s].float() * window
            if later is not None:
                torch.le(u, neuron.threshold, out=kept)
                if not neuron.detach_reset:
                    kept.addcmul_(u, window, value=-1)
                total.addcmul_(later, kept, value=neuron.decay)
            grad[s] = later = total
        return grad, None, None


class TrackedNorm(nn.Module):
    """Weight, bias and running statistics of a batch norm, the latter of ``shape``.

    The running statistics are the mean of the first ``1 / momentum`` batches' and an
    exponential average from there. The papers' start at 0 and 1 and forget that only after some
    fifty updates, until which a spiking network evaluates to silence; later the two agree.
    """

    running_mean: Tensor
    running_var: Tensor
    updates: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(shape[-1]))
        self.bias = nn.Parameter(torch.zeros(shape[-1]))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.register_buffer("updates", torch.tensor(0, dtype=torch.long))

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor) -> None:
        """Take note of a batch's statistics, each of the running ones' shape."""
        self.updates += 1
        share = self.updates.float().reciprocal().clamp(min=self.momentum)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)


class TimeBatchNorm(TrackedNorm):
    """tdBN: batch norm over batch, space and spiking time, scaled to the threshold.

    ``y = weight alpha threshold (x - mean) / sqrt(var + eps) + bias`` per channel, with the
    biased variance; at evaluation the running statistics, whose variance is unbiased. Accepts
    ``[time_steps * batch, channels]`` and ``[time_steps * batch, channels, H, W]``.
    """

    def __init__(
        self,
        channels: int,
        *,
        threshold: float,
        alpha: float = 1.0,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__((channels,), momentum, eps)
        self.scale = alpha * threshold

    def forward(self, x: Tensor, track: bool = True) -> Tensor:
        """Normalise ``x``; in training, ``track`` says whether the running statistics are
        updated."""
        weight = self.weight * self.scale
        if not self.training:
            mean, var = self.running_mean, self.running_var
            return functional.batch_norm(x, mean, var, weight, self.bias, False, 0.0, self.eps)
        if not track:
            return functional.batch_norm(x, None, None, weight, self.bias, True, 0.0, self.eps)
        # At momentum 1 the operator leaves this batch's own statistics.
        mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        out = functional.batch_norm(x, mean, var, weight, self.bias, True, 1.0, self.eps)
        self.track(mean, var)
        return out

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, scale={self.scale}"


class SpikingBlock(nn.Module):
    """A layer with products, its tdBN and its neurons."""

    def __init__(self, layer: nn.Module, norm: TimeBatchNorm, neuron: LeakyNeuron) -> None:
        super().__init__()
        self.layer, self.norm, self.neuron = layer, norm, neuron

    def forward(
        self,
        x: Tensor,
        time_steps: int | None = None,
        membrane: Membrane | None = None,
        track: bool = True,
    ) -> Tensor:
        """Spikes of ``[time_steps * batch, ...]``; the options are those of its parts."""
        spikes: Tensor = self.neuron(self.norm(self.layer(x), track), time_steps, membrane)
        return spikes


def postsynaptic(spikes: Tensor) -> Tensor:
    """The PSP filter of spikes or of their probabilities, along dimension 0 (spiking time):
    ``p[s] = p[s-1] + (x[s] - p[s-1]) / 2`` from 0."""
    state, states = torch.zeros_like(spikes[0]), []
    for value in spikes:
        state = state + (value - state) / 2
        states.append(state)
    return torch.stack(states)
