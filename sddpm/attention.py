"""Spiking self-attention, as an option of the U-Net's middle.

Zhou et al., "Spikformer: When Spiking Neural Network Meets Transformer", arXiv 2209.15425: queries,
keys and values are spikes, so the products of attention are sums, and no softmax is needed to
keep them positive. Written for this U-Net: neurons come before convolutions, as in its blocks, and
batch norm learns the scale that Spikformer fixes at 1/8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from sddpm.layers import declare

if TYPE_CHECKING:
    from sddpm.unet import Recipe


class SpikeProduct(nn.Module):
    """A matrix product whose left operand is spikes: each adds up a row of the right one."""

    def forward(self, spikes: Tensor, rows: Tensor) -> Tensor:
        """``[..., m, k]`` spikes times ``[..., k, n]``."""
        return spikes @ rows


class SpikingAttention(nn.Module):
    """``x`` plus attention over its pixels, at every spiking step by itself.

    With spikes ``q, k, v`` of 1x1 convolutions of the spikes of ``x``, each head's ``(q k^T) v`` is
    normalised, fires, and is projected. ``k q^T`` and its product with ``v`` are computed
    transposed, so that the operand on the left, which the meter counts, is spikes. A spike of
    ``k`` or ``v`` costs one accumulate a pixel.

    Args:
        channels: of ``x``.
        heads: equal parts of the channels, each with an attention of its own.
        recipe: makes the layers.
    """

    def __init__(self, channels: int, heads: int, recipe: Recipe) -> None:
        super().__init__()
        self.heads = heads
        self.act = recipe.activation()
        self.query, self.key, self.value = (
            nn.Sequential(
                recipe.conv1x1(channels, channels), recipe.norm(channels), recipe.activation()
            )
            for _ in range(3)
        )
        self.scores = declare(SpikeProduct(), reads=recipe.reads)
        self.mixing = declare(SpikeProduct(), reads=recipe.reads)
        self.mixed_bn = recipe.norm(channels)
        self.mixed_act = recipe.activation()
        self.project = recipe.conv1x1(channels, channels)
        self.bn = recipe.norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``x``: ``[time_steps * batch, channels, H, W]``."""
        spikes = self.act(x)
        query, key, value = (
            layer(spikes).flatten(2).unflatten(1, (self.heads, -1))  # [.., heads, width, pixels]
            for layer in (self.query, self.key, self.value)
        )
        scores = self.scores(key.transpose(-1, -2), query)  # [.., keys' pixels, queries' pixels]
        mixed = self.mixing(value, scores).flatten(1, 2).unflatten(2, x.shape[2:])
        sent = self.mixed_act(self.mixed_bn(mixed))
        added: Tensor = x + self.bn(self.project(sent))
        return added
