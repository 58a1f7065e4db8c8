"""The published implementation's way of running the U-Net: what every ratio is relative to.

SpikingJelly's multi-step neurons on its torch backend, the image repeated over spiking time in
front of the first convolution, BatchNorm as it stands, plain memory order, float32, eager.
"""

from __future__ import annotations

import copy

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from sddpm.neurons import IF, add_per_image
from sddpm.unet import Downsample, ResidualBlock, UNet


class ReferenceNeuron(nn.Module):
    """SpikingJelly's IFNode with the published settings, over folded spiking time."""

    def __init__(self, time_steps: int, threshold: float) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.node = neuron.IFNode(
            v_threshold=threshold, surrogate_function=surrogate.ATan(), step_mode="m"
        )

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self.node)
        return self.node(x.unflatten(0, (self.time_steps, -1))).flatten(0, 1)


class ReferenceUNet(nn.Module):
    """The layers of ``net`` (integrate-and-fire), copied and run the published way."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
        self.time_steps = net.config.time_steps
        for layer in list(self.net.modules()):
            for name, child in layer.named_children():
                if isinstance(child, IF):
                    setattr(layer, name, ReferenceNeuron(child.time_steps, child.theta.item()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        net = self.net
        embedding = silu(net.time_embedding(t))
        stem = net.stem
        h = stem.bn1(stem.conv1(x.repeat(self.time_steps, 1, 1, 1)))
        h = stem.bn2(stem.conv2(stem.act(h)))
        stored = [h]
        for layer in net.down:
            if isinstance(layer, ResidualBlock):
                h = self._block(layer, h, embedding)
            else:
                h = layer.bn(layer.conv(layer.act(h)))
            stored.append(h)
        for layer in net.middle:
            assert isinstance(layer, ResidualBlock)
            h = self._block(layer, h, embedding)
        for layer in net.up:
            if isinstance(layer, ResidualBlock):
                h = self._block(layer, torch.cat([h, stored.pop()], dim=1), embedding)
            else:
                assert not isinstance(layer, Downsample)
                h = layer.bn(layer.conv(interpolate(layer.act(h), scale_factor=2.0)))
        return net.readout(net.head(h))

    @staticmethod
    def _block(block: ResidualBlock, x: Tensor, embedding: Tensor) -> Tensor:
        h = block.bn1(block.conv1(block.act1(x)))
        h = add_per_image(h, block.embed(embedding))
        h = block.bn2(block.conv2(block.act2(h)))
        return h + block.shortcut(x)
