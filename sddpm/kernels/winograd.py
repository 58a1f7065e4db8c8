"""3x3 convolutions in float32 with less than half of the products, and their gradients.

Winograd's F(2x2, 3x3) on kernels of our own (``winograd.cpp``), as GPU libraries compute float32
convolutions by default. Its rounding error is that of the plain sum (1e-7 of the output, 1e-6 of
the kernel's gradient): the transforms of activations only add, and exactly so for spikes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sddpm.kernels import neurons as kernels
from sddpm.kernels.library import load

_CHANNELS = 64  # the kernels work on panels of this many channels
_BLOCK = 36  # tiles transformed at a time: they and their sums fit the second cache
_LEAST_TILES = 64  # below as many tiles, inference is no faster than on 8-bit integers
_GRADIENT_TILES = 128  # below as many tiles, the kernel's gradient is no faster than torch's


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there are none or the processor has no fused products."""
    loaded = load("winograd")
    if loaded is None or not loaded.sddpm_winograd_supported():
        return None
    i32, i64, p = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    loaded.sddpm_winograd_weights.argtypes = (p, p, i64, i64, i32, i32)
    loaded.sddpm_winograd.argtypes = (i32, p, p, p, p, *(i64,) * 6, i32)
    loaded.sddpm_winograd_weight_gradient.argtypes = (p, p, p, p, *(i64,) * 7, i32)
    for name in ("weights", "weight_gradient"):
        getattr(loaded, f"sddpm_winograd_{name}").restype = None
    loaded.sddpm_winograd.restype = None
    return loaded


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)``: in training on these kernels wherever they apply.

    In evaluation, and where the layer is watched by a hook or is of another kind, the layer
    itself runs, so that what is counted there is the network's own arithmetic.
    """
    if type(conv) is nn.Conv2d and conv.training and _unwatched(conv) and _fits(conv, x):
        return _Convolve.apply(x, conv.weight, conv.bias)
    return conv(x)


def _unwatched(conv: nn.Module) -> bool:
    return not (conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks)


def _fits(conv: nn.Conv2d, x: Tensor) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.dilation == conv.padding == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.in_channels % _CHANNELS == conv.out_channels % _CHANNELS == 0
        and x.ndim == 4
        and x.shape[1] == conv.in_channels
        and x.shape[2] % 2 == x.shape[3] % 2 == 0
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and kernels.usable(x, conv.weight)
        and x.is_contiguous(memory_format=torch.channels_last)
        and library() is not None
    )


class _Convolve(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = kernels.channels_last(weight)
        ctx.save_for_backward(x, weight)
        return _run(x, _panels(weight, backward=False), bias, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = kernels.like(grad, x)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        grad_x = _run(grad, _panels(weight, backward=True), None, x.shape[1]) if for_x else None
        if not (for_weight or for_bias):
            return grad_x, None, None
        grad_weight, grad_bias = _weight_gradient(x, grad, weight)
        return grad_x, grad_weight if for_weight else None, grad_bias if for_bias else None


class WinogradConvolution:
    """A 3x3 convolution prepared for inference, in float32.

    Args:
        weight: ``[outputs, inputs, 3, 3]``, of a shape that :func:`divides` accepts.
        bias: ``[outputs]``.
        reads: type of the input: float32 or uint8.
        otherwise: makes the convolution for inputs of an odd size, or of too few pixels to
            repay that the transformed kernels are larger.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        reads: torch.dtype,
        otherwise: Callable[[], Callable[[Tensor], Tensor]],
    ) -> None:
        weight = kernels.channels_last(weight.float())
        self.reads, self.outputs, self.bias = reads, len(weight), bias.float().contiguous()
        self.panels = _panels(weight, backward=False)
        self._otherwise = cache(otherwise)

    def __call__(self, x: Tensor) -> Tensor:
        images, _, height, width = x.shape
        if height % 2 or width % 2 or images * height * width < 4 * _LEAST_TILES:
            return self._otherwise()(x)
        x = kernels.channels_last(x.to(self.reads))
        return _run(x, self.panels, self.bias, self.outputs)


def divides(weight: Tensor) -> bool:
    """Whether the kernels take a weight of this shape, on this machine."""
    outputs, inputs, *size = weight.shape
    fits = size == [3, 3] and outputs % _CHANNELS == inputs % _CHANNELS == 0
    return fits and kernels.library() is not None and library() is not None


def _panels(weight: Tensor, *, backward: bool) -> Tensor:
    """Transformed kernels in the order in which they are read."""
    outputs, inputs = weight.shape[:2]
    panels = torch.empty(16 * outputs * inputs, dtype=torch.float32)
    _loaded().sddpm_winograd_weights(
        *(weight.data_ptr(), panels.data_ptr(), outputs, inputs, backward),
        torch.get_num_threads(),
    )
    return panels


def _run(x: Tensor, panels: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    images, inputs, height, width = x.shape
    threads = torch.get_num_threads()
    tiles = images * height * width // 4
    block = min(_BLOCK, 6 * -(-tiles // (6 * threads)))  # of rows of 6, and one for each thread
    y = torch.empty(
        (images, outputs, height, width), dtype=torch.float32, memory_format=torch.channels_last
    )
    _loaded().sddpm_winograd(
        *(x.dtype == torch.uint8, x.data_ptr(), panels.data_ptr()),
        *(None if bias is None else bias.data_ptr(), y.data_ptr()),
        *(images, height, width, inputs, outputs, block, threads),
    )
    return y


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of kernel and bias."""
    (images, inputs, height, width), outputs = x.shape, grad.shape[1]
    if images * height * width < 4 * _GRADIENT_TILES:
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            *(grad, x, weight, [outputs], [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
            [False, True, True],
        )
        return of_weight, of_bias
    threads = torch.get_num_threads()
    jobs = (inputs // _CHANNELS) * (outputs // _CHANNELS)
    # Enough parts to keep all threads busy; each part costs a kernel's size of memory.
    parts = max(1, -(-2 * threads // jobs))
    weights = torch.empty(parts, outputs, 3, 3, inputs, dtype=torch.float32)
    biases = torch.empty(parts, outputs, dtype=torch.float32)
    _loaded().sddpm_winograd_weight_gradient(
        *(x.data_ptr(), grad.data_ptr(), weights.data_ptr(), biases.data_ptr()),
        *(images, height, width, inputs, outputs, _BLOCK, parts, threads),
    )
    of_weight = weights[0] if parts == 1 else weights.sum(0)
    return of_weight.permute(0, 3, 1, 2), biases.sum(0)


def _loaded() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None, "callers ask convolve() first"
    return loaded
