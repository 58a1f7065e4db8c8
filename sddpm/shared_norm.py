"""BatchNorm over the batch of all processes, so that the number of processes does not change a
training.

Each process normalising its own share would make the result depend on how many there are.
torch's SyncBatchNorm does the same, but on GPUs alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.nn.functional import all_reduce


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with mean and variance over the batch of all processes.

    In training, all processes must call it together, each with as many images.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x``: this process's ``[batch, channels, H, W]``."""
        if not self.training:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        over = (0, 2, 3)
        mean = _average(wide.mean(over))
        centred = wide - mean[:, None, None]
        variance = _average(centred.square().mean(over))
        if self.track_running_stats and self.running_mean is not None:
            self._follow(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        out = centred * scale[:, None, None]
        if self.affine:
            out = out + self.bias[:, None, None]
        return out.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, values: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # No momentum is BatchNorm's name for a plain average over all batches.
        share = self.momentum
        if share is None:
            share = 1 / float(self.num_batches_tracked)
        count = values * get_world_size()
        unbiased = variance * (count / max(1, count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def share_statistics(module: nn.Module) -> None:
    """Make every BatchNorm2d in ``module`` a :class:`SharedBatchNorm2d`, in place: parameters,
    buffers and their names stay."""
    for norm in module.modules():
        if type(norm) is nn.BatchNorm2d:
            norm.__class__ = SharedBatchNorm2d


def _average(values: Tensor) -> Tensor:
    """Mean over processes, with its gradient."""
    total: Tensor = all_reduce(values)
    return total / get_world_size()
