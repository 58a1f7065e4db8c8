"""Common parts of the spiking GANs: neuron, norm, generator, read-outs. Not a system.

Sizes, constants and initial values are those of Feng, Zhao and Zeng, "Spiking Generative
Adversarial Network with Attention Scoring Decoding", arXiv 2305.10246, and its code
(Brain-Cog-Lab/sgad, Apache-2.0), read and written anew. Images inside the networks are in
[0, 1], as there.

Spiking time is folded into the batch, ``[time_steps * batch, ...]`` with time as the slow axis.
What is constant in time (the latent, an image) is multiplied once and repeated after its norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.spiking_layers import LeakyNeuron, TrackedNorm
from sddpm.layers import Reads, declare
from sddpm.neurons import DirectEncoding, MembraneReadout, check_time_steps
from sddpm.protocol import ImageShape

KEPT = 0.5
"""Share of a membrane, and weight of its input: ``v[s] = v[s-1] + (x[s] - v[s-1]) / 2``."""


@dataclass(frozen=True)
class GanConfig:
    """Options that all spiking GANs share."""

    time_steps: int = 16
    """Spiking time steps of the generator, and of the critic where it spikes."""
    latent: int = 10
    """Normal latent variables an image, repeated at every step."""
    hidden: int = 1024
    """Width of the generator's first layer."""
    channels: int = 128
    """Channels of the generator's smallest feature map; each doubling of the size halves them."""
    learning_rate: float = 2e-4
    """Step size of the generator."""
    critic_learning_rate: float = 2e-4
    """Step size of the critic (the discriminator)."""


@dataclass(frozen=True)
class ArcTangent:
    """Derivative of a step at ``centre`` by the arctangent's, with respect to ``u * scale``:
    ``scale * (alpha / 2) / (1 + (pi / 2 * alpha * scale * (u - centre))^2)``."""

    centre: float
    scale: float = 1.0
    alpha: float = 2.0

    def __call__(self, u: Tensor) -> Tensor:
        x = (u - self.centre) * (math.pi / 2 * self.alpha * self.scale)
        return (self.scale * self.alpha / 2) / (x.square() + 1)


def neuron(time_steps: int) -> LeakyNeuron:
    """The papers' LIF: ``v[s] = v[s-1] + (x[s] - v[s-1]) / 2``, a spike where ``v > 1``, hard
    reset to 0 and detached. Kept as ``u = 2 v``, which saves halving every input."""
    scale = 1 - KEPT
    return LeakyNeuron(
        time_steps,
        decay=KEPT,
        threshold=1 / scale,
        surrogate=ArcTangent(1 / scale, scale),
        detach_reset=True,
    )


class LastMembrane(nn.Module):
    """The neuron without threshold and reset, read at the last step: ``v[T]``, or ``v[T] / T``."""

    def __init__(self, time_steps: int, *, divided: bool) -> None:
        super().__init__()
        self.sum = MembraneReadout(time_steps, KEPT)
        self.scale = (1 - KEPT) / (time_steps if divided else 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, ...]`` of currents ``[time_steps * batch, ...]``."""
        membrane: Tensor = self.sum(x.float())
        return membrane * self.scale


class StepBatchNorm(TrackedNorm):
    """Batch norm with separate statistics for each spiking step and one affine map for all.

    Accepts ``[time_steps * batch, channels]`` and ``[time_steps * batch, channels, H, W]``.
    There, one set of running statistics follows the steps in turn although no two of them are
    alike (at the first every membrane is empty), and nothing ever reads it, since evaluation
    mode is never switched on. Here every step has a row, so that evaluation computes what
    training did.
    """

    def __init__(
        self, channels: int, time_steps: int, *, momentum: float = 0.1, eps: float = 1e-5
    ) -> None:
        super().__init__((time_steps, channels), momentum, eps)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.unflatten(0, (len(self.running_mean), -1))
        if not self.training:
            rows = zip(steps, self.running_mean, self.running_var, strict=True)
            return torch.cat([self._normalised(*row) for row in rows])
        # At momentum 1 the operator leaves this batch's own statistics.
        mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        rows = zip(steps, mean, var, strict=True)
        out = torch.cat([self._normalised(*row) for row in rows])
        self.track(mean, var)
        return out

    def _normalised(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return functional.batch_norm(
            x, mean, var, self.weight, self.bias, self.training, 1.0, self.eps
        )

    def extra_repr(self) -> str:
        steps, channels = self.running_mean.shape
        return f"{channels}, time_steps={steps}"


class ConstantBlock(nn.Module):
    """A layer that reads the same real numbers at every step, its norm and its neurons."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, time_steps: int) -> None:
        super().__init__()
        self.layer = declare(layer, reads="real")
        # Of a constant every step has the same statistics.
        self.norm = StepBatchNorm(layer.weight.shape[0], 1)
        self.repeat = DirectEncoding(time_steps)
        self.neuron = neuron(time_steps)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``[time_steps * batch, ...]`` of ``[batch, ...]``."""
        spikes: Tensor = self.neuron(self.repeat(self.norm(self.layer(x))))
        return spikes


class Block(nn.Module):
    """A layer, its norm and its neurons."""

    def __init__(self, layer: nn.Module, channels: int, time_steps: int, reads: Reads) -> None:
        super().__init__()
        self.layer = declare(layer, reads=reads)
        self.norm = StepBatchNorm(channels, time_steps)
        self.neuron = neuron(time_steps)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of ``[time_steps * batch, ...]``."""
        spikes: Tensor = self.neuron(self.norm(self.layer(x)))
        return spikes


class GeneratorStack(nn.Module):
    """Latents to the currents of the image's pixels, at every spiking step.

    Two linear layers and transposed convolutions that double the size: two of them up to 32
    pixels (2, 4, 8; 7, 14, 28; 8, 16, 32) and three above (8, 16, 32, 64), as published for 28
    and for 64 pixels.

    Raises:
        ValueError: the size cannot be doubled so, or the channels cannot be halved so.
    """

    def __init__(self, config: GanConfig, shape: ImageShape) -> None:
        super().__init__()
        steps = check_time_steps(config.time_steps)
        doublings = 2 if shape.size <= 32 else 3
        if shape.size < 8 or shape.size % 2**doublings:
            raise ValueError(
                f"image size {shape.size}: expected a multiple of 4 from 8 to 32, or of 8 above"
            )
        if config.channels < 2 or config.channels % 2 ** (doublings - 1):
            raise ValueError(
                f"channels={config.channels}: expected a multiple of {2 ** (doublings - 1)} "
                f"for images of {shape.size} pixels"
            )
        size = shape.size >> doublings
        self.bottom = (config.channels, size, size)
        features = config.channels * size * size
        self.fc1 = ConstantBlock(nn.Linear(config.latent, config.hidden), steps)
        self.fc2 = Block(nn.Linear(config.hidden, features), features, steps, "spikes")
        widths = [config.channels >> level for level in range(doublings)]
        self.levels = nn.Sequential(*self._levels(widths, steps))
        last = nn.ConvTranspose2d(widths[-1], shape.channels, 4, 2, 1)
        self.last = declare(last, reads="spikes")

    def _levels(self, widths: list[int], steps: int) -> Iterator[Block]:
        for inputs, outputs in pairwise(widths):
            yield Block(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), outputs, steps, "spikes")

    def forward(self, z: Tensor) -> Tensor:
        """Currents ``[time_steps * batch, C, H, W]``, float32, of latents ``[batch, latent]``."""
        spikes = self.fc2(self.fc1(z)).unflatten(1, self.bottom)
        currents: Tensor = self.last(self.levels(spikes))
        return currents.float()


class AttentionScoring(nn.Module):
    """SGAD's read-out: a memory image that each step's image is blended into.

    ``m[1] = y[1]``; then with query and key maps of the (projected) images::

        q = Wq f(m[s-1]),  k1 = Wk f(m[s-1]),  k2 = Wk f(y[s])
        w1, w2 = softmax((q . k1, q . k2) / sqrt(width))
        m[s] = w1 m[s-1] + w2 y[s]

    ``f`` is the identity for grey images and ``ReLU(A m + b)`` to 1024 values for colour. Of
    ``y[1] = m[1]`` the projections are computed once, and all steps' in one product.

    Args:
        width: of queries and keys.
        projected: values that colour images are projected to.
    """

    def __init__(
        self, time_steps: int, shape: ImageShape, *, width: int = 256, projected: int = 1024
    ) -> None:
        super().__init__()
        declare(self, reads="real")
        self.time_steps = check_time_steps(time_steps)
        features = shape.channels * shape.size**2
        self.project: nn.Module = nn.Identity()
        if shape.channels > 1:
            self.project = nn.Sequential(nn.Linear(features, projected), nn.ReLU())
            features = projected
        self.query = nn.Linear(features, width)
        self.key = nn.Linear(features, width)

    def forward(self, frames: Tensor) -> Tensor:
        """The last memory ``[batch, C, H, W]`` of images ``[time_steps * batch, C, H, W]``."""
        frames = frames.unflatten(0, (self.time_steps, -1))
        memory = frames[0]
        if self.time_steps == 1:
            return memory
        projected = self.project(frames.flatten(2))
        keys, seen = self.key(projected), projected[0]
        key = keys[0]
        for s in range(1, self.time_steps):
            if s > 1:
                seen = self.project(memory.flatten(1))
                key = self.key(seen)
            both = torch.stack([key, keys[s]], 1)
            scores = torch.einsum("bd,bnd->bn", self.query(seen), both)
            kept, taken = self._weights(scores.float())
            memory = kept * memory + taken * frames[s]
        return memory

    def _weights(self, scores: Tensor) -> Iterator[Tensor]:
        weights = (scores / math.sqrt(self.key.out_features)).softmax(1)
        return iter(weights[..., None, None, None].unbind(1))


class AttentionGenerator(nn.Module):
    """Latents to images by attention scoring, the generator of SGAD."""

    def __init__(self, config: GanConfig, shape: ImageShape) -> None:
        super().__init__()
        self.stack = GeneratorStack(config, shape)
        self.scoring = AttentionScoring(config.time_steps, shape)

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[batch, C, H, W]`` in [0, 1] of latents ``[batch, latent]``."""
        images: Tensor = self.scoring(self.stack(z).sigmoid())
        return images
