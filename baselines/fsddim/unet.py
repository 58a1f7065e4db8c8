"""FSDDIM's spiking U-Net: currents in, currents out. Not a system.

Spiking time is folded into the batch, ``[time_steps * batch, ...]``. Blocks emit spikes; the
convolutions that change the size, and the first one, emit real numbers. Where a convolution is
fed both, concatenated, it is kept as two whose results are added, so that each product is
counted for what it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from baselines.spiking_layers import LeakyNeuron, Triangle
from sddpm.fused_norm import normalise
from sddpm.kernels.winograd import convolve
from sddpm.layers import Reads, declare
from sddpm.neurons import DirectEncoding, check_time_steps
from sddpm.upsampling import upsample_and_convolve

DECAY, THRESHOLD = 0.8, 1.0
SURROGATE = Triangle(centre=1.0, half_width=0.5)


@dataclass(frozen=True)
class Shape:
    """Sizes of the U-Net."""

    image_channels: int
    """Channels of the image: 1 or 3."""
    channels: int
    """Base width; even."""
    multipliers: tuple[int, ...]
    """Output width of each level, in units of ``channels``; each level but the last halves the
    size. The input width of a level is the output width of the level before."""
    blocks: int
    """Residual blocks a level, on the way down and on the way up."""
    time_steps: int
    """Spiking time steps folded into the batch."""
    diffusion_steps: int
    """Rows of the time embedding's table."""


def neuron(time_steps: int) -> LeakyNeuron:
    """FSDDIM's LIF; its reset is not differentiated."""
    return LeakyNeuron(
        time_steps, decay=DECAY, threshold=THRESHOLD, surrogate=SURROGATE, detach_reset=True
    )


class SplitConv2d(nn.Module):
    """One convolution of concatenated parts, as a sum of one over the parts that hold real
    numbers and one over those that hold spikes; size-preserving, initialised as one.

    Args:
        parts: (channels, what they hold) of each part.
        outputs: channels.
        kernel: 1 or 3.
    """

    def __init__(self, parts: Sequence[tuple[int, Reads]], outputs: int, kernel: int) -> None:
        super().__init__()
        self.kinds = tuple(reads for _, reads in parts)
        whole = nn.Conv2d(sum(width for width, _ in parts), outputs, kernel, 1, kernel // 2)
        owner = [reads for width, reads in parts for _ in range(width)]
        self.layers = nn.ModuleDict()
        for kind in sorted(set(self.kinds)):
            mine = [n for n, reads in enumerate(owner) if reads == kind]
            first = not self.layers
            part = nn.Conv2d(len(mine), outputs, kernel, 1, kernel // 2, bias=first)
            part.weight = nn.Parameter(whole.weight.detach()[:, mine])
            if first:
                part.bias = whole.bias
            self.layers[kind] = declare(part, reads=kind)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """``[batch, outputs, H, W]`` of one tensor ``[batch, channels, H, W]`` a part."""
        outputs = []
        for kind, layer in self.layers.items():
            mine = [x for x, reads in zip(parts, self.kinds, strict=True) if reads == kind]
            outputs.append(convolve(layer, mine[0] if len(mine) == 1 else torch.cat(mine, 1)))
        return outputs[0] if len(outputs) == 1 else outputs[0] + outputs[1]


class PoolingConv2d(nn.Conv2d):
    """2x2 average pooling and a 1x1 convolution of spikes, as one 2x2 convolution of stride 2
    with equal taps: the same numbers, and every product is selected by a spike."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)
        declare(self, reads="spikes")

    def forward(self, input: Tensor) -> Tensor:
        return conv2d(input, self.weight.expand(-1, -1, 2, 2) / 4, self.bias, stride=2)


class TimeEmbedding(nn.Module):
    """The diffusion step as spikes ``[time_steps * batch, 4 channels]``.

    Row ``t`` of the table alternates sin and cos of ``t exp(-i ln(10000) / (channels / 2 - 1))``,
    ``i`` in 0..channels/2-1. Every block fires on the same result, so it fires once, here.
    """

    table: Tensor

    def __init__(self, channels: int, diffusion_steps: int, time_steps: int) -> None:
        super().__init__()
        if channels < 4 or channels % 2:
            raise ValueError(f"channels={channels}: expected an even number of at least 4")
        half = channels // 2
        frequencies = torch.exp(
            -torch.arange(half, dtype=torch.float32) * math.log(10000) / (half - 1)
        )
        angles = torch.arange(diffusion_steps, dtype=torch.float32)[:, None] * frequencies
        table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        self.register_buffer("table", table)
        self.linear1 = declare(nn.Linear(channels, 4 * channels), reads="real")
        self.linear2 = declare(nn.Linear(4 * channels, 4 * channels), reads="spikes")
        self.encode = DirectEncoding(time_steps)
        self.neuron1, self.neuron2 = neuron(time_steps), neuron(time_steps)

    def forward(self, t: Tensor) -> Tensor:
        """Spikes of integer diffusion steps ``[batch]``."""
        # The rows do not change over spiking time, so the first layer runs once.
        hidden: Tensor = self.neuron1(self.encode(self.linear1(self.table[t])))
        spikes: Tensor = self.neuron2(self.linear2(hidden))
        return spikes


class ResidualBlock(nn.Module):
    """``LIF(BN(conv(LIF(BN(conv(x) + linear(embedding))))) + BN(shortcut(x)))``; the shortcut is
    the identity where the channels stay, else a 1x1 convolution.

    Args:
        parts: (channels, what they hold) of each input.
        outputs: channels.
        shape: of the network.
    """

    def __init__(self, parts: Sequence[tuple[int, Reads]], outputs: int, shape: Shape) -> None:
        super().__init__()
        self.conv1 = SplitConv2d(parts, outputs, 3)
        self.embed = declare(nn.Linear(4 * shape.channels, outputs), reads="spikes")
        self.bn1 = nn.BatchNorm2d(outputs)
        self.neuron1 = neuron(shape.time_steps)
        self.conv2 = declare(nn.Conv2d(outputs, outputs, 3, 1, 1), reads="spikes")
        self.bn2 = nn.BatchNorm2d(outputs)
        same = [width for width, _ in parts] == [outputs]
        self.shortcut = None if same else SplitConv2d(parts, outputs, 1)
        self.shortcut_bn = nn.BatchNorm2d(outputs)
        self.neuron2 = neuron(shape.time_steps)

    def forward(self, parts: Sequence[Tensor], embedding: Tensor) -> Tensor:
        """Spikes of the parts, at the embedding's spikes ``[time_steps * batch, width]``."""
        h = self.conv1(parts) + self.embed(embedding)[:, :, None, None]
        h = self.neuron1(normalise(h, self.bn1))
        skip = parts[0] if self.shortcut is None else self.shortcut(parts)
        skip = normalise(skip, self.shortcut_bn)
        spikes: Tensor = self.neuron2(normalise(convolve(self.conv2, h), self.bn2, skip))
        return spikes


class Firing(nn.Module):
    """3x3 convolution of spikes, BN, LIF: the last layers of the deepest and of the highest
    level."""

    def __init__(self, inputs: int, outputs: int, time_steps: int) -> None:
        super().__init__()
        self.conv = declare(nn.Conv2d(inputs, outputs, 3, 1, 1), reads="spikes")
        self.bn = nn.BatchNorm2d(outputs)
        self.neuron = neuron(time_steps)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.neuron(normalise(convolve(self.conv, x), self.bn))
        return spikes


class Doubling(nn.Module):
    """Nearest-neighbour doubling of spikes and a 3x3 convolution, without norm or neuron."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = declare(nn.Conv2d(inputs, outputs, 3, 1, 1), reads="spikes")

    def forward(self, x: Tensor) -> Tensor:
        return upsample_and_convolve(x, self.conv)


class Level(nn.Module):
    """Blocks of one level, down or up, and the layers between it and the next level."""

    def __init__(self, blocks: Sequence[ResidualBlock], leave: nn.Module) -> None:
        super().__init__()
        self.blocks, self.leave = nn.ModuleList(blocks), leave

    def forward(
        self, h: Tensor, embedding: Tensor, skips: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Output of the level, and the spikes of its blocks.

        Args:
            h: what it is handed.
            embedding: the time embedding's spikes.
            skips: on the way up, the spikes of the same level's blocks on the way down.
        """
        spikes: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            parts = [h, skips[-1 - number]] if skips else [h]
            h = block(parts, embedding)
            spikes.append(h)
        return self.leave(h), spikes


class SpikingUNet(nn.Module):
    """Synaptic currents of a diffusion step from those of the noisy images.

    Raises:
        ValueError: the sizes are not ones that can be built.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        _check(shape)
        base, steps, blocks = shape.channels, shape.time_steps, range(shape.blocks)
        widths = [base, *(base * multiplier for multiplier in shape.multipliers)]
        self.time_embedding = TimeEmbedding(base, shape.diffusion_steps, steps)
        self.stem = declare(nn.Conv2d(shape.image_channels, base, 3, 1, 1), reads="real")

        def block(outputs: int, *parts: tuple[int, Reads]) -> ResidualBlock:
            return ResidualBlock(parts, outputs, shape)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        deepest = len(widths) - 2
        for level, (width, out) in enumerate(pairwise(widths)):
            # What enters a level is the output of a convolution, after that it is spikes.
            inside = [block(width, (width, "spikes" if n else "real")) for n in blocks]
            last = level == deepest
            down = Firing(width, out, steps) if last else PoolingConv2d(width, out)
            self.down.append(Level(inside, down))
        deep = widths[-1]
        self.middle = nn.ModuleList(block(deep, (deep, "spikes")) for _ in blocks)
        for level, (width, out) in reversed(list(enumerate(pairwise(widths)))):
            spiking = [level == deepest or n > 0 for n in blocks]
            inside = [
                block(out, (out, "spikes" if s else "real"), (width, "spikes")) for s in spiking
            ]
            up = Doubling(out, width) if level else Firing(out, width, steps)
            self.up.append(Level(inside, up))

        self.final = block(base, (base, "spikes"), (base, "real"))
        highest: list[tuple[int, Reads]] = [(base, "spikes") for _ in range(2 * shape.blocks)]
        parts: list[tuple[int, Reads]] = [(base, "spikes"), (base, "real"), *highest]
        self.out = SplitConv2d(parts, shape.image_channels, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Currents ``[time_steps * batch, C, H, W]`` of currents of that shape, at diffusion
        steps ``t`` (``[batch]``, integers). The last convolution reads the final block, the
        first convolution, and the highest level's blocks of both ways."""
        embedding = self.time_embedding(t)
        stem = h = self.stem(x)
        stored: list[list[Tensor]] = []
        for level in self.down:
            h, spikes = level(h, embedding)
            stored.append(spikes)
        for block in self.middle:
            h = block([h], embedding)
        for level, skips in zip(self.up, reversed(stored), strict=True):
            h, spikes = level(h, embedding, skips)
        h = self.final([h, stem], embedding)
        currents: Tensor = self.out([h, stem, *stored[0], *spikes])
        return currents


def _check(shape: Shape) -> None:
    check_time_steps(shape.time_steps)
    if not shape.multipliers or min(shape.multipliers) < 1:
        raise ValueError(f"multipliers={shape.multipliers}: expected whole numbers of at least 1")
    if shape.blocks < 1:
        raise ValueError(f"blocks={shape.blocks}: expected at least 1")


def check_image_size(shape: Shape, size: int) -> None:
    """Raise ValueError if images of ``size`` pixels cannot be halved once a level."""
    halvings = len(shape.multipliers) - 1
    if size % 2**halvings:
        raise ValueError(
            f"image size {size} cannot be halved {halvings} times "
            f"(multipliers={shape.multipliers}): use a multiple of {2**halvings}"
        )
