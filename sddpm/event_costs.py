"""Training that pays for events: synaptic operations as a part of the loss.

An event of a neuron causes an accumulate for each weight behind it, so a network that sends fewer
events where more weights read them needs less energy. Sorbaro et al. 2020 (arXiv 1912.01268) add
the synaptic operations to the loss. Here they are a share, so that one weight suits networks of
all sizes::

    loss + weight * accumulates / products

``accumulates`` are those of an image, over all spiking steps; ``products`` are the multiply-
accumulates that the same layers would need for real numbers, once. The second summand has no value
in the network: each neuron adds its derivative to the gradient of its events, which CUDA graphs and
the fused kernels replay as any other gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from sddpm.neurons import SpikingNeuron
from sddpm.protocol import ImageShape
from sddpm.unet import Downsample, ResidualBlock, Stem, UNet, Upsample


def charge_for_events(net: UNet, shape: ImageShape, weight: float) -> None:
    """Let the training of ``net`` on images of ``shape`` pay ``weight`` for every accumulate of a
    product.

    Args:
        net: a spiking network without attention; its neurons' ``event_cost`` is set.
        weight: at least 0, which sets no cost.

    Raises:
        ValueError: the weight is below 0.
    """
    if not weight >= 0:
        raise ValueError(f"event_weight={weight}: expected 0 or a number above it")
    if not weight:
        return
    neurons = _products(net, shape)
    total = sum(products for _, _, products in neurons)
    for neuron, size, products in neurons:
        # At a border and behind a stride an event has fewer products: the mean over the layer.
        neuron.event_cost = weight * products / (total * size)


def _products(net: UNet, shape: ImageShape) -> list[tuple[SpikingNeuron, int, int]]:
    """Every layer of neurons, its size, and the products of the convolution that reads it, of one
    image and one spiking step."""
    probe = deepcopy(net).to("meta").eval()
    sizes: dict[nn.Module, int] = {}

    def keep(module: nn.Module, given: Any, output: Tensor) -> None:
        taps = 1
        if isinstance(module, nn.Conv2d):
            taps = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        sizes[module] = output[0].numel() * taps

    for pair in _readers(probe):
        for module in pair:
            module.register_forward_hook(keep)
    with torch.no_grad():
        image = torch.zeros(1, shape.channels, shape.size, shape.size, device="meta")
        probe(image, torch.zeros(1, dtype=torch.long, device="meta"))
    found = []
    for (neuron, _), probed in zip(_readers(net), _readers(probe), strict=True):
        assert isinstance(neuron, SpikingNeuron)
        found.append((neuron, sizes[probed[0]], sizes[probed[1]]))
    return found


def _readers(net: UNet) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Every layer of neurons, with the convolution that reads its events."""
    for part in net.modules():
        match part:
            case ResidualBlock():
                yield part.act1, part.conv1
                yield part.act2, part.conv2
            case Stem():
                yield part.act, part.conv2
            case Downsample() | Upsample():
                yield part.act, part.conv
