"""Convolutions of binary spikes without multiplications: sums of weights are looked up.

Four spikes have 16 patterns; a table holds the sum of the selected weights for each, and a pixel
adds one row of it for every four input channels (``lookup.cpp``). Weights are integers with one
scale an output channel, and integer sums have no rounding: the only errors are those of the
weights and of the last conversion.

Two widths of integers:

- 16 bits: the scale is the finest with which no sum can leave 16 bits, found from the weights
  themselves; they are at least as fine as int8 weights, and several times finer as a rule.
- 32 bits: the scale is a power of two, so weights of few bits stay themselves; the result is
  closer to the real sum than that of a float32 convolution.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from sddpm.kernels import neurons as kernels
from sddpm.kernels.library import load
from sddpm.upsampling import phase_weights

_LARGEST = {torch.int16: 2**15 - 1, torch.int32: 2**31 - 1}
_INT8_LARGEST = 127


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had."""
    loaded = load("lookup")
    if loaded is None:
        return None
    i32, i64, p = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    loaded.sddpm_lookup.argtypes = (*(p,) * 6, *(i64,) * 8, *(i32,) * 5)
    loaded.sddpm_lookup.restype = None
    loaded.sddpm_lookup_patterns_size.argtypes = (i64,) * 4
    for name in ("lanes", "chunk", "patterns_size"):
        getattr(loaded, f"sddpm_lookup_{name}").restype = i64
    return loaded


@dataclass(frozen=True)
class Integers:
    """Weights as integers whose sums stay in their type."""

    values: Tensor
    """``[outputs, inputs, k, k]``, int16 or int32."""
    scale: Tensor
    """``[outputs]``, float64: the weight of one unit."""
    flush: int
    """Chunks of inputs (:func:`chunk`) that may be added up in the type."""


def chunk() -> int:
    """Input channels of one tap whose tables are in the cache at the same time."""
    return int(_loaded().sddpm_lookup_chunk())


def lanes(dtype: torch.dtype) -> int:
    """Outputs whose sums of ``dtype``, int16 or int32, one row of a table holds."""
    return int(_loaded().sddpm_lookup_lanes()) * 2 // dtype.itemsize


def integers(weight: Tensor, dtype: torch.dtype) -> Integers:
    """Round ``weight`` to the finest integers whose sums cannot leave ``dtype``.

    Sums run over taps and, within a tap, over chunks of inputs; 16-bit ones are moved to 32 bits
    every ``flush`` chunks. Of the weights between two such moves let P be the sum of the positive
    ones and N that of the negative ones, in magnitude: every sum of spikes times weights, on the
    way as well, lies in [-N, P]. With a unit of ``max(P, N) / (largest - count / 2)``, for
    ``count`` weights that are rounded by half a unit at most, it lies in [-largest, largest].

    Args:
        weight: ``[outputs, inputs, k, k]``.
        dtype: int16 or int32.

    Returns:
        ``flush`` is the largest number of chunks at which a unit is no coarser than that of int8
        weights, the largest weight over 127. One chunk always is: 64 weights add up to 64 times
        the largest, in 32735 units.
    """
    weight = weight.double()
    pieces = _chunks(weight)
    most = weight.abs().flatten(1).amax(1).clamp_min(1e-30)
    flush = len(pieces)
    while True:
        unit = _bound(pieces, flush) / (_LARGEST[dtype] - flush * pieces.shape[2] / 2 - 1)
        if flush == 1 or bool(((unit >= 0) & (unit * _INT8_LARGEST <= most)).all()):
            break
        flush = -(-flush // 2)
    unit.clamp_min_(1e-30)
    if dtype == torch.int32:  # a power of two, so that weights of few bits stay themselves
        unit = torch.exp2(unit.log2().ceil())
    return Integers((weight / unit[:, None, None, None]).round().to(dtype), unit, flush)


def _chunks(weight: Tensor) -> Tensor:
    """``[chunks, outputs, inputs]``, in the order in which the kernel adds them up."""
    inputs, width = weight.shape[1], chunk()
    if inputs > width:
        weight = pad(weight, (0, 0, 0, 0, 0, -inputs % width))
    taps = weight.permute(2, 3, 1, 0).flatten(0, 1)
    return taps.unflatten(1, (-1, min(inputs, width))).flatten(0, 1).transpose(1, 2)


def _bound(pieces: Tensor, flush: int) -> Tensor:
    """``[outputs]``: the largest magnitude of a sum of weights within ``flush`` chunks."""
    signs = torch.stack([pieces.clamp_min(0).sum(2), -pieces.clamp_max(0).sum(2)])
    signs = pad(signs, (0, 0, 0, -len(pieces) % flush))
    return signs.unflatten(1, (-1, flush)).sum(2).amax((0, 1))


class LookupConvolution:
    """A convolution of spikes (bytes, 0 or 1) by looked-up sums.

    Args:
        weight: ``[outputs, inputs, k, k]``, k 1 or 3, float32.
        bias: ``[outputs]``, float32.
        stride: of the convolution; the padding keeps the size at stride 1.
        wide: sums of 32 bits, else of 16.
        dtype: type of the result, float32 or bfloat16.
        doubling: convolve the input doubled in height and width (3x3, stride 1): each of the four
            pixels that an input pixel becomes sees a 2x2 kernel of its own over the small image.
    """

    reads = torch.uint8

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int = 1,
        wide: bool = False,
        dtype: torch.dtype = torch.float32,
        doubling: bool = False,
    ) -> None:
        self.dtype, self.wide, self.doubling = dtype, wide, doubling
        self.outputs, self.stride = len(weight), stride
        self.bias = bias.float().contiguous()
        if doubling:
            weight = phase_weights(weight.double())
        self.kernel = weight.shape[2]
        rounded = integers(weight, torch.int32 if wide else torch.int16)
        self.scale, self.flush = rounded.scale.float(), rounded.flush
        self.packed = _pack(rounded.values, phases=4 if doubling else 1)

    def __call__(self, x: Tensor) -> Tensor:
        """``[batch, inputs, H, W]``, uint8, to ``[batch, outputs, H', W']``, channels last."""
        height, width = x.shape[2:]
        size = (
            (2 * height, 2 * width)
            if self.doubling
            else ((height - 1) // self.stride + 1, (width - 1) // self.stride + 1)
        )
        y = torch.empty(
            (len(x), self.outputs, *size), dtype=self.dtype, memory_format=torch.channels_last
        )
        self._run(x, y, add=False)
        return y

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """Add the convolution of ``x`` to ``sums``, of the result's shape, type and order."""
        self._run(x, sums, add=True)

    def _run(self, x: Tensor, y: Tensor, *, add: bool) -> None:
        loaded = _loaded()
        x = kernels.channels_last(x)
        images, inputs, height, width = x.shape
        patterns = torch.empty(
            loaded.sddpm_lookup_patterns_size(images, height, width, inputs), dtype=torch.uint8
        )
        tensors = (x, self.packed, self.scale, self.bias, y, patterns)
        loaded.sddpm_lookup(
            *(tensor.data_ptr() for tensor in tensors),
            *(images, height, width, inputs, self.outputs, self.kernel, self.stride, self.flush),
            *(self.doubling, self.wide, self.dtype == torch.bfloat16, add),
            torch.get_num_threads(),
        )


def _pack(values: Tensor, phases: int) -> Tensor:
    """``[phases outputs, inputs, k, k]`` in the order in which the kernel reads it:
    ``[phases, blocks of outputs, k, k, inputs in fours, 4, lanes]``."""
    width = lanes(values.dtype)
    values = values.unflatten(0, (phases, -1))
    values = pad(values, (0, 0, 0, 0, 0, -values.shape[2] % 4, 0, -values.shape[1] % width))
    blocks = values.unflatten(1, (-1, width))
    return blocks.permute(0, 1, 4, 5, 3, 2).contiguous()


def _loaded() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None, "callers ask library() first"
    return loaded
