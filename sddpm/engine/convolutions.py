"""Convolutions prepared for inference: BatchNorm folded, weights packed in the cheapest type.

A convolution that reads spikes can run on integers: activations 0 and 1 are exact there.

- On 8-bit integers a weight is a sum of one to three int8 parts, each 254 times finer than the
  one before. One part rounds a weight to 1/254 of its channel's largest, two to 1.5e-5, three to
  6e-8, which is float32's own rounding. This needs a processor with int8 dot products.
- By looked-up sums (:mod:`sddpm.kernels.lookup`) weights are integers whose sums have 16 or 32
  bits. This needs compiled kernels and binary spikes. Counts of events have products only.

Products and sums are exact in any case. Looked-up sums are the faster of the two, but for few
outputs and one part a weight (``benchmarks/what_lost.md`` has the times).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from sddpm.kernels import lookup
from sddpm.kernels.lookup import LookupConvolution
from sddpm.kernels.processor import allows
from sddpm.kernels.winograd import WinogradConvolution, divides
from sddpm.temporal import TemporalConv2d
from sddpm.upsampling import doubled_weight, phase_weights

_log = logging.getLogger(__name__)
_PART_RATIO = 254.0  # a part's rounding error is half a step; the next part has 127 to say it with

Bytes = Literal["spikes", "counts"]
"""Contents of an input that is kept in bytes: 0 and 1, or numbers of events."""
Convolution = Callable[[Tensor], Tensor]
"""``[batch, inputs, H, W]`` in channels-last memory to ``[batch, outputs, H', W']``."""


def fold(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``norm(conv(x))`` in evaluation, computed in float64."""
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    if conv.bias is not None:
        bias = conv.bias.detach().double()
    if norm is None:
        return weight.float(), bias.float()
    scale, shift = affine_of(norm)
    return (weight * scale[:, None, None, None]).float(), (bias * scale + shift).float()


def affine_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm with running statistics, float64 ``[channels]``.

    Raises:
        ValueError: it is another kind of normalisation.
    """
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
        raise ValueError(
            f"{type(norm).__name__}: only BatchNorm2d with running statistics can be folded"
        )
    assert norm.running_var is not None
    mean, scale = norm.running_mean.double(), (norm.running_var.double() + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.affine:
        gain = norm.weight.detach().double()
        scale, shift = scale * gain, shift * gain + norm.bias.detach().double()
    return scale, shift


class StepScale:
    """TSM's factors behind a folded convolution: ``p[s] y[s] + (1 - p[s]) shift``, since
    ``BN(p y) = p BN(y) + (1 - p) shift``. The identity for a convolution without them.

    Args:
        conv: the network's layer; only a :class:`TemporalConv2d` has factors.
        norm: the BatchNorm behind it, if there is one.
    """

    def __init__(self, conv: nn.Module, norm: nn.Module | None) -> None:
        self.p: list[float] = conv.p.tolist() if isinstance(conv, TemporalConv2d) else []
        self.shift = None if norm is None else affine_of(norm)[1].float()[:, None, None]

    def __call__(self, y: Tensor) -> Tensor:
        """``y``: ``[time_steps * images, channels, H, W]``; changed in place."""
        if not self.p:
            return y
        for p, step in zip(self.p, y.chunk(len(self.p)), strict=True):
            if self.shift is None:
                step.mul_(p)
            else:
                # Added up in float32, whatever y is in: p is too close to 1 for bfloat16.
                torch.add((1 - p) * self.shift.to(y.dtype), step, alpha=p, out=step)
        return y


class TemporalConvolution:
    """A prepared convolution with TSM's factors behind it."""

    def __init__(self, conv: Convolution, scale: StepScale) -> None:
        self.conv, self.scale = conv, scale
        self.reads = conv.reads  # type: ignore[attr-defined]

    def __call__(self, x: Tensor) -> Tensor:
        return self.scale(self.conv(x))


class FloatConvolution:
    """A convolution in float32 or bfloat16.

    Args:
        weight: ``[outputs, inputs, k, k]``.
        bias: ``[outputs]``, or None.
        stride: of the convolution; the padding keeps the size at stride 1.
        dtype: type of activations and weights.
        doubling: convolve the input doubled in height and width (3x3, stride 1).
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: int = 1,
        dtype: torch.dtype = torch.float32,
        doubling: bool = False,
    ) -> None:
        self.reads = dtype
        self.stride, self.padding, self.doubling = stride, weight.shape[2] // 2, doubling
        weight = doubled_weight(weight.double()).float() if doubling else weight
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.reads)
        if self.doubling:
            return conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)
        return conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """Add the convolution of ``x`` (1x1, no bias) to ``sums``."""
        if self.reads == torch.float32:  # float32 products are twice as fast in the convolution
            sums.add_(self(x))
            return
        flat = sums.permute(0, 2, 3, 1).flatten(0, 2)
        flat.addmm_(x.permute(0, 2, 3, 1).flatten(0, 2), self.weight.flatten(1).T)


class SpikeConvolution:
    """A convolution of 8-bit spikes with weights in int8 parts.

    Args:
        weight: ``[outputs, inputs, k, k]``, float32.
        bias: ``[outputs]``, float32.
        stride: of the convolution; the padding keeps the size at stride 1.
        parts: int8 parts of a weight, 1 to 3.
        dtype: type of the result, float32 or bfloat16.
    """

    reads = torch.uint8

    def __init__(
        self, weight: Tensor, bias: Tensor, *, stride: int, parts: int, dtype: torch.dtype
    ) -> None:
        self.dtype, self.bias = dtype, bias.float()
        padding = weight.shape[2] // 2
        self.geometry = [stride, stride], [padding, padding], [1, 1], 1
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.parts = []
        for values, scale in int8_parts(weight, parts):
            packed = torch.ops.onednn.qconv_prepack(values, scale, 1.0, 0, *self.geometry, None)
            self.parts.append((packed, scale))

    def __call__(self, x: Tensor) -> Tensor:
        """``x``: uint8, 0 or 1."""
        (packed, scale), *finer = self.parts
        # The finest part first: small numbers are added up before large ones.
        last = None
        for fine, fine_scale in reversed(finer):
            last = self._run(x, fine, fine_scale, None, last)
        return self._run(x, packed, scale, self.bias, last)

    def _run(
        self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, sums: Tensor | None
    ) -> Tensor:
        # Scales and zero points of input and output: spikes are plain, results are not quantised.
        source = (x, 1.0, 0, weight, scale, self.zeros)
        if sums is None:
            return torch.ops.onednn.qconv2d_pointwise(
                *source, bias, *self.geometry, 1.0, 0, self.dtype, "none", [], ""
            )
        return torch.ops.onednn.qconv2d_pointwise.binary(
            *source, sums, bias, *self.geometry, 1.0, 0, self.dtype, 1.0, 0, "sum", 1.0,
            "none", [], "",
        )  # fmt: skip


class DoublingSpikeConvolution:
    """:class:`SpikeConvolution` (3x3) of spikes doubled in height and width.

    Each of the four pixels that an input pixel becomes sees a 2x2 kernel of its own over the
    small image; one convolution computes all four.
    """

    reads = torch.uint8

    def __init__(self, weight: Tensor, bias: Tensor, *, parts: int, dtype: torch.dtype) -> None:
        weights = phase_weights(weight.double()).float()
        self.conv = SpikeConvolution(weights, bias.repeat(4), stride=1, parts=parts, dtype=dtype)

    def __call__(self, x: Tensor) -> Tensor:
        phases = self.conv(x).chunk(4, dim=1)  # one more row and column than the input
        batch, channels, height, width = phases[0].shape
        height, width = height - 1, width - 1
        out = torch.empty(
            (batch, channels, 2 * height, 2 * width),
            dtype=self.conv.dtype,
            memory_format=torch.channels_last,
        )
        for number, phase in enumerate(phases):
            row, column = divmod(number, 2)
            window = phase[..., row : row + height, column : column + width]
            out[..., row::2, column::2] = window
        return out


def prepare(
    weight: Tensor,
    bias: Tensor,
    stride: int,
    *,
    parts: int,
    dtype: torch.dtype,
    bytes_in: Bytes | None,
    doubling: bool,
) -> Convolution:
    """The fastest convolution for an activation.

    Args:
        weight: ``[outputs, inputs, k, k]``, float32.
        bias: ``[outputs]``, float32.
        stride: of the convolution; the padding keeps the size at stride 1.
        parts: int8 parts of a weight, where it is in any. Looked-up sums have 16 bits in place
            of one part, 32 in place of more.
        dtype: type of the result.
        bytes_in: what the input in bytes holds (:func:`bytes_run`); None: it is in ``dtype``.
        doubling: convolve the input doubled in height and width.
    """
    if bytes_in == "spikes" and lookup.library() is not None:
        # A row of a table that outputs do not fill costs as much as a full one.
        filled = len(weight) % lookup.lanes(torch.int16) == 0
        if parts > 1 or doubling or filled or not int8_runs():
            return LookupConvolution(
                weight, bias, stride=stride, wide=parts > 1, dtype=dtype, doubling=doubling
            )

    def direct() -> Convolution:
        # In several parts, a doubled convolution is no faster than in floating point.
        if bytes_in and doubling and parts == 1:
            return DoublingSpikeConvolution(weight, bias, parts=parts, dtype=dtype)
        if bytes_in and not doubling:
            return SpikeConvolution(weight, bias, stride=stride, parts=parts, dtype=dtype)
        return FloatConvolution(weight, bias, stride=stride, dtype=dtype, doubling=doubling)

    exact = parts != 1 and dtype == torch.float32
    if not exact or stride != 1 or doubling or not divides(weight):
        return direct()
    reads = torch.uint8 if bytes_in else dtype
    return WinogradConvolution(weight, bias, reads=reads, otherwise=direct)


def int8_parts(weight: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
    """Split ``weight`` ``[outputs, ...]`` into int8 tensors with one scale for each output channel,
    coarsest first. The sum of ``values * scale`` equals the weight up to the last rounding."""
    rest = weight.double().flatten(1)
    scale = rest.abs().amax(1).clamp_min(1e-30) / 127
    result = []
    for _ in range(parts):
        values = (rest / scale[:, None]).round().clamp_(-127, 127)
        rest = rest - values * scale[:, None]
        result.append((values.to(torch.int8).view_as(weight), scale.float()))
        # The float32 scale is what is multiplied with, so what it misses belongs to the rest.
        rest = rest + values * (scale - scale.float().double())[:, None]
        scale = scale / _PART_RATIO
    return result


@cache
def int8_runs() -> bool:
    """Whether this machine computes int8 convolutions, correctly and at their full speed."""
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):
        return False
    if not allows("avx512_vnni"):
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, 3, 3, generator=generator, dtype=torch.float32)
    bias = torch.ones(8, dtype=torch.float32)
    spikes = torch.randint(0, 2, (2, 8, 5, 5), generator=generator, dtype=torch.uint8)
    spikes = spikes.contiguous(memory_format=torch.channels_last)
    try:
        conv = SpikeConvolution(weight, bias, stride=1, parts=3, dtype=torch.float32)
        result = conv(spikes)
    except (RuntimeError, AttributeError, TypeError) as error:
        _log.info("no int8 convolutions in this torch: %s", str(error).splitlines()[0])
        return False
    return torch.allclose(result, conv2d(spikes.float(), weight, bias, 1, 1), atol=1e-4)


def bytes_run(held: Bytes) -> bool:
    """Whether this machine convolves an input in bytes faster than one in floating point."""
    return int8_runs() or (held == "spikes" and lookup.library() is not None)


@cache
def bfloat16_runs() -> bool:
    """Whether this processor multiplies bfloat16 natively, so that it is faster than float32."""
    has_it = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    return has_it and allows("avx512_bf16")
