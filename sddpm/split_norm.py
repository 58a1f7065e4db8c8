"""BatchNorm over parts of the batch, as on several GPUs that each normalise their own images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SplitBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with training statistics over ``images`` images and all their spiking steps. The
    running statistics follow the first group of the batch, as torch's DataParallel keeps those of
    its first GPU. So the groups, and not the processes, decide the result.

    Args:
        channels: of the input.
        images: that share statistics; divides the batch.
        time_steps: spiking time steps folded into the batch.
    """

    def __init__(self, channels: int, *, images: int, time_steps: int) -> None:
        super().__init__(channels)
        self.images, self.time_steps = images, time_steps

    def forward(self, input: Tensor) -> Tensor:
        """``input``: ``[time_steps * batch, channels, H, W]``.

        Raises:
            ValueError: in training, the batch is not a whole number of groups.
        """
        if not self.training:
            return super().forward(input)
        batch = len(input) // self.time_steps
        if batch % self.images:
            raise ValueError(
                f"norm_images={self.images} must divide each process's share of the batch, "
                f"which is {batch} images"
            )
        # A group's channels become channels of their own: [T * images, groups * channels, H, W].
        steps = input.unflatten(0, (self.time_steps, -1, self.images))
        groups = steps.shape[1]
        wide = steps.transpose(1, 2).flatten(0, 1).flatten(1, 2)
        mean = input.new_zeros(wide.shape[1], dtype=self.weight.dtype)
        variance = torch.ones_like(mean)
        out = functional.batch_norm(
            wide, mean, variance, self.weight.repeat(groups), self.bias.repeat(groups),
            training=True, momentum=1.0, eps=self.eps,
        )  # fmt: skip
        self._follow(mean[: self.num_features], variance[: self.num_features])
        out = out.unflatten(1, (groups, -1)).unflatten(0, (self.time_steps, -1))
        return out.transpose(1, 2).flatten(0, 2)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, images={self.images}, time_steps={self.time_steps}"
