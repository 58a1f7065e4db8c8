"""Small modules whose operations are counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.energy.meter import Counts, Meter
from sddpm.layers import Reads, declare

GRADIENT_MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


class Call(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function: Callable[..., Tensor], reads: Reads | None = None) -> None:
        super().__init__()
        self.function = function
        if reads is not None:
            declare(self, reads=reads)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


class Fire(nn.Module):
    """A neuron without memory."""

    emits = "spikes"

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)


class Toy(nn.Module):
    """Stem once, two spiking steps folded into the batch, a spiking convolution, a real head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = declare(nn.Conv2d(1, 2, 3, padding=1), reads="real")
        self.fire = Fire()
        self.conv = declare(nn.Conv2d(2, 3, 3, padding=1, bias=False), reads="spikes")
        self.head = declare(nn.Linear(3, 5), reads="real")

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.fire(self.stem(x).repeat(2, 1, 1, 1))
        return self.head(self.conv(spikes).mean((2, 3)))


def count(module: nn.Module, *inputs: Tensor) -> Counts:
    with torch.no_grad(), Meter(module) as meter:
        module(*inputs)
    return meter.counts(images=1)


LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv1d(4, 3, 5, stride=3, padding=2, dilation=2),
    lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 3), dilation=(1, 2), groups=2),
    lambda: nn.Conv2d(4, 3, 3, padding="same", dilation=2),
    lambda: nn.Conv2d(4, 8, 1, stride=2, groups=4),
    lambda: nn.Conv3d(4, 2, (1, 3, 3), padding=(0, 1, 1)),
    lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, output_padding=1),
    lambda: nn.ConvTranspose2d(4, 6, 3, stride=(2, 3), padding=2, groups=2, dilation=2),
]
