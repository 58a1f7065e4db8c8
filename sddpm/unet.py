"""The U-Net of all systems of the family: spiking, ReLU or quantised ReLU, by the activation in its
configuration.

Paper: Cao et al., "Spiking Denoising Diffusion Probabilistic Models", arXiv 2306.17046.
A block is pre-spike: activation, convolution, BatchNorm, add the time embedding; the first
three again; add the shortcut of the block's real-valued input. BatchNorm, not GroupNorm: at
inference it is a fixed affine map, so the mean over spiking steps stays an ANN's value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from sddpm.activations import is_rate_coded, is_spiking, make_activation, reads_after
from sddpm.attention import SpikingAttention
from sddpm.diffusion import DiffusionConfig, NoiseNetwork, NoiseOutput
from sddpm.fused_norm import normalise, normalise_and_fire
from sddpm.kernels.winograd import convolve
from sddpm.layers import Reads, TimeEmbedding, conv1x1, conv3x3, each_step, linear
from sddpm.neurons import (
    DirectEncoding,
    MeanReadout,
    MembraneReadout,
)
from sddpm.protocol import ImageShape
from sddpm.split_norm import SplitBatchNorm2d
from sddpm.temporal import TemporalConv2d
from sddpm.upsampling import upsample_and_convolve
from sddpm.widths import FreshUNet, UNetWidths, check_widths

Initialisation = Literal["xavier", "published"]
"""Initial weights. ``xavier``: Xavier uniform weights and biases of 0 in every layer.
``published``: the same except in the stem's second convolution and the temporal head's. The
published SDDPM code leaves these two at torch's default, with about half the standard deviation,
and with biases."""


@dataclass(frozen=True)
class UNetConfig(FreshUNet):
    """Shape of the U-Net. The defaults are the paper's CIFAR-10 configuration."""

    image_channels: int = 3
    """Channels of the image: 1 or 3."""
    activation: str = "if"
    """One of :data:`sddpm.activations.ACTIVATIONS`."""
    time_steps: int = 4
    """Spiking time steps; 1 for the ANN activations."""
    threshold: float = 1.0
    """Firing threshold, or start value of the quantised ReLU's clip."""
    temporal_scaling: bool = False
    """TSM: scale every convolution's current by a learned scalar per spiking step."""
    levels: int = 4
    """Values above 0 of the quantised ReLU and of the integer neuron."""
    stem_shortcut: bool = False
    """Add a normalised 3x3 convolution of the image itself to the stem's output: exact detail then
    reaches the head through the stored skips, for 27 products (colour) a pixel and channel."""
    stem_gain: bool = False
    """Multiply the stem's shortcut by a learned factor a channel that depends on the diffusion
    step, ``exp(linear(embedding))``, 1 at the start. At low noise the noise is a hundredth of the
    image: the factor lifts it above the neurons' thresholds."""
    mean_shortcuts: bool = False
    """Let the blocks' 1x1 shortcuts read the mean over spiking time, once, instead of every step.
    They are linear, so the mean of their output is the same."""
    initialisation: Initialisation = "xavier"
    """Initial weights; the head's convolution has a gain of 1e-5 in either."""
    norm_images: int = 0
    """Images that share BatchNorm's statistics in training; 0: the whole batch."""
    attention_heads: int = 0
    """Heads of a spiking self-attention between the middle's two blocks; 0: none."""


@dataclass(frozen=True)
class Recipe:
    """Rules by which the blocks make their layers."""

    config: UNetConfig

    @property
    def reads(self) -> Reads:
        """Kind of input, spikes or real numbers, that layers after an activation read."""
        return reads_after(self.config.activation)

    def activation(self) -> nn.Module:
        config = self.config
        return make_activation(
            config.activation, config.time_steps, config.threshold, config.levels
        )

    @property
    def all_xavier(self) -> bool:
        """Whether the two layers that published code forgets start as all others do."""
        return self.config.initialisation == "xavier"

    def norm(self, channels: int, constant: bool = False) -> nn.BatchNorm2d:
        """Batch norm of ``channels`` channels. With ``constant``, its input is the same at all
        spiking steps and is given once."""
        config = self.config
        if not config.norm_images:
            return nn.BatchNorm2d(channels)
        steps = 1 if constant else config.time_steps
        return SplitBatchNorm2d(channels, images=config.norm_images, time_steps=steps)

    def conv3x3(self, inputs: int, outputs: int, stride: int = 1, xavier: bool = True) -> nn.Conv2d:
        """A convolution that reads an activation."""
        options = {"reads": self.reads, "stride": stride, "xavier": xavier, **self._tsm()}
        return conv3x3(inputs, outputs, **options)

    def conv1x1(self, inputs: int, outputs: int) -> nn.Conv2d:
        """A 1x1 convolution that reads an activation."""
        return conv1x1(inputs, outputs, reads=self.reads, **self._tsm())

    def conv3x3_real(self, inputs: int, outputs: int, constant: bool = False) -> nn.Conv2d:
        """A convolution that reads real numbers; ``constant`` ones are given once for all steps."""
        return conv3x3(inputs, outputs, reads="real", **self._tsm(constant))

    def shortcut(self, inputs: int, outputs: int) -> nn.Module:
        """The identity where the channels stay, else a 1x1 convolution of real numbers."""
        if inputs == outputs:
            return nn.Identity()
        once = self.config.mean_shortcuts and self.config.time_steps > 1
        projected = conv1x1(inputs, outputs, reads="real", **self._tsm(constant=once))
        if not once:
            return projected
        steps = self.config.time_steps
        # TSM's convolution of a constant input gives every step by itself.
        repeated = nn.Identity() if self.config.temporal_scaling else DirectEncoding(steps)
        return nn.Sequential(MeanReadout(steps), projected, repeated)

    def _tsm(self, constant: bool = False) -> dict[str, Any]:
        if not self.config.temporal_scaling:
            return {}
        make = partial(TemporalConv2d, time_steps=self.config.time_steps, constant=constant)
        return {"make": make}


class Stem(nn.Module):
    """Image to features: conv, BN, activation, conv, BN.

    The first convolution sees the same image at every spiking step, so it runs once and its
    result is repeated: the direct encoding of the paper at 1/T of the cost.
    """

    def __init__(self, image_channels: int, channels: int, embedding: int, recipe: Recipe) -> None:
        super().__init__()
        self.conv1 = recipe.conv3x3_real(image_channels, channels, constant=True)
        # TSM's first convolution differs from step to step, so it encodes by itself.
        tsm = recipe.config.temporal_scaling
        self.encode = nn.Identity() if tsm else DirectEncoding(recipe.config.time_steps)
        self.bn1 = recipe.norm(channels)
        self.act = recipe.activation()
        self.conv2 = recipe.conv3x3(channels, channels, xavier=recipe.all_xavier)
        self.bn2 = recipe.norm(channels)
        self.shortcut: nn.Sequential | None = None
        self.gain: nn.Linear | None = None
        if recipe.config.stem_shortcut:
            self.shortcut = nn.Sequential(
                conv3x3(image_channels, channels, reads="real"),
                recipe.norm(channels, constant=True),
            )
            self.repeat = DirectEncoding(recipe.config.time_steps)
        if recipe.config.stem_gain:
            self.gain = linear(embedding, channels, reads="real")
            nn.init.zeros_(self.gain.weight)

    def detail(self, x: Tensor, embedding: Tensor) -> Tensor | None:
        """The shortcut's ``[batch, channels, H, W]`` of images ``x``, once for all spiking steps;
        None where there is no shortcut."""
        if self.shortcut is None:
            return None
        detail: Tensor = self.shortcut(x)
        if self.gain is not None:
            detail = detail * self.gain(embedding).exp()[:, :, None, None]
        return detail

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x``: ``[batch, image_channels, H, W]``; ``embedding``: ``[batch, 4 * channels]``."""
        # Convolutions and the fused kernels are fastest on channels-last memory, and what comes
        # out of them stays in the order of what goes in.
        h = self.encode(self.conv1(x)).contiguous(memory_format=torch.channels_last)
        h = normalise_and_fire(h, self.bn1, self.act)
        detail = self.detail(x, embedding)
        if detail is not None:
            detail = self.repeat(detail).contiguous(memory_format=torch.channels_last)
        return normalise(convolve(self.conv2, h), self.bn2, detail)


class ResidualBlock(nn.Module):
    """Two pre-activated convolutions, the time embedding between them, and a shortcut.

    The shortcut reads the real-valued running sum, not spikes.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, recipe: Recipe) -> None:
        super().__init__()
        self.act1 = recipe.activation()
        self.conv1 = recipe.conv3x3(inputs, outputs)
        self.bn1 = recipe.norm(outputs)
        self.embed = linear(embedding, outputs, reads="real")
        self.act2 = recipe.activation()
        self.conv2 = recipe.conv3x3(outputs, outputs)
        self.bn2 = recipe.norm(outputs)
        self.shortcut = recipe.shortcut(inputs, outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x``: ``[T * batch, inputs, H, W]``; ``embedding``: ``[batch, 4 * channels]``."""
        h = convolve(self.conv1, self.act1(x))
        h = normalise_and_fire(h, self.bn1, self.act2, per_image=self.embed(embedding))
        return normalise(convolve(self.conv2, h), self.bn2, self.shortcut(x))


class Downsample(nn.Module):
    """Activation, 3x3 convolution of stride 2, BN."""

    def __init__(self, channels: int, recipe: Recipe) -> None:
        super().__init__()
        self.act = recipe.activation()
        self.conv = recipe.conv3x3(channels, channels, stride=2)
        self.bn = recipe.norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return normalise(self.conv(self.act(x)), self.bn)


class Upsample(nn.Module):
    """Activation, nearest-neighbour doubling, 3x3 convolution, BN."""

    def __init__(self, channels: int, recipe: Recipe) -> None:
        super().__init__()
        self.act = recipe.activation()
        self.conv = recipe.conv3x3(channels, channels)
        self.bn = recipe.norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return normalise(upsample_and_convolve(self.act(x), self.conv), self.bn)


class Head(nn.Module):
    """Features to noise: ``h = conv(Swish(BN(x)))`` and the temporal head on top of it,
    ``h + Swish(BN(conv3x3(h)))``, at every spiking step."""

    def __init__(self, channels: int, image_channels: int, recipe: Recipe) -> None:
        super().__init__()
        self.bn = recipe.norm(channels)
        self.conv = recipe.conv3x3_real(channels, image_channels)
        nn.init.xavier_uniform_(self.conv.weight, gain=1e-5)
        self.temporal_conv = conv3x3(
            image_channels, image_channels, reads="real", xavier=recipe.all_xavier
        )
        self.temporal_bn = recipe.norm(image_channels)
        if recipe.config.linear_head:
            nn.init.zeros_(self.temporal_bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(silu(self.bn(x)))
        return h + silu(self.temporal_bn(self.temporal_conv(h)))


class UNet(NoiseNetwork):
    """Noise prediction ``eps = net(x, t)``.

    Args:
        config: the shape; spiking if its activation is.

    Raises:
        ValueError: the configuration is not one that can be built.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        recipe = Recipe(config)
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        embedding = 4 * config.channels

        def block(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, embedding, recipe)

        self.time_embedding = TimeEmbedding(config.channels, config.diffusion_steps)
        self.stem = Stem(config.image_channels, config.channels, embedding, recipe)

        self.down = nn.ModuleList()
        now, stored = config.channels, [config.channels]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(block(now, width))
                now = width
                stored.append(now)
            if level < len(widths) - 1:
                self.down.append(Downsample(now, recipe))
                stored.append(now)

        self.middle = nn.ModuleList([block(now, now), block(now, now)])
        if config.attention_heads:
            self.middle.insert(1, SpikingAttention(now, config.attention_heads, recipe))

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(block(now + stored.pop(), width))
                now = width
            if level > 0:
                self.up.append(Upsample(now, recipe))

        self.head = Head(now, config.image_channels, recipe)
        self.rate_coded = is_rate_coded(config.activation)
        readout = MeanReadout if self.rate_coded else MembraneReadout
        self.readout: nn.Module = readout(config.time_steps)
        self.output = NoiseOutput(config.prediction, DiffusionConfig(config.diffusion_steps))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in ``x`` (``[batch, image_channels, H, W]``) at diffusion steps ``t``
        (``[batch]``, integers; one for all images may be a number). H and W must be divisible by
        ``2 ** (levels - 1)``."""
        t = each_step(t, x)
        embedding = silu(self.time_embedding(t))
        h = self.stem(x, embedding)
        stored = [h]
        for module in self.down:
            h = module(h, embedding) if isinstance(module, ResidualBlock) else module(h)
            stored.append(h)
        for module in self.middle:
            h = module(h, embedding) if isinstance(module, ResidualBlock) else module(h)
        for module in self.up:
            if isinstance(module, ResidualBlock):
                h = module(torch.cat([h, stored.pop()], dim=1), embedding)
            else:
                h = module(h)
        if self.rate_coded:  # the head is not linear: an ANN's value goes into it, and once
            return self.output(self.head(self.readout(h)), x, t)
        return self.output(self.readout(self.head(h)), x, t)


def _check(config: UNetConfig) -> None:
    if config.image_channels not in (1, 3):
        raise ValueError(f"image_channels={config.image_channels}: expected 1 or 3")
    check_widths(config)
    DiffusionConfig(config.diffusion_steps)
    make_activation(config.activation, config.time_steps, config.threshold, config.levels)
    if config.initialisation not in ("xavier", "published"):
        raise ValueError(
            f"initialisation={config.initialisation!r}: expected 'xavier' or 'published'"
        )
    if config.norm_images < 0:
        raise ValueError(f"norm_images={config.norm_images}: expected 0 (the batch) or more")
    heads, deepest = config.attention_heads, config.channels * config.multipliers[-1]
    if type(heads) is not int or heads < 0 or (heads and deepest % heads):
        raise ValueError(
            f"attention_heads={heads!r}: expected 0 (none) or a divisor of the middle's {deepest} "
            "channels"
        )
    if heads and (not is_spiking(config.activation) or is_rate_coded(config.activation)):
        raise ValueError(
            f"attention_heads={heads}: expected 0, since attention multiplies spikes and "
            f"{config.activation!r} sends others"
        )
    if config.stem_gain and not config.stem_shortcut:
        raise ValueError("stem_gain=True: expected stem_shortcut=True, which it multiplies")
    if config.temporal_scaling and not is_spiking(config.activation):
        raise ValueError(f"temporal_scaling needs spiking time; {config.activation!r} has none")
    if config.temporal_scaling and is_rate_coded(config.activation):
        raise ValueError("temporal_scaling tells spiking steps apart; a rate code may not")


def unet_config(widths: UNetWidths, shape: ImageShape, **rest: Any) -> UNetConfig:
    """The U-Net with the fields of ``widths`` for images of ``shape``.

    Args:
        rest: the other fields of :class:`UNetConfig`.

    Raises:
        ValueError: images of that size cannot be halved once a level.
    """
    check_widths(widths, shape.size)
    fields = widths.widths()
    if isinstance(widths, FreshUNet):
        fields["linear_head"] = widths.linear_head
    fields["multipliers"] = tuple(widths.multipliers)
    return UNetConfig(image_channels=shape.channels, **fields, **rest)
