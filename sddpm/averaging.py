"""The exponential moving average of a network, which samples in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """An exponential moving average of parameters and of BatchNorm's statistics.

    Averaged parameters with the current statistics ruin a BatchNorm network, so the buffers
    are averaged too. After ``n`` updates the decay is the smaller of ``decay`` and
    ``(1 + n) / (10 + n)``, so a short run does not sample its initial weights.

    Updates are counted on the processor beside torch's own counter, which lies on the device:
    reading that one would make every training step on a GPU wait for the one before.

    Args:
        net: the network; copied.
        decay: in [0, 1).
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__(net, use_buffers=True)
        self.requires_grad_(False)
        self.decay = decay
        self._updates: int | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards ``model``; the first update copies it."""
        if self._updates is None:
            self._updates = int(self.n_averaged)
        n = self._updates
        weight = 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0
        ours, theirs = _tensors(self.module), _tensors(model)
        real = [tensor.is_floating_point() for tensor in ours]
        torch._foreach_lerp_(_those(ours, real), _those(theirs, real), weight)
        whole = [not yes for yes in real]
        if any(whole):
            torch._foreach_copy_(_those(ours, whole), _those(theirs, whole))
        self._updates += 1
        self.n_averaged += 1

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._updates = None


def _tensors(net: nn.Module) -> list[Tensor]:
    return [*net.parameters(), *net.buffers()]


def _those(tensors: list[Tensor], chosen: list[bool]) -> list[Tensor]:
    return [tensor for tensor, yes in zip(tensors, chosen, strict=True) if yes]
