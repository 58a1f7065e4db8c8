"""An integer network that runs as the binary spikes of its counts.

An integer neuron (:class:`sddpm.soft_neurons.IntegerIF`) sends counts 0 to ``levels`` in one pass.
Neuromorphic hardware sends them as binary spikes: step ``s`` holds a spike where the count is at
least ``s``. A convolution is linear, so the sum of its responses to the steps is its response to
the counts, and the neuron behind it, which fires after the last step, sees the same current
(arXiv 2407.20708).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sddpm.layers import declare


class UnrolledConvolution(nn.Module):
    """A convolution that reads ``levels`` binary steps of its counts and sums its responses.

    Args:
        conv: the convolution that reads counts; its bias is added once.
        levels: the largest count.
    """

    def __init__(self, conv: nn.Conv2d, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.conv = conv

    def forward(self, counts: Tensor) -> Tensor:
        """Currents of counts ``[batch, channels, H, W]``."""
        steps = torch.stack([(counts >= s).to(counts.dtype) for s in range(1, self.levels + 1)])
        conv = self.conv
        responses = nn.functional.conv2d(
            steps.flatten(0, 1), conv.weight, None, conv.stride, conv.padding
        )
        current = responses.unflatten(0, (self.levels, -1)).sum(0)
        return current if conv.bias is None else current + conv.bias[:, None, None]


def unroll(net: nn.Module, levels: int) -> nn.Module:
    """A copy of ``net`` in which every convolution that reads counts reads binary spikes.

    Args:
        net: a network of integer neurons that send at most ``levels`` events.

    Returns:
        A module with the same input and output; equal but for the order of additions.
    """
    made = copy.deepcopy(net)
    for module in list(made.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and getattr(child, "reads", None) == "counts":
                unrolled = UnrolledConvolution(child, levels)
                setattr(module, name, declare(unrolled, reads="spikes"))
    return made
