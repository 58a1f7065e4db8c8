"""U-Nets on whose currents no arithmetic rounds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sddpm.unet import UNet, UNetConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "unet_small.pt"


def network(activation: str = "if", time_steps: int = 4, **shape: object) -> UNet:
    """A small network on whose currents no arithmetic rounds.

    Weights are multiples of 1/64 (int8 holds them too) and BatchNorms shift only, so that every
    implementation must decide every threshold alike: without that, a rounding error flips a
    spike now and then, in the engine as between two memory orders of the plain network.
    """
    torch.manual_seed(0)
    options = {"image_channels": 3, "channels": 16, "multipliers": (1, 2, 2), "blocks": 1}
    net = UNet(
        UNetConfig(**{**options, **shape}, activation=activation, time_steps=time_steps)  # type: ignore[arg-type]
    )
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 1e-30  # nothing beside a variance of 1; torch 2.11 refuses 0
                layer.bias.copy_(torch.randint(-8, 24, layer.bias.shape) / 64)
                layer.running_mean.copy_(torch.randint(-8, 8, layer.bias.shape) / 64)
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(torch.randint(-12, 13, layer.weight.shape) / 64)
                layer.weight[:, 0, 0, 0] = 127 / 64
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                # Real numbers are multiplied here: few bits, so that products stay exact.
                layer.weight.copy_((torch.rand(layer.weight.shape) < 4 / layer.in_channels) / 2)
    return net.eval()


def inputs(batch: int, net: UNet, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, net.config.image_channels, size, size, generator=generator)
    return (x * 16).round() / 16, torch.randint(0, 1000, (batch,), generator=generator)
