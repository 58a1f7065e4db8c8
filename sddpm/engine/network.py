"""Networks prepared for speed: for sampling (:func:`optimize`) and for training
(:func:`prepare_for_training`).

The sampling engine

- folds BatchNorm into the convolutions;
- fuses neurons with the sums in front of them, in one pass over memory;
- keeps spikes in one byte and writes them directly into the concatenations;
- computes convolutions of spikes on 8-bit integers, by looked-up sums, or by Winograd's algorithm
  if they must be exact;
- projects the time embedding for all blocks at once;
- evaluates large batches in parts that fit the cache.

A step that the machine cannot run is left out.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from spikingjelly.activation_based.surrogate import SurrogateFunctionBase
from torch import Tensor, nn
from torch.nn.functional import silu

from sddpm.diffusion import NoiseOutput
from sddpm.engine.convolutions import (
    FloatConvolution,
    SpikeConvolution,
    StepScale,
    TemporalConvolution,
    affine_of,
    bfloat16_runs,
    fold,
)
from sddpm.engine.layers import Activation, Block, Precision, Resize, in_bytes
from sddpm.kernels import neurons as kernels
from sddpm.kernels.lookup import LookupConvolution
from sddpm.kernels.winograd import WinogradConvolution
from sddpm.layers import TimeEmbedding, each_step
from sddpm.neurons import (
    DirectEncoding,
    MeanReadout,
    MembraneReadout,
    QuantReLU,
    ReLU,
    SpikingNeuron,
)
from sddpm.split_norm import SplitBatchNorm2d
from sddpm.temporal import TemporalConv2d
from sddpm.unet import Downsample, Head, ResidualBlock, Stem, UNet, Upsample

_log = logging.getLogger(__name__)
_PASS_BYTES = 4 << 20
"""Size of the largest intermediate tensor. Larger batches are evaluated in parts, whose memory
stays in the cache and is reused."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""``eps = f(x, t)``."""


MODES = {"exact": Precision(torch.float32, 3), "fast": Precision(torch.bfloat16, 1)}
"""``exact``: equal to the network but for rounding, as one float32 implementation to another. On
some inputs a rounding flips a spike, and the output moves visibly, as it does between float32 and
float64. Of 64 images of a shipped network the median output moves by 4e-8 and the largest by 3e-4;
over whole chains the Frechet distance moves by less than it does with other seeds
(results/speed.md).
``fast``: weights rounded to 8 bits or a few more and, where the processor multiplies it, currents
to bfloat16, which changes single spikes and so the samples, but not measurably their distribution
(see results/speed.md)."""


def prepare_for_training(module: nn.Module) -> nn.Module:
    """Put ``module``'s weights into channels-last memory and return it: its convolutions then
    run, and its fused normalisations engage, in that order. Values do not change.

    Weights in that order are not ``is_contiguous()``: formats that ask for it need a copy.
    """
    return module.to(memory_format=torch.channels_last)


def optimize(module: nn.Module, mode: Literal["exact", "fast"] | Precision = "exact") -> Denoise:
    """Prepare a trained network for many evaluations.

    The result is a snapshot: changes of ``module`` afterwards (weights, thresholds) do not
    reach it, so call this again after them. It takes some tens of milliseconds, and 2 seconds
    more at the first use on a machine, for compiling the neurons.

    Args:
        module: a :class:`sddpm.unet.UNet`. Anything else, and a UNet with layers of other kinds
            or with hooks, is called as it is, in evaluation mode and without gradients.
        mode: a key of :data:`MODES`, or a precision of your own. Networks without spikes, and
            machines without int8 or bfloat16 instructions, use the next best of each; where nothing
            is faster for being rounded, ``fast`` is ``exact`` and a warning says so.

    Returns:
        ``eps = f(x, t)``, as ``module(x, t)``, float32, any batch size.

    Raises:
        ValueError: the mode is unknown.
    """
    if isinstance(mode, str) and mode not in MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}, or a Precision")
    precision = MODES[mode] if isinstance(mode, str) else mode
    if not preparable(module):
        return _AsItIs(module)
    assert isinstance(module, UNet)
    if next(module.parameters()).device.type == "cuda":
        from sddpm.engine.cuda import CapturedNetwork

        return CapturedNetwork(module, half=precision.currents != torch.float32)
    with torch.autocast("cpu", enabled=False):  # weights are prepared in types of our own
        return OptimizedUNet(module, precision)


def preparable(net: nn.Module) -> bool:
    """Whether ``net`` is a U-Net with layers of the kinds that the engine replaces, and nobody
    watches: a subclass, a hook, or a ``forward`` put on one layer may compute something else."""
    containers = (
        *(Stem, ResidualBlock, Downsample, Upsample, Head, UNet, nn.ModuleList, nn.Sequential),
        *(MeanReadout, DirectEncoding, MembraneReadout, NoiseOutput, nn.Identity),
    )
    known = (
        *(*containers, TimeEmbedding),
        *(nn.Conv2d, TemporalConv2d, nn.BatchNorm2d, SplitBatchNorm2d, nn.Linear, ReLU, QuantReLU),
    )
    # The engine reads the membranes out behind the head, a rate code its mean in front of it.
    return (
        type(net) is UNet
        and not net.rate_coded
        and all(
            (type(layer) in known or isinstance(layer, SpikingNeuron | SurrogateFunctionBase))
            and not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))
            for layer in net.modules()
        )
    )


class _AsItIs:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        training = self.module.training
        self.module.eval()
        try:
            with torch.inference_mode():
                return self.module(x, t)
        finally:
            self.module.train(training)


def _rounds(net: UNet, precision: Precision) -> bool:
    """Whether one part a weight, or the type of the currents, changes any arithmetic."""
    return precision.currents != torch.float32 or in_bytes(net.stem.act) is not None


@cache
def _say_once(text: str) -> None:
    _log.warning(text)


class OptimizedUNet:
    """A snapshot of a U-Net, ready to be evaluated; see :func:`optimize`."""

    def __init__(self, net: UNet, precision: Precision) -> None:
        if precision.currents == torch.bfloat16 and not bfloat16_runs():
            precision = Precision(torch.float32, precision.weight_parts)
        self.note = ""
        if precision.weight_parts == 1 and not _rounds(net, precision):
            precision = MODES["exact"]
            self.note = "; nothing here is faster for being rounded, so this is exact"
            _say_once("the fast mode has no faster arithmetic for this network on this machine, "
                      "so it is the exact mode")  # fmt: skip
        self.precision = precision
        self.time_steps = net.config.time_steps
        self.embedding = copy.deepcopy(net.time_embedding).eval()
        self._prepare_stem(net.stem)
        self.down = [self._layer(layer, 0) for layer in net.down]
        self.middle = [self._layer(layer, 0) for layer in net.middle]
        self.stem_channels = net.stem.conv2.out_channels
        widths = [self.stem_channels]
        for layer in net.down:
            assert isinstance(layer, ResidualBlock | Downsample)
            last = layer.conv2 if isinstance(layer, ResidualBlock) else layer.conv
            widths.append(last.out_channels)
        self.up = [
            self._layer(layer, widths.pop() if isinstance(layer, ResidualBlock) else 0)
            for layer in net.up
        ]
        blocks = [x for x in net.modules() if isinstance(x, ResidualBlock)]
        # All blocks' projections of the time embedding in one product.
        self.project_weight = torch.cat([x.embed.weight.detach() for x in blocks])
        self.project_bias = torch.cat([x.embed.bias.detach() for x in blocks])
        self.project_sizes = [x.embed.out_features for x in blocks]
        self._prepare_head(net.head)
        self.readout = copy.deepcopy(net.readout).eval()
        self.output = net.output

    def _layer(self, layer: nn.Module, skip: int) -> Block | Resize:
        if isinstance(layer, ResidualBlock):
            return Block(layer, skip, self.precision)
        assert isinstance(layer, Downsample | Upsample)
        return Resize(layer, self.precision)

    def _prepare_stem(self, stem: Stem) -> None:
        self.stem_conv1 = FloatConvolution(*fold(stem.conv1, stem.bn1))
        self.stem_scale = StepScale(stem.conv1, stem.bn1)
        self.stem_act = Activation(stem.act, self.precision)
        self.stem_conv2 = self.stem_act.convolution(stem.conv2, stem.bn2, self.precision)
        self.stem_shortcut: FloatConvolution | None = None
        if stem.shortcut is not None:
            self.stem_shortcut = FloatConvolution(*fold(*stem.shortcut))
        self.stem_gain = copy.deepcopy(stem.gain)

    def _prepare_head(self, head: Head) -> None:
        scale, shift = affine_of(head.bn)
        self.head_scale = scale.float()[:, None, None].to(self.precision.currents)
        self.head_shift = shift.float()[:, None, None].to(self.precision.currents)
        weight, bias = fold(head.conv, None)
        self.head_conv = FloatConvolution(weight, bias, dtype=self.precision.currents)
        self.head_step_scale = StepScale(head.conv, None)
        self.temporal_conv = FloatConvolution(*fold(head.temporal_conv, head.temporal_bn))

    def describe(self) -> str:
        """Description of the engine in words, for logs and tables."""
        native = self.stem_act.dynamics is not None and kernels.library() is not None
        conv = self.stem_conv2
        conv = conv.conv if isinstance(conv, TemporalConvolution) else conv
        parts = "plain"
        if isinstance(conv, SpikeConvolution):
            parts = f"int8 x {self.precision.weight_parts}"
        elif isinstance(conv, WinogradConvolution):
            parts = "Winograd float32"
        elif isinstance(conv, LookupConvolution):
            parts = f"looked-up {32 if conv.wide else 16}-bit sums of"
        currents = str(self.precision.currents).removeprefix("torch.")
        neurons = "native" if native else "torch"
        return f"{parts} weights, {currents} currents, {neurons} neurons{self.note}"

    def firing_rates(self, x: Tensor, t: Tensor) -> list[float]:
        """Mean activation of every neuron layer in an evaluation, in the order in which they
        run; a concatenation's two parts count as two."""
        rates: list[float] = []
        layers = [*self.down, *self.middle, *self.up]
        acts = [self.stem_act, *(x.act1 for x in layers)]
        acts += [x.act2 for x in layers if isinstance(x, Block)]
        for act in acts:
            act.observe = lambda spikes: rates.append(spikes.float().mean().item())
        try:
            with torch.inference_mode():
                self._evaluate(x, t)
        finally:
            for act in acts:
                act.observe = None
        return rates

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise in ``x`` ``[batch, image_channels, H, W]`` at diffusion steps ``t``."""
        t = each_step(t, x)
        _, _, height, width = x.shape
        numbers = self.time_steps * height * width * self.stem_channels
        images = max(1, _PASS_BYTES // (numbers * self.precision.currents.itemsize))
        passes = zip(x.split(images), t.split(images), strict=True)
        with torch.autocast("cpu", enabled=False):  # it has a precision of its own
            return torch.cat([self._evaluate(*part) for part in passes])

    def _evaluate(self, x: Tensor, t: Tensor) -> Tensor:
        embedding = silu(self.embedding(t))
        projected = torch.addmm(self.project_bias, embedding, self.project_weight.T)
        per_image = iter(projected.split(self.project_sizes, dim=1))

        x = x.float().contiguous(memory_format=torch.channels_last)
        y = self.stem_conv1(x)
        if self.stem_scale.p:
            y = self.stem_scale(y.repeat(self.time_steps, 1, 1, 1))
        spikes, _ = self.stem_act(y, constant=not self.stem_scale.p)
        # `pair`: two tensors (the second may be None) whose sum is the running tensor.
        detail = None
        if self.stem_shortcut is not None:
            detail = self.stem_shortcut(x)
            if self.stem_gain is not None:
                detail = detail * self.stem_gain(embedding).exp()[:, :, None, None]
            detail = detail.to(self.precision.currents)
            detail = kernels.channels_last(detail.repeat(self.time_steps, 1, 1, 1))
        pair: tuple[Tensor, Tensor | None] = self.stem_conv2(spikes), detail
        stored: list[Tensor] = []
        for layer in [*self.down, *self.middle]:
            spikes, h = self._enter(layer, pair)
            if len(stored) <= len(self.down):
                stored.append(h)
            if isinstance(layer, Block):
                pair = layer(spikes, [h], next(per_image))
            else:
                pair = layer.conv(spikes), None
        for layer in self.up:
            if isinstance(layer, Resize):
                spikes, _ = self._enter(layer, pair, keep=False)
                pair = layer.conv(spikes), None
                continue
            spikes, inputs = self._concatenate(layer, pair, stored.pop())
            pair = layer(spikes, inputs, next(per_image))
        raw = self._head(pair[0] if pair[1] is None else pair[0] + pair[1])
        return self.output(raw, x, t)

    def _enter(
        self, layer: Block | Resize, pair: tuple[Tensor, Tensor | None], keep: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Spikes for ``layer`` and the running tensor itself (if ``keep``)."""
        y, residual = pair
        dtype = layer.spikes_type if isinstance(layer, Resize) else None
        return layer.act1(y, residual=residual, keep_sum=keep and residual is not None, dtype=dtype)

    def _concatenate(
        self, block: Block, pair: tuple[Tensor, Tensor | None], skip: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Spikes of the concatenation of the running and the stored tensor, and both."""
        y, residual = pair
        act = block.act1
        spikes = torch.empty(
            (len(y), block.channels, *y.shape[2:]),
            dtype=torch.uint8 if act.in_bytes else self.precision.currents,
            memory_format=torch.channels_last,
        )
        first = block.channels - block.skip
        _, h = act(y, residual=residual, keep_sum=residual is not None, out=spikes[:, :first])
        act(skip, out=spikes[:, first:])
        return spikes, [h, skip]

    def _head(self, h: Tensor) -> Tensor:
        h = silu(torch.addcmul(self.head_shift, h, self.head_scale), inplace=True)
        h = self.head_step_scale(self.head_conv(h).float())
        return self.readout(h + silu(self.temporal_conv(h)))
