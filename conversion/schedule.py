"""A number of spiking steps that depends on the diffusion step.

Early in sampling the images are noise and their noise is easy to predict; whether fewer spikes
do there, or more are needed, is a question of measurement. The network is one and the same: only
how long its neurons integrate changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sddpm.neurons import check_time_steps
from sddpm.unet import UNet, UNetConfig


def mean_time_steps(schedule: Sequence[int]) -> int:
    """The mean of ``schedule``, rounded half up: the ``time_steps`` that go with it.

    Raises:
        ValueError: it holds something else than whole numbers of at least 1.
    """
    if not schedule:
        raise ValueError("schedule=(): expected numbers of spiking steps, such as 8,16,32")
    for steps in schedule:
        check_time_steps(steps)
    return int(sum(schedule) / len(schedule) + 0.5)


class ScheduledUNet(UNet):
    """A rate-coded U-Net that integrates ``schedule[k]`` steps in the ``k``-th of equal parts of
    the denoising, from noise (the highest diffusion steps) to image.

    State and values at a constant schedule are the plain network's.
    """

    def __init__(self, config: UNetConfig, schedule: Sequence[int]) -> None:
        super().__init__(config)
        mean_time_steps(schedule)
        self.schedule = tuple(schedule)

    def parts(self, t: Tensor) -> Tensor:
        """Index from 0 of the part of the denoising that each diffusion step of ``t`` belongs
        to."""
        count, total = len(self.schedule), self.config.diffusion_steps
        return (count - 1) - torch.div(t * count, total, rounding_mode="floor")

    def steps_at(self, t: Tensor) -> int:
        """Spiking time steps at one diffusion step."""
        return self.schedule[int(self.parts(t))]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise as :meth:`UNet.forward`; images of one batch may be at different
        diffusion steps."""
        parts = self.parts(t)
        present = parts.unique().tolist()
        if len(present) == 1:
            with integrating(self, self.schedule[present[0]]):
                return super().forward(x, t)
        out = torch.empty_like(x)
        for part in present:
            chosen = (parts == part).nonzero().squeeze(1)
            with integrating(self, self.schedule[part]):
                out = out.index_copy(0, chosen, super().forward(x[chosen], t[chosen]))
        return out


def alike(net: UNet, t: Tensor) -> Iterator[Tensor]:
    """Indices of the images at diffusion steps ``t`` for which ``net`` integrates as long, a group
    at a time."""
    if not isinstance(net, ScheduledUNet):
        yield torch.arange(len(t), device=t.device)
        return
    parts = net.parts(t)
    for part in parts.unique():
        yield (parts == part).nonzero().squeeze(1)


@contextmanager
def integrating(net: nn.Module, time_steps: int) -> Iterator[None]:
    """Run ``net`` for ``time_steps`` spiking steps inside the block."""
    layers = [layer for layer in net.modules() if hasattr(layer, "time_steps")]
    before = [layer.time_steps for layer in layers]
    for layer in layers:
        layer.time_steps = time_steps  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer, steps in zip(layers, before, strict=True):
            layer.time_steps = steps
