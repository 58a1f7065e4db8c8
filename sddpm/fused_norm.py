"""BatchNorm fused with what follows it, for training: values and gradients of the modules.

Both functions take the modules that they stand for and call them instead wherever the fusion
would not be equivalent (hooks, other kinds of layer, evaluation) or cannot run (no kernels,
memory that is not channels-last). Only the convolution's output is kept for the gradient:
neither the normalised tensor nor anything of the spiking loop is stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sddpm.kernels import neurons as kernels
from sddpm.kernels.fused_neuron import wanted
from sddpm.kernels.neurons import Affine, Dynamics
from sddpm.neurons import SpikingNeuron, add_per_image


def normalise(y: Tensor, norm: nn.Module, residual: Tensor | None = None) -> Tensor:
    """``norm(y) + residual``, of ``[batch, channels, H, W]``."""
    extra = () if residual is None else (residual,)
    if not (_fusable(norm) and _fits(y, *extra)):
        normalised = norm(y)
        return normalised if residual is None else normalised + residual
    assert isinstance(norm, nn.BatchNorm2d)
    return _Normalise.apply(y, norm.weight, norm.bias, residual, *_statistics(y, norm))


def normalise_and_fire(
    y: Tensor, norm: nn.Module, activation: nn.Module, per_image: Tensor | None = None
) -> Tensor:
    """``activation(norm(y) + per_image)``, of ``[time_steps * batch, channels, H, W]``.

    Args:
        y: the output of a convolution.
        norm: the normalisation after it.
        activation: spiking or not; fused if spiking.
        per_image: ``[batch, channels]``, added at every spiking step and pixel.
    """
    neuron = (
        activation if isinstance(activation, SpikingNeuron) and _unwatched(activation) else None
    )
    dynamics = neuron.dynamics() if neuron else None
    if neuron is None or dynamics is None or not (_fusable(norm) and _fits(y)):
        normalised = norm(y)
        if per_image is not None:
            normalised = add_per_image(normalised, per_image)
        return activation(normalised)
    assert isinstance(norm, nn.BatchNorm2d)
    events = _NormaliseAndFire.apply(
        y, norm.weight, norm.bias, per_image, neuron.theta, neuron.leak(),
        *_statistics(y, norm), neuron.time_steps, dynamics,
    )  # fmt: skip
    return neuron.charged(events)


def _unwatched(module: nn.Module) -> bool:
    return not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _fusable(norm: nn.Module) -> bool:
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.weight.dtype == torch.float32
        and _unwatched(norm)
    )


def _fits(y: Tensor, *others: Tensor) -> bool:
    return (
        y.ndim == 4
        and y.is_contiguous(memory_format=torch.channels_last)
        and all(y.shape == other.shape for other in others)
        and kernels.usable(y, *others)
    )


def _statistics(y: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation of the batch, float64; updates the running statistics."""
    mean, variance = kernels.channel_moments(y.detach())
    if norm.track_running_stats and norm.running_mean is not None:
        assert norm.num_batches_tracked is not None
        assert norm.running_var is not None
        norm.num_batches_tracked.add_(1)
        share = norm.momentum
        if share is None:  # BatchNorm's name for a plain average over all batches
            share = 1 / float(norm.num_batches_tracked)
        count = y.numel() // y.shape[1]
        norm.running_mean.lerp_(mean.float(), share)
        norm.running_var.lerp_((variance * (count / max(1, count - 1))).float(), share)
    return mean, (variance + norm.eps).rsqrt()


class _Normalise(Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        mean: Tensor,
        deviation: Tensor,
    ) -> Tensor:
        scale = weight * deviation
        ctx.save_for_backward(y, scale, mean, deviation)
        affine = Affine(scale.float(), (bias - mean * scale).float())
        if residual is not None:
            residual = kernels.channels_last(residual)
        _, out = kernels.fire(y, 1, None, affine=affine, residual=residual, keep_sum=True)
        assert out is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, *statistics = ctx.saved_tensors
        grad = kernels.like(grad, y)
        grad_y, grad_weight, grad_bias = _through_norm(
            grad, y, kernels.channel_sums(grad, y), *statistics, out=torch.empty_like(grad)
        )
        return grad_y, grad_weight, grad_bias, grad if ctx.needs_input_grad[3] else None, None, None


class _NormaliseAndFire(Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        per_image: Tensor | None,
        theta: Tensor,
        leak: Tensor | None,
        mean: Tensor,
        deviation: Tensor,
        time_steps: int,
        dynamics: Dynamics,
    ) -> Tensor:
        scale = weight * deviation
        shift = bias - mean * scale
        if per_image is not None:
            shift = shift + per_image
        affine = Affine(scale.float(), shift.float().contiguous())
        ctx.time_steps, ctx.dynamics = time_steps, dynamics
        ctx.per_image = None if per_image is None else per_image.dtype
        ctx.save_for_backward(y, scale, mean, deviation, affine.scale, affine.shift)
        spikes, _ = kernels.fire(y, time_steps, dynamics, affine=affine)
        assert spikes is not None
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor | None, ...]:
        y, *statistics, scale, shift = ctx.saved_tensors
        currents, sums, *scalars = kernels.fire_backward(
            y, kernels.like(grad_spikes, y), ctx.time_steps, ctx.dynamics, Affine(scale, shift)
        )
        grad_y, grad_weight, grad_bias = _through_norm(
            currents, y, sums.sum(0), *statistics, out=currents
        )
        per_image = None if ctx.per_image is None else sums[:, 0].to(ctx.per_image)
        scalars_wanted = wanted(scalars, ctx.needs_input_grad[4:6])
        return grad_y, grad_weight, grad_bias, per_image, *scalars_wanted, None, None, None, None


def _through_norm(
    grad: Tensor,
    y: Tensor,
    sums: Tensor,
    scale: Tensor,
    mean: Tensor,
    deviation: Tensor,
    *,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, weight and bias of a BatchNorm, from its output's and that one's sums."""
    count = y.numel() // y.shape[1]
    grad_bias, product = sums
    grad_weight = (product - mean * grad_bias) * deviation
    other = -scale * deviation * grad_weight / count
    shift = -scale * grad_bias / count - other * mean
    kernels.combine(grad, y, scale.float(), other.float(), shift.float(), out=out)
    return out, grad_weight.float(), grad_bias.float()
