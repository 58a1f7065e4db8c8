"""Activations of the U-Net family, and all other code for spiking time.

Spiking time is folded into the batch: a tensor holds ``[time_steps * batch, ...]`` with time
as the slow axis. An activation unfolds it, integrates from a fresh membrane and folds back,
so no state survives a forward pass and no reset call exists to forget. With
``time_steps = 1`` the same network is an ANN.

Every activation owns ``theta``, its threshold, under the one name, so that a checkpoint of
one activation loads strictly into a network with another.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn
from torch.autograd import Function

from sddpm.kernels import neurons as kernels
from sddpm.kernels.fused_neuron import fire, fire_cuda
from sddpm.kernels.neurons import Dynamics

MOST_TIME_STEPS = 1024
"""Spiking time steps that a network may have: memory and work grow with them."""
MOST_THRESHOLD = 1e6
"""Largest legal value, far above any current; a larger value is a damaged number."""


def check_threshold(value: float, name: str = "threshold") -> float:
    """Return a firing threshold, else raise ValueError, which begins with ``name``."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value <= MOST_THRESHOLD:
        raise ValueError(
            f"{name}={reprlib.repr(value)}: expected a number above 0, of at most "
            f"{MOST_THRESHOLD:,.0f}"
        )
    return float(value)


def check_time_steps(time_steps: int) -> int:
    """Return ``time_steps`` if it is a whole number from 1 to :data:`MOST_TIME_STEPS`, else raise
    ValueError."""
    if type(time_steps) is not int or not 1 <= time_steps <= MOST_TIME_STEPS:
        raise ValueError(
            f"time_steps={reprlib.repr(time_steps)}: expected a whole number from 1 to "
            f"{MOST_TIME_STEPS:,}"
        )
    return time_steps


class SpikingNeuron(nn.Module):
    """A layer of neurons with hard reset to 0, integrated from a fresh membrane.

    Per spiking step ``s``, from ``v[0] = 0``::

        h[s] = charge(v[s-1], x[s])
        spike[s] = 1 if h[s] >= theta else 0
        v[s] = h[s] (1 - spike[s])

    The gradient of the spike is SpikingJelly's ATan surrogate of ``h - theta``, and the
    reset is not detached. The membrane is kept in float32 whatever the input's precision.

    Args:
        time_steps: spiking time steps folded into the batch.
        threshold: initial value of ``theta``.
        alpha: steepness of the ATan surrogate.
    """

    emits: ClassVar[str] = "spikes"
    signed: ClassVar[bool] = False
    """Whether there are spikes below 0."""
    theta: Tensor
    event_cost: float
    """Amount that one event of one image adds to the loss (:mod:`sddpm.event_costs`)."""

    def __init__(self, time_steps: int, threshold: float = 1.0, alpha: float = 2.0) -> None:
        super().__init__()
        check_threshold(threshold)
        self.event_cost = 0.0
        self.time_steps = check_time_steps(time_steps)
        self.register_buffer("theta", torch.tensor(float(threshold)))
        self.surrogate = surrogate.ATan(alpha=alpha)
        self._read: tuple[tuple[int, int], float] | None = None

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        """The membrane after the input current ``x``, before firing."""
        raise NotImplementedError

    def leak(self) -> Tensor | None:
        """The learned factor of the charge, if there is one."""
        return None

    def leak_parameter(self) -> Tensor | None:
        """The parameter whose sigmoid is :meth:`leak`, if there is one."""
        return None

    def dynamics(self) -> Dynamics | None:
        """Parameters of the neuron for the compiled kernels; None if no kernel computes it, and the
        loop runs."""
        charge = _CHARGES.get(type(self).charge)
        if charge is None or self.theta.numel() != 1 or type(self.surrogate) is not surrogate.ATan:
            return None
        kind, leak = charge
        return Dynamics(kind, leak(self), self._threshold(), self.surrogate.alpha)

    def _threshold(self) -> float:
        """``theta`` as a number.

        Reading it waits for a GPU, and may not happen while a CUDA graph is captured: there it is
        read again in evaluation, or when torch says that it changed.
        """
        theta = self.theta
        if not theta.is_cuda or theta.is_inference():  # such tensors do not count their changes
            return theta.item()
        state = (id(theta), theta._version)
        fresh = not (self.training or torch.cuda.is_current_stream_capturing())
        if self._read is None or self._read[0] != state or fresh:
            self._read = (state, theta.item())
        return self._read[1]

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (0 or 1) of currents ``[time_steps * batch, ...]``, in the same shape."""
        fused = self._fused(x)
        return self.charged(self.integrate(x) if fused is None else fused)

    def charged(self, events: Tensor) -> Tensor:
        """``events``, unchanged, whose gradient is that of a loss with their cost in it."""
        if not (self.event_cost and self.training and torch.is_grad_enabled()):
            return events
        cost = self.event_cost * self.time_steps / len(events)
        charged: Tensor = _Charged.apply(events, cost, self.signed)
        return charged

    def _fused(self, x: Tensor) -> Tensor | None:
        """The forward pass on a kernel, or None where there is no kernel for it."""
        if x.is_cuda and not self.theta.requires_grad and not torch.compiler.is_compiling():
            known = self.dynamics()
            return fire_cuda(x, self.time_steps, known, self.leak_parameter()) if known else None
        if kernels.usable(x) and (dynamics := self.dynamics()):
            return fire(x, self.time_steps, dynamics, self.theta, self.leak())
        return None

    def integrate(self, x: Tensor) -> Tensor:
        """The definition: the forward pass as a loop over spiking steps on torch operators."""
        currents = x.unflatten(0, (self.time_steps, -1))
        v = torch.zeros_like(currents[0], dtype=torch.float32)
        spikes = []
        for current in currents:
            h = self.charge(v, current)
            spike = self.surrogate(h - self.theta)
            v = h * (1 - spike)
            spikes.append(spike.to(x.dtype))
        return torch.cat(spikes)

    def extra_repr(self) -> str:
        return f"time_steps={self.time_steps}"


class _Charged(Function):
    @staticmethod
    def forward(ctx: Any, events: Tensor, cost: float, signed: bool) -> Tensor:
        ctx.cost = cost
        ctx.save_for_backward(*([events] if signed else []))
        return events.view_as(events)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.saved_tensors:  # an event below 0 costs as much
            return grad + ctx.cost * ctx.saved_tensors[0].sign().to(grad.dtype), None, None
        return grad + ctx.cost, None, None


class IF(SpikingNeuron):
    """Integrate-and-fire: ``h = v + x``, the neuron SDDPM is trained with."""

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        return v + x


class LIF(SpikingNeuron):
    """Leaky integrate-and-fire: ``h = v + (x - v) / tau`` (SpikingJelly's LIFNode)."""

    def __init__(
        self, time_steps: int, threshold: float = 1.0, alpha: float = 2.0, tau: float = 2.0
    ) -> None:
        super().__init__(time_steps, threshold, alpha)
        if not tau > 1:
            raise ValueError(f"tau={tau!r}: expected a number above 1")
        self.tau = tau

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        return v + (x - v) / self.tau


class ParametricLIF(SpikingNeuron):
    """LIF with one learned leak for each layer: ``h = v + (x - v) sigmoid(w)``.

    ``w`` starts at 0, which is ``tau = 2`` (SpikingJelly's ParametricLIFNode).
    """

    def __init__(self, time_steps: int, threshold: float = 1.0, alpha: float = 2.0) -> None:
        super().__init__(time_steps, threshold, alpha)
        self.w = nn.Parameter(torch.tensor(0.0))

    def leak(self) -> Tensor:
        return self.w.sigmoid()

    def leak_parameter(self) -> Tensor:
        return self.w

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        return v + (x - v) * self.leak()


class RateIF(SpikingNeuron):
    """Integrate-and-fire for converted networks: the mean of its spikes is an ANN's activation.

    From ``u[0] = theta / 2``, per spiking step: ``u += x``; a spike of value ``theta`` where
    ``u >= theta``, which takes ``theta`` off the membrane and leaves the rest (soft reset). With
    constant input ``x`` the mean over ``T`` steps is exactly the quantised ReLU of ``x`` at
    ``levels = T``; with uneven input, charge that comes late or is taken back adds an error.
    """

    code: ClassVar[str] = "rate"

    def charge(self, v: Tensor, x: Tensor) -> Tensor:
        return v + x

    def channel_scale(self) -> Tensor | None:
        """The factor of each channel's threshold, ``[channels, 1, 1]``; None where all channels
        have the threshold ``theta``."""
        return None

    def _fused(self, x: Tensor) -> Tensor | None:
        learns = torch.is_grad_enabled() and (x.requires_grad or self.theta.requires_grad)
        if learns or self.theta.numel() != 1 or not kernels.usable(x):
            return None
        balance = self.channel_scale()
        return kernels.fire_rate(
            x,
            self.time_steps,
            self._threshold(),
            signed=self.signed,
            balance=None if balance is None else balance.float().flatten(),
        )

    def integrate(self, x: Tensor) -> Tensor:
        """Spikes of ``[time_steps * batch, ...]``: 0, ``theta``; where signed also ``-theta``."""
        currents = x.unflatten(0, (self.time_steps, -1))
        u = torch.zeros_like(currents[0], dtype=torch.float32) + self.theta / 2
        emitted = torch.zeros_like(u)
        spikes = []
        for current in currents:
            u = self.charge(u, current)
            # In units of theta, so that the surrogate is as wide as the threshold is high.
            spike = self.surrogate((u - self.theta) / self.theta)
            u = u - spike * self.theta
            if self.signed:
                back = self.surrogate(-u / self.theta) * (u < 0) * (emitted > 0)
                u = u + back * self.theta
                spike = spike - back
                emitted = emitted + spike.detach()
            spikes.append((spike * self.theta).to(x.dtype))
        return torch.cat(spikes)


class SignedRateIF(RateIF):
    """:class:`RateIF` that takes spikes back: where ``u < 0`` after earlier spikes it emits one
    of ``-theta``, so that charge may arrive in any order (Fast-SNN, arXiv 2305.19868).

    The code of arXiv 2408.16467 takes back at ``u <= -0.001``: a membrane between that and 0
    keeps its spike there and gives it back here, whatever the unit of ``theta``."""

    signed = True


_CHARGES: dict[Callable[..., Tensor], tuple[int, Callable[[Any], float]]] = {
    IF.charge: (0, lambda neuron: 0.0),
    LIF.charge: (1, lambda neuron: neuron.tau),
    ParametricLIF.charge: (2, lambda neuron: neuron.leak().item()),
}
"""Charges that the kernels compute: their code there, and the leak of a neuron."""


class ReLU(nn.Module):
    """Rectifier of the ANN twin. ``theta`` is unused here: conversion calibrates it."""

    theta: Tensor

    def __init__(self, time_steps: int = 1, threshold: float = 1.0) -> None:
        super().__init__()
        _require_one_step(time_steps, "relu")
        self.register_buffer("theta", torch.tensor(float(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x)


class QuantReLU(nn.Module):
    """Rectifier clipped at a learned ``theta`` and rounded to ``levels`` equal steps.

    ``y = theta / levels * floor(levels * clamp(x / theta, 0, 1) + 1/2)``, the value that an
    IF neuron started at ``theta / 2`` reaches in ``levels`` steps of constant input. The
    rounding passes gradients straight through. ``floor(x + 1/2)``, not ``torch.round``: the
    latter rounds ties to even and misses by a whole level.
    """

    def __init__(self, time_steps: int = 1, threshold: float = 1.0, levels: int = 4) -> None:
        super().__init__()
        _require_one_step(time_steps, "quant_relu")
        if levels < 1:
            raise ValueError(f"levels={levels!r}: expected at least 1")
        self.levels = levels
        self.theta = nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        scaled = (x / self.theta).clamp(0, 1) * self.levels
        rounded = scaled + (torch.floor(scaled + 0.5) - scaled).detach()
        return rounded * (self.theta / self.levels)


def _require_one_step(time_steps: int, name: str) -> None:
    if time_steps != 1:
        raise ValueError(f"activation {name!r} has no spiking time: time_steps={time_steps}, use 1")


class DirectEncoding(nn.Module):
    """Repeat a real tensor ``[batch, ...]`` at every step: ``[time_steps * batch, ...]``."""

    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.time_steps = check_time_steps(time_steps)

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(self.time_steps, *(1 for _ in x.shape[1:]))


class MembraneReadout(nn.Module):
    """Membrane of a leaky neuron that never fires: ``sum over s of decay^(T-1-s) x[s]``."""

    weights: Tensor

    def __init__(self, time_steps: int, decay: float = 0.8) -> None:
        super().__init__()
        self.decay = decay
        powers = torch.arange(check_time_steps(time_steps) - 1, -1, -1, dtype=torch.float32)
        self.register_buffer("weights", decay**powers, persistent=False)

    @torch.no_grad()
    def keep_sum_of(self, time_steps: int) -> None:
        """Scale the weights to the sum that they have at ``time_steps``. With constant input the
        output then equals that of a read-out over ``time_steps``."""
        wanted, own = (
            sum(self.decay**s for s in range(n)) for n in (time_steps, len(self.weights))
        )
        powers = torch.arange(len(self.weights) - 1, -1, -1, dtype=torch.float32)
        self.weights.copy_(self.decay**powers * (wanted / own))

    def forward(self, x: Tensor) -> Tensor:
        """Read ``[time_steps * batch, ...]`` out as ``[batch, ...]``."""
        steps = x.unflatten(0, (len(self.weights), -1))
        weights = self.weights.to(x.dtype).view(-1, *(1 for _ in x.shape))
        return (steps * weights).sum(0)


def trained_as(net: nn.Module, trained: nn.Module) -> None:
    """Let the membrane read-outs of ``net`` keep the sum of those of ``trained``, the same network
    with the time steps that it was trained with.

    Their plain sum grows with the time steps (2.95 for 4, 4.16 for 8), and everything that the
    network puts out with it. A network of integer neurons reads one pass out, whatever its most
    events are.
    """
    for module, known in zip(net.modules(), trained.modules(), strict=True):
        if isinstance(module, MembraneReadout) and isinstance(known, MembraneReadout):
            module.keep_sum_of(len(known.weights))


class MeanReadout(nn.Module):
    """The mean over spiking time."""

    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.time_steps = check_time_steps(time_steps)

    def forward(self, x: Tensor) -> Tensor:
        """Read ``[time_steps * batch, ...]`` out as ``[batch, ...]``."""
        return x.unflatten(0, (self.time_steps, -1)).mean(0)


def add_per_image(x: Tensor, per_image: Tensor) -> Tensor:
    """Add one vector per image ``[batch, channels]`` to ``[time_steps * batch, channels, H, W]``,
    at every spiking step and pixel."""
    steps = x.unflatten(0, (-1, len(per_image)))
    return (steps + per_image[:, :, None, None]).flatten(0, 1)
