"""The layers of the sampling engine: a neuron with what is added in front of it, a residual
block, a change of size. Each is a snapshot of the network's own layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sddpm.engine.convolutions import (
    Bytes,
    Convolution,
    FloatConvolution,
    StepScale,
    TemporalConvolution,
    bytes_run,
    fold,
    prepare,
)
from sddpm.kernels import neurons as kernels
from sddpm.kernels.lookup import LookupConvolution
from sddpm.kernels.neurons import Affine
from sddpm.neurons import MeanReadout, SpikingNeuron
from sddpm.unet import Downsample, ResidualBlock, Upsample


@dataclass(frozen=True)
class Precision:
    """Number formats of the engine."""

    currents: torch.dtype
    """Type of everything between two neurons: float32 or bfloat16."""
    weight_parts: int
    """int8 parts of a weight that spikes select: 1 to 3; 0 for weights in ``currents``. Without
    int8 instructions 1 is a weight of 8 bits or more, 2 and 3 one of 24 or more."""


def in_bytes(neuron: nn.Module) -> Bytes | None:
    """Contents of the bytes that ``neuron`` sends; None where bytes are no faster here."""
    if not isinstance(neuron, SpikingNeuron) or neuron.dynamics() is None:
        return None
    held: Bytes = "counts" if neuron.emits == "counts" else "spikes"
    return held if bytes_run(held) else None


class Activation:
    """An activation fused with the sum that is its input.

    Args:
        module: the network's layer; copied.
        precision: what the currents are in.
    """

    def __init__(self, module: nn.Module, precision: Precision) -> None:
        self.module = copy.deepcopy(module).eval()
        self.dynamics = module.dynamics() if isinstance(module, SpikingNeuron) else None
        self.time_steps: int = getattr(module, "time_steps", 1)
        self.dtype = precision.currents
        self.in_bytes = in_bytes(module) if precision.weight_parts else None
        self.observe: Callable[[Tensor], None] | None = None
        """Called with the activations of every pass, if set."""

    def convolution(
        self, conv: nn.Conv2d, norm: nn.Module, precision: Precision, doubling: bool = False
    ) -> Convolution:
        """The convolution that reads this activation."""
        weight, bias = fold(conv, norm)
        prepared = prepare(
            *(weight, bias, conv.stride[0]),
            parts=precision.weight_parts,
            dtype=self.dtype,
            bytes_in=self.in_bytes,
            doubling=doubling,
        )
        scale = StepScale(conv, norm)
        return TemporalConvolution(prepared, scale) if scale.p else prepared

    def __call__(
        self,
        y: Tensor,
        *,
        residual: Tensor | None = None,
        per_image: Tensor | None = None,
        keep_sum: bool = False,
        constant: bool = False,
        out: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Activations of ``y + residual + per_image``, and that sum if ``keep_sum``.

        Args:
            per_image: ``[images, channels]``, float32.
            constant: ``y`` is the same at every spiking step and given once.
            out: where to write the activations.
            dtype: type of new activations.
        """
        fired, sums = self._fire(y, residual, per_image, keep_sum, constant, out, dtype)
        if self.observe is not None:
            self.observe(fired)
        return fired, sums

    def _fire(
        self,
        y: Tensor,
        residual: Tensor | None,
        per_image: Tensor | None,
        keep_sum: bool,
        constant: bool,
        out: Tensor | None,
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = dtype or (torch.uint8 if self.in_bytes else self.dtype)
        if self.dynamics is not None and kernels.usable(y):
            affine = None
            if per_image is not None:
                affine = Affine(None, per_image.contiguous())
            spikes, sums = kernels.fire(
                y, self.time_steps, self.dynamics, affine=affine, residual=residual,
                keep_sum=keep_sum, constant=constant, spikes=out, dtype=dtype,
            )  # fmt: skip
            assert spikes is not None
            return spikes, y if sums is None else sums
        if per_image is not None:
            steps = y.unflatten(0, (-1, len(per_image)))
            y = (steps + per_image[:, :, None, None].to(y.dtype)).flatten(0, 1)
        if residual is not None:
            y = y + residual
        h = y.repeat(self.time_steps, 1, 1, 1) if constant else y
        spikes = self.module(h).to(dtype)
        return spikes if out is None else out.copy_(spikes), y


class Block:
    """A residual block after its first activation."""

    def __init__(self, block: ResidualBlock, skip: int, precision: Precision) -> None:
        """``skip``: channels of the input that come from the way down (0: none)."""
        self.act1, self.act2 = (Activation(x, precision) for x in (block.act1, block.act2))
        self.conv1 = self.act1.convolution(block.conv1, block.bn1, precision)
        self.conv2 = self.act2.convolution(block.conv2, block.bn2, precision)
        self.shortcuts: list[FloatConvolution] = []
        self.channels, self.skip = block.conv1.in_channels, skip
        # A sequence reads the mean over the spiking steps, and its result is repeated.
        self.mean_over, projection = 1, block.shortcut
        if isinstance(projection, nn.Sequential):
            readout, projection, _ = projection
            assert isinstance(readout, MeanReadout)
            self.mean_over = readout.time_steps
        self.shortcut_scale = StepScale(projection, None)
        if isinstance(projection, nn.Conv2d):
            weight, bias = fold(projection, None)
            first = self.channels - skip
            dtype = precision.currents
            self.shortcuts.append(FloatConvolution(weight[:, :first], bias, dtype=dtype))
            if skip:
                self.shortcuts.append(FloatConvolution(weight[:, first:], None, dtype=dtype))

    def __call__(
        self, spikes: Tensor, inputs: list[Tensor], per_image: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """``inputs``: the real tensors whose concatenation fired ``spikes``. Returns two tensors
        whose sum is the block's output, or that output and None."""
        middle, _ = self.act2(self.conv1(spikes), per_image=per_image)
        residual = inputs[0]
        if self.shortcuts:
            if self.mean_over > 1:
                inputs = [x.unflatten(0, (self.mean_over, -1)).mean(0) for x in inputs]
            residual = self.shortcuts[0](inputs[0])
            for shortcut, other in zip(self.shortcuts[1:], inputs[1:], strict=True):
                shortcut.add_to(residual, other)
            if self.mean_over > 1:
                residual = kernels.channels_last(residual.repeat(self.mean_over, 1, 1, 1))
            residual = self.shortcut_scale(residual)
            if isinstance(self.conv2, LookupConvolution):
                self.conv2.add_to(residual, middle)
                return residual, None
        return self.conv2(middle), residual


class Resize:
    """A down-sampling or up-sampling layer."""

    def __init__(self, layer: Downsample | Upsample, precision: Precision) -> None:
        self.act1 = Activation(layer.act, precision)
        doubling = isinstance(layer, Upsample)
        self.conv = self.act1.convolution(layer.conv, layer.bn, precision, doubling)
        self.spikes_type = self.conv.reads  # type: ignore[attr-defined]
