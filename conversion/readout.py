"""Read-out of a rate-coded network over spiking time.

A neuron with soft reset is a first-order sigma-delta modulator: with membranes ``u[s]``, its
spikes are its input plus ``u[s-1] - u[s]``. The plain mean over time has the error
``(u[0] - u[T]) / T`` of the last membrane, and the errors of the early steps. Weights ``w[s]`` have
the error ``sum (w[s+1] - w[s]) u[s]``. A smooth window that ends at 0 spreads it over many nearly
independent membranes, so it falls as ``T^-3/2`` without additional spikes. The window is a
polynomial of the time. Its four coefficients are fitted by least squares to the parent's last
features, so that it applies to every number of steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from conversion.schedule import alike
from sddpm.layers import declare
from sddpm.neurons import check_time_steps
from sddpm.unet import UNet

READOUTS = ("mean", "window")
PARABOLA = (1.5, 0.0, -1.5, 0.0)
"""``3/2 (1 - s^2)``: best for membranes of one variance that start at their mean; its mean is 1."""
OWN = ".coefficients"
"""Suffix of the names of tensors that a child's read-out has and its parent's has not."""


class WindowReadout(nn.Module):
    """The weighted mean over spiking time: the weight of a step is the integral over it of
    ``sum c[k] s^k``, with ``s`` from 0 at the start to 1 at the end. Its products are counted, as
    of real numbers."""

    coefficients: Tensor

    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.time_steps = check_time_steps(time_steps)
        self.register_buffer("coefficients", torch.tensor(PARABOLA))
        declare(self, reads="real")

    def powers(self) -> Tensor:
        """Integrals of ``s^k`` over each step, ``[4, time_steps]``."""
        edges = torch.arange(self.time_steps + 1, device=self.coefficients.device)
        s = edges / self.time_steps
        return torch.stack([(s ** (k + 1)).diff() / (k + 1) for k in range(len(PARABOLA))])

    def forward(self, x: Tensor) -> Tensor:
        """``[time_steps * batch, ...]`` to ``[batch, ...]``."""
        steps = x.unflatten(0, (self.time_steps, -1))
        weights = (self.coefficients[:, None] * self.powers()).sum(0).to(x.dtype)
        return (weights[None] @ steps.flatten(1)).reshape(steps.shape[1:])


@torch.no_grad()
def fit_window(parent: UNet, child: UNet, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Fit the window of ``child``, so that its last features are nearest to the parent's.

    Args:
        batches: (x_t, t).

    Raises:
        ValueError: ``child`` is read out by the plain mean.
    """
    readout = child.readout
    if not isinstance(readout, WindowReadout):
        raise ValueError("the network is read out by the plain mean: there is no window to fit")
    seen: dict[str, Tensor] = {}
    handles = [
        readout.register_forward_pre_hook(lambda _m, given: seen.update(child=given[0])),
        parent.head.register_forward_pre_hook(lambda _m, given: seen.update(parent=given[0])),
    ]
    size = len(PARABOLA)
    gram = torch.zeros(size, size, dtype=torch.float64, device=readout.coefficients.device)
    moment = gram.new_zeros(size)
    try:
        for noisy, t in batches:
            for own in alike(child, t):
                parent(noisy[own], t[own]), child(noisy[own], t[own])
                wanted = seen["parent"].flatten()
                # While the child ran its steps may have been others than now.
                now = WindowReadout(len(seen["child"]) // len(own)).to(wanted.device)
                features = now.powers() @ seen["child"].unflatten(0, (now.time_steps, -1)).flatten(
                    1
                )
                gram += (features @ features.T).double()
                moment += (features @ wanted).double()
    finally:
        for handle in handles:
            handle.remove()
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(size, dtype=gram.dtype, device=gram.device)
    readout.coefficients.copy_(torch.linalg.solve(gram + ridge, moment))
