"""A converted network brought nearer to its parent by gradient descent.

``end-to-end``: the loss is the mean squared difference between the two noise predictions on
noised images; it goes through the neurons' surrogate gradients. ``blocks``: block by block, in
the order of the network, each against the parent's output of the same block
(arXiv 2408.16467): the loss is the spiking block's error, its gradient that of the parent's
block on the time-averaged input, so that nothing is unrolled over spiking time. The published
recipe does so on clean images at the first few diffusion steps; here images are noised and ``t``
is uniform over the process. Thresholds and BatchNorm's statistics stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from conversion.schedule import ScheduledUNet
from sddpm.diffusion import noise_loss
from sddpm.unet import UNet

Draw = Callable[[int], tuple[Tensor, Tensor]]
"""The batch (x_t, t) of a step, by its number."""
WAYS = ("end-to-end", "blocks")


def finetune(
    parent: UNet,
    child: UNet,
    draw: Draw,
    *,
    steps: int,
    learning_rate: float = 1e-4,
    gradient_clip: float = 1.0,
    on_step: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train ``child`` to predict the output of ``parent``. The step size falls linearly to 0.

    Args:
        draw: the batch (x_t, t) of a step, by its number.
        on_step: told the loss of each step.

    Raises:
        ValueError: the loss is not a number.
    """
    parent.eval()
    child.eval()  # statistics are the parent's: those of single spiking steps are others

    def loss(noisy: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = parent(noisy, t)
        return noise_loss(child, child(noisy, t), wanted, t)

    _descend(_weights(child), loss, draw, 0, steps, learning_rate, gradient_clip, on_step)


def finetune_blocks(
    parent: UNet,
    child: UNet,
    draw: Draw,
    *,
    steps: int,
    learning_rate: float = 1e-4,
    gradient_clip: float = 1.0,
    on_step: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train each block of ``child`` for ``steps`` steps, those before it being done. The step
    size of a block falls linearly to 0. Time embedding and head, which hold no neurons, stay.

    Args:
        draw: the batch (x_t, t) of a step, by its number over all blocks.
        on_step: told the loss of each step.

    Raises:
        ValueError: the loss is not a number, or the number of spiking steps is not one.
    """
    if isinstance(child, ScheduledUNet):
        raise ValueError("block-wise fine-tuning needs one number of spiking steps, not a schedule")
    parent.eval(), child.eval()
    for position, name in enumerate(blocks_of(child)):
        weights = _weights(child.get_submodule(name))
        loss = partial(_block_loss, parent, child, name, weights)
        first = position * steps
        _descend(weights, loss, draw, first, steps, learning_rate, gradient_clip, on_step)


def _block_loss(
    parent: UNet, child: UNet, name: str, weights: dict[str, Tensor], noisy: Tensor, t: Tensor
) -> Tensor:
    _, wanted = run_until(parent, name, noisy, t)
    given, fired = run_until(child, name, noisy, t)
    mean = averaged(fired, len(noisy))
    inputs = tuple(averaged(value, len(noisy)) for value in given)
    # The parent's layers with the child's weights: the gradient without spiking time.
    proxy = functional_call(parent.get_submodule(name), weights, inputs)
    return (proxy + (mean - proxy).detach() - wanted).square().mean()


def blocks_of(net: UNet) -> Iterator[str]:
    """Names of the blocks that hold neurons, in the order of the network."""
    yield "stem"
    for part in ("down", "middle", "up"):
        yield from (f"{part}.{number}" for number in range(len(getattr(net, part))))


class _Reached(Exception):  # noqa: N818 (no error: it ends the pass)
    """The block has run; the rest of the network is not needed."""


@torch.no_grad()
def run_until(net: UNet, block: str, x: Tensor, t: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs and output of ``block`` when ``net`` evaluates ``(x, t)``."""
    seen: list[tuple[tuple[Tensor, ...], Tensor]] = []

    def see(_module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append((given, out))
        raise _Reached

    handle = net.get_submodule(block).register_forward_hook(see)
    try:
        net(x, t)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


def averaged(values: Tensor, batch: int) -> Tensor:
    """The mean over spiking time of ``[time_steps * batch, ...]``, as ``[batch, ...]``; a tensor
    without spiking time is returned unchanged."""
    return values.unflatten(0, (-1, batch)).mean(0)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {k: p for k, p in module.named_parameters() if not k.endswith("theta")}


def _descend(
    weights: dict[str, Tensor],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    draw: Draw,
    first: int,
    steps: int,
    learning_rate: float,
    gradient_clip: float,
    on_step: Callable[[float], None],
) -> None:
    """Adam on the loss of the batches from number ``first`` on; the step size falls linearly to
    0."""
    parameters = list(weights.values())
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    for number in range(steps):
        loss = loss_of(*draw(first + number))
        if not torch.isfinite(loss):
            raise ValueError(f"fine-tuning: the loss is {loss.item()} at step {number}")
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        optimizer.param_groups[0]["lr"] = learning_rate * (steps - number - 1) / steps
        on_step(loss.item())
