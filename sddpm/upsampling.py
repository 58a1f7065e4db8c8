"""Nearest-neighbour doubling and the convolution after it, as one transposed convolution.

The four copies of a pixel meet the same kernel, shifted: a 3x3 convolution over them is a
4x4 transposed convolution of stride 2 over the small image, whose kernel sums the taps that
fall on the same pixel. That is 16 products a small pixel where the plain way takes 36.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, interpolate, pad


def doubled_weight(weight: Tensor) -> Tensor:
    """Kernel of the transposed convolution: ``[outputs, inputs, 3, 3]`` to
    ``[inputs, outputs, 4, 4]``; differentiable."""
    padded = pad(weight, (1, 1, 1, 1))
    rows = padded[..., 1:, :] + padded[..., :-1, :]
    return (rows[..., 1:] + rows[..., :-1]).flip(-1, -2).transpose(0, 1)


def phase_weights(weight: Tensor) -> Tensor:
    """The same as four convolutions: ``[outputs, inputs, 3, 3]`` to ``[4 outputs, inputs, 2, 2]``.

    Part ``2 a + b`` of the outputs belongs to rows ``a::2`` and columns ``b::2`` of the doubled
    image, and reads the small image padded by one pixel, from row ``a`` and column ``b`` on.
    """

    def merge(taps: tuple[Tensor, ...], phase: int, dim: int) -> Tensor:
        first, middle, last = taps
        pair = (first, middle + last) if phase == 0 else (first + middle, last)
        return torch.stack(pair, dim)

    phases = []
    for row in (0, 1):
        rows = merge(weight.unbind(-2), row, -2)
        phases += [merge(rows.unbind(-1), column, -1) for column in (0, 1)]
    return torch.cat(phases)


def upsample_and_convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """``conv`` (3x3, padding 1) of ``x`` ``[batch, channels, H, W]`` doubled in height and width.

    The transposed form runs in training. In evaluation the layers run as they stand, so that
    what is counted there is the network's own arithmetic; so they do where the layer is watched
    by a hook or is of another kind.
    """
    watched = conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks
    if not conv.training or watched or type(conv) is not nn.Conv2d:
        return conv(interpolate(x, scale_factor=2.0, mode="nearest"))
    return conv_transpose2d(x, doubled_weight(conv.weight), conv.bias, stride=2, padding=1)
