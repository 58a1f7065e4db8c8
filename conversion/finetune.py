"""A converted network brought nearer to its parent by gradient descent, end to end.

The loss is the mean squared difference between the two noise predictions on noised images; it
goes through the neurons' surrogate gradients, with thresholds and BatchNorm's statistics as they
are. The published recipe is block by block, on clean images at the first few diffusion steps
(arXiv 2408.16467); here ``t`` is uniform over the process.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sddpm.unet import UNet


def finetune(
    parent: UNet,
    child: UNet,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    *,
    steps: int,
    learning_rate: float = 1e-4,
    gradient_clip: float = 1.0,
    on_step: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train ``child`` to predict what ``parent`` predicts. The step size falls linearly to 0.

    Args:
        draw: the batch (x_t, t) of a step, by its number.
        on_step: told the loss of each step.

    Raises:
        ValueError: the loss is not a number.
    """
    parent.eval()
    child.eval()  # statistics are the parent's: those of single spiking steps are others
    parameters = [p for name, p in child.named_parameters() if not name.endswith("theta")]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    for number in range(steps):
        noisy, t = draw(number)
        with torch.no_grad():
            wanted = parent(noisy, t)
        loss = (child(noisy, t) - wanted).square().mean()
        if not torch.isfinite(loss):
            raise ValueError(f"fine-tuning: the loss is {loss.item()} at step {number}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, gradient_clip)
        optimizer.param_groups[0]["lr"] = learning_rate * (steps - number) / steps
        optimizer.step()
        on_step(loss.item())
    optimizer.zero_grad(set_to_none=True)
