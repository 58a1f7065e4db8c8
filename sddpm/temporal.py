"""TSM: a learned scalar per convolution and spiking step on the synaptic current.

Paper: Cao et al., "Spiking Diffusion Models", IEEE TAI 2024, arXiv 2408.16467:
``y[s] = p[s] (W x[s] + b)``. ``p`` starts at 1, where the network is the one without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TemporalConv2d(nn.Conv2d):
    """A convolution with its current scaled by ``p[s]`` at spiking step ``s``.

    Args:
        time_steps: spiking time steps, folded into the batch of the input.
        constant: the input is the same at every step and given once, ``[batch, ...]``; the
            output is ``[time_steps * batch, ...]`` all the same, and the products run once.
    """

    def __init__(
        self, *arguments: Any, time_steps: int, constant: bool = False, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.constant = constant
        self.p = nn.Parameter(torch.ones(time_steps))

    def forward(self, x: Tensor) -> Tensor:
        """Currents ``[time_steps * batch, channels, H, W]``."""
        current = super().forward(x)
        p = self.p.to(current.dtype)[:, None, None, None, None]
        steps = current[None] if self.constant else current.unflatten(0, (len(self.p), -1))
        return (steps * p).flatten(0, 1)
