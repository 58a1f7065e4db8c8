"""VQ-SVAE, the spiking autoencoder of Spiking-Diffusion: images to grids of codes and back. Not
a system.

The encoder's spike trains become one vector a position, which the nearest entry of a codebook
replaces; an "adaptive spike generator" makes spikes of that entry for the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.spiking_layers import postsynaptic
from sddpm.fused_norm import normalise_and_fire
from sddpm.layers import declare
from sddpm.neurons import LIF, DirectEncoding, MeanReadout, MembraneReadout
from sddpm.protocol import ImageShape

MOMENTUM = 0.1
"""Momentum of the norms' running statistics."""
COMMITMENT = 0.25
"""Weight of the losses that pull the encoder to the codebook, beside those that pull back."""


@dataclass(frozen=True)
class Sizes:
    """Shape of the autoencoder."""

    channels: tuple[int, ...]
    """Widths at half and at a quarter of the image's size."""
    latent: int
    """Width of a code's vector."""
    codes: int
    """Entries of the codebook."""
    time_steps: int
    """Spiking time steps."""


class Passage(NamedTuple):
    """Results of one training pass; a tuple, because Lightning Fabric handles tuples."""

    rebuilt: Tensor
    """Images / 2, ``[batch, C, H, W]`` in (-1, 1)."""
    vectors: Tensor
    """Output of the encoder, ``[batch, latent, h, w]``."""
    quantised: Tensor
    """The codebook's nearest entries, in the same shape, without the straight-through step."""
    codes: Tensor
    """Their numbers, ``[batch, h, w]``."""
    encoded: Tensor
    """The encoder's spikes, ``[time_steps, batch, latent, h, w]``."""
    generated: Tensor
    """The spike generator's, in the same shape."""


class SpikingConv(nn.Module):
    """A convolution, BatchNorm over batch and time, and SpikingJelly's LIF (tau 2, threshold 1).

    The running statistics are the mean of the first batches' and an exponential average from
    there, as in :class:`baselines.spiking_layers.TimeBatchNorm`: from 0 and 1 on, a network
    evaluates to silence for some fifty updates.

    Args:
        conv: declared here.
        time_steps: spiking time steps.
        constant: the input is the same at every spiking step and given once, ``[batch, ...]``.
    """

    def __init__(
        self, conv: nn.Conv2d | nn.ConvTranspose2d, time_steps: int, constant: bool = False
    ) -> None:
        super().__init__()
        self.conv = declare(conv, reads="real" if constant else "spikes")
        self.encode = DirectEncoding(time_steps) if constant else nn.Identity()
        self.norm = nn.BatchNorm2d(conv.out_channels, momentum=1.0)
        self.neuron = LIF(time_steps)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``[time_steps * batch, ...]``."""
        if self.training and self.norm.momentum != MOMENTUM:
            updates = int(self.norm.num_batches_tracked or 0)
            self.norm.momentum = max(MOMENTUM, 1 / (updates + 1))
        return normalise_and_fire(self.encode(self.conv(x)), self.norm, self.neuron)


class Encoder(nn.Module):
    """Images to spikes at a quarter of the size, and those to one vector a position."""

    def __init__(self, sizes: Sizes, image_channels: int) -> None:
        super().__init__()
        (first, second), steps = sizes.channels, sizes.time_steps
        self.layers = nn.Sequential(
            SpikingConv(nn.Conv2d(image_channels, first, 3, 2, 1), steps, constant=True),
            SpikingConv(nn.Conv2d(first, second, 3, 2, 1), steps),
            SpikingConv(nn.Conv2d(second, sizes.latent, 1), steps),
        )
        self.membrane, self.rate = MembraneReadout(steps), MeanReadout(steps)
        self.mixing = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes ``[time_steps, batch, latent, h, w]`` and vectors ``[batch, latent, h, w]`` of
        images in [-1, 1]: ``(1 - a) sum over s of 0.8^(T-1-s) spike[s] + a mean(spike)``."""
        spikes = self.layers(images / 2).float()
        vectors = (1 - self.mixing) * self.membrane(spikes) + self.mixing * self.rate(spikes)
        return spikes.unflatten(0, (-1, len(images))), vectors


class Decoder(nn.Module):
    """Codes to images: codebook, spike generator and transposed convolutions."""

    def __init__(self, sizes: Sizes, image_channels: int) -> None:
        super().__init__()
        (first, second), latent, steps = sizes.channels, sizes.latent, sizes.time_steps
        self.codebook = nn.Embedding(sizes.codes, latent)
        self.generate = SpikingConv(nn.Conv2d(latent, latent, 1), steps, constant=True)
        self.layers = nn.Sequential(
            SpikingConv(nn.ConvTranspose2d(latent, second, 3, 2, 1, 1), steps),
            SpikingConv(nn.ConvTranspose2d(second, first, 3, 2, 1, 1), steps),
            declare(nn.ConvTranspose2d(first, image_channels, 3, 1, 1), reads="spikes"),
        )
        self.readout = MembraneReadout(steps)

    def look_up(self, codes: Tensor) -> Tensor:
        """Vectors ``[batch, latent, h, w]`` of codes ``[batch, h, w]``."""
        vectors: Tensor = self.codebook(codes).permute(0, 3, 1, 2)
        return vectors

    def render(self, spikes: Tensor) -> Tensor:
        """Images / 2, in (-1, 1), of the generator's spikes ``[time_steps * batch, ...]``."""
        return self.readout(self.layers(spikes).float()).tanh()

    def forward(self, codes: Tensor) -> Tensor:
        """Images in [-1, 1] of codes ``[batch, h, w]``."""
        return (2 * self.render(self.generate(self.look_up(codes)))).clamp(-1, 1)


class VQAutoencoder(nn.Module):
    """Encoder and decoder, as they run in training.

    Raises:
        ValueError: the images' size is not a multiple of 4.
    """

    def __init__(self, sizes: Sizes, shape: ImageShape) -> None:
        super().__init__()
        if shape.size % 4:
            raise ValueError(f"image size {shape.size}: expected a multiple of 4")
        self.encoder = Encoder(sizes, shape.channels)
        self.decoder = Decoder(sizes, shape.channels)

    def forward(self, images: Tensor) -> Passage:
        """Rebuild ``images`` (``[batch, C, H, W]`` in [-1, 1])."""
        encoded, vectors = self.encoder(images)
        codes = nearest(vectors, self.decoder.codebook.weight)
        quantised = self.decoder.look_up(codes)
        # The decoder sees the entry; the encoder gets its gradient.
        spikes = self.decoder.generate(vectors + (quantised - vectors).detach())
        rebuilt = self.decoder.render(spikes)
        generated = spikes.float().unflatten(0, (-1, len(images)))
        return Passage(rebuilt, vectors, quantised, codes, encoded, generated)

    def encode(self, images: Tensor) -> Tensor:
        """Codes ``[batch, h, w]`` of images ``[batch, C, H, W]`` in [-1, 1]."""
        return nearest(self.encoder(images)[1], self.decoder.codebook.weight)


@torch.no_grad()
def nearest(vectors: Tensor, entries: Tensor) -> Tensor:
    """The number of the nearest of ``entries`` (``[codes, latent]``, by squared distance) for
    every position of ``vectors`` ``[batch, latent, h, w]``."""
    with torch.autocast(vectors.device.type, enabled=False):  # 8 bits would confuse neighbours
        points = vectors.float().movedim(1, -1)
        distances = entries.square().sum(1) - 2 * points @ entries.T
    return distances.argmin(-1)


def vector_loss(vectors: Tensor, quantised: Tensor) -> Tensor:
    """Squared error between the encoder's vectors and their entries: the entries' gradient with
    weight 1, the encoder's with :data:`COMMITMENT`."""
    moved = functional.mse_loss(quantised, vectors.detach())
    return moved + COMMITMENT * functional.mse_loss(vectors, quantised.detach())


def spike_train_loss(encoded: Tensor, generated: Tensor) -> Tensor:
    """The same between the postsynaptic potentials of spikes ``[time_steps, batch, ...]``: the
    generator's gradient with weight 1, the encoder's with :data:`COMMITMENT`."""
    ours, theirs = postsynaptic(generated), postsynaptic(encoded)
    moved = functional.mse_loss(ours, theirs.detach())
    return moved + COMMITMENT * functional.mse_loss(ours.detach(), theirs)


def perplexity(codes: Tensor, count: int) -> Tensor:
    """Codes in use: the exponential of their histogram's entropy, 1 (collapsed) to ``count``."""
    shares = torch.bincount(codes.flatten(), minlength=count) / codes.numel()
    return torch.special.entr(shares).sum().exp()
