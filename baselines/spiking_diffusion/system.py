"""Spiking-Diffusion: a spiking vector-quantised autoencoder and mask diffusion over its codes.

Paper: Liu, Gan, Wen, Li, Chen, Chen, "Spiking-Diffusion: Vector Quantized Discrete Diffusion
Model with Spiking Neural Networks", 2023, arXiv 2308.10187. Written anew after the paper and a
reading of the authors' code (Arktis2022/Spiking-Diffusion, no licence; nothing is copied).

A training has two stages. For the first ``autoencoder_share`` of the steps the autoencoder
learns (VQ-SVAE, :mod:`baselines.spiking_diffusion.autoencoder`). Then it is fixed in evaluation
mode, and the denoiser (:mod:`baselines.spiking_diffusion.absorbing`) learns the images' codes.
The number of the step alone decides the stage. There is one diffusion step for each position of
the grid, 49 for the published 7 x 7. Sampling runs the denoiser once a diffusion step and the
decoder once. The encoder is not part of the generator.

Kept although unusual, because the published figures were made so:

- codes (0 to 128, as if they were ordered) and diffusion steps enter the denoiser as plain
  numbers;
- the loss weighs step ``t`` by ``1 - t / steps``: a full mask, where every sample starts, is
  never trained on (``weighting="elbo"`` is the bound itself).

Corrected defects:

- membranes start at rest for every batch; in the authors' code the encoder is not reset while the
  training images are encoded, so codes depend on their order;
- images are rounded, not cut, to 8 bits (the harness does it).

Other differences:

- images are encoded in every epoch, in a new order, which with a fixed encoder gives the same
  codes;
- the variance that scales the reconstruction loss is that of the training pixels seen so far,
  because a system does not know its data set beforehand;
- the published temperature is not recorded, so the default is the one of the authors' previews;
- in short runs most of the codebook is never chosen (5 of 128 codes, by perplexity, after 300
  steps on Fashion-MNIST), so the presets below the published one revive codes;
- after few steps at the published step size the decoder's output is further from the images than
  their mean (on CIFAR-10 after 250 steps an error of 0.10 at a pixel variance of 0.062). At four
  times the rate the error is 0.032, so the small preset uses that rate;
- grids other than 7 x 7 (images that are not 28 pixels wide) and colour follow the same rules. The
  release has neither, so its CIFAR-10 figure cannot be rebuilt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.spiking_diffusion.absorbing import Weighting, mask_codes, masked_loss, uncover
from baselines.spiking_diffusion.autoencoder import (
    Decoder,
    Passage,
    Sizes,
    SpikingConv,
    VQAutoencoder,
    perplexity,
    spike_train_loss,
    vector_loss,
)
from sddpm.layers import declare, evaluating
from sddpm.neurons import MeanReadout, check_time_steps
from sddpm.protocol import ImageShape, Step, System
from sddpm.rng import ImageStreams


@dataclass(frozen=True)
class Config:
    """Spiking-Diffusion. The defaults are those of the published code."""

    time_steps: int = 16
    """Spiking time steps of the autoencoder and of one denoiser evaluation."""
    channels: tuple[int, int] = (32, 64)
    """Two widths of the autoencoder: at half and at a quarter of the image's size."""
    latent: int = 16
    """Width of a code's vector."""
    codes: int = 128
    """Entries of the codebook."""
    denoiser_channels: int = 64
    """Width of the denoiser's first layer; the next ones have 2, 4, 8 and 4 times as many."""
    autoencoder_share: float = 1 / 3
    """Share of the training steps that the autoencoder gets; published: 100 of 300 epochs."""
    weighting: Weighting = "reweighted"
    """Weights of the denoiser's loss: ``reweighted`` by 1 - t / steps, or the ``elbo``'s steps /
    t."""
    temperature: float = 0.65
    """Divides the denoiser's logits when codes are drawn."""
    revive_after: int = 0
    """Steps after which a code that no position chose becomes one of the encoder's vectors; 0 is
    never, as published."""
    learning_rate: float = 1e-3
    """AdamW's step size, in both stages."""
    decay: Literal["constant", "linear"] = "constant"
    """Schedule of the step size in each stage: ``constant``, as published, or ``linear`` to 0."""
    weight_decay: float = 1e-3
    """AdamW's."""


class CodeDenoiser(nn.Module):
    """Logits of every position's code, from a partly masked grid: spiking 3x3 convolutions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        base, steps = config.denoiser_channels, config.time_steps
        widths = [base, 2 * base, 4 * base, 8 * base, 4 * base]
        self.enter = SpikingConv(nn.Conv2d(2, base, 3, 1, 1), steps, constant=True)
        self.layers = nn.Sequential(
            *(SpikingConv(nn.Conv2d(i, o, 3, 1, 1), steps) for i, o in pairwise(widths))
        )
        self.leave = declare(nn.Conv2d(5 * base, config.codes, 3, 1, 1), reads="spikes")
        self.readout = MeanReadout(steps)

    def forward(self, codes: Tensor, t: Tensor) -> Tensor:
        """``[batch, codes, h, w]`` of integer codes ``[batch, h, w]`` after diffusion steps ``t``
        (``[batch]``, from 1)."""
        numbers = torch.stack([codes, t[:, None, None].expand_as(codes)], 1).float()
        with torch.autocast(numbers.device.type, enabled=False):  # 8 bits would confuse neighbours
            first = self.enter(numbers)
        last = self.layers(first)
        logits: Tensor = self.readout(self.leave(torch.cat([last, first.to(last.dtype)], 1)))
        return logits.float()


class Generator(nn.Module):
    """Networks that run at sampling time: the denoiser, once a diffusion step, and the decoder,
    once. A call is an evaluation of the denoiser."""

    def __init__(self, denoiser: CodeDenoiser, decoder: Decoder) -> None:
        super().__init__()
        self.denoiser, self.decoder = denoiser, decoder

    def forward(self, codes: Tensor, t: Tensor) -> Tensor:
        """Evaluate the denoiser; see :class:`CodeDenoiser`."""
        logits: Tensor = self.denoiser(codes, t)
        return logits


class SpikingDiffusion(System):
    """Trains the autoencoder, then the denoiser; samples codes and decodes them."""

    channels_last = frozenset({"autoencoder", "denoiser"})
    pixels: Tensor
    idle: Tensor

    def __init__(self, config: Config, shape: ImageShape) -> None:
        super().__init__()
        _check(config)
        self.config = config
        sizes = Sizes(tuple(config.channels), config.latent, config.codes, config.time_steps)
        self.autoencoder = VQAutoencoder(sizes, shape)
        denoiser = CodeDenoiser(config)
        self.net = Generator(denoiser, self.autoencoder.decoder)
        self.side = shape.size // 4
        self.register_buffer("pixels", torch.zeros(3, dtype=torch.float64))
        """Statistics of the training pixels seen so far, halved: their number, their sum and the
        sum of their squares."""
        self.register_buffer("idle", torch.zeros(config.codes, dtype=torch.long))
        """Steps since each code was chosen."""
        self.optimizers = {
            name: torch.optim.AdamW(
                module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
            )
            for name, module in (("autoencoder", self.autoencoder), ("denoiser", denoiser))
        }

    @property
    def generator(self) -> Generator:
        return self.net

    @property
    def denoiser(self) -> CodeDenoiser:
        return self.net.denoiser

    @property
    def diffusion_steps(self) -> int:
        """Number of steps of the mask diffusion: one for each position."""
        return self.side**2

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        first = math.ceil(self.config.autoencoder_share * step.total)
        if step.number < first:
            return self._train_autoencoder(images, step, self._rate(step.number, first))
        left = step.total - first
        return self._train_denoiser(images, step, self._rate(step.number - first, left))

    def _rate(self, number: int, steps: int) -> float:
        """The step size of step ``number``, from 0, of a stage of ``steps``."""
        rate = self.config.learning_rate
        return rate if self.config.decay == "constant" else rate * (steps - number) / steps

    def _train_autoencoder(self, images: Tensor, step: Step, rate: float) -> dict[str, Tensor]:
        passed = step.module("autoencoder")(images)
        rec = functional.mse_loss(passed.rebuilt, images / 2)
        vectors = vector_loss(passed.vectors, passed.quantised)
        spikes = spike_train_loss(passed.encoded, passed.generated)
        loss = rec / self._variance(step.gather(images)) + vectors + spikes
        step.update("autoencoder", loss, lr=rate)
        if self.config.revive_after:
            self._revive(passed, step)
        return {
            "autoencoder": loss.detach(),
            "reconstruction": rec.detach(),
            "codebook": vectors.detach(),
            "spike_trains": spikes.detach(),
            # How many codes are in use: 1 if the codebook has collapsed.
            "perplexity": perplexity(passed.codes, self.config.codes),
        }

    @torch.no_grad()
    def _revive(self, passed: Passage, step: Step) -> None:
        """Put codes that were not chosen for long where the encoder's vectors are."""
        self.idle += 1
        self.idle[step.gather(passed.codes).unique()] = 0
        vectors = step.gather(passed.vectors).movedim(1, -1).flatten(0, -2)
        # One draw a code for the whole batch, so the global batch's first row serves all.
        draws = step.gather(step.rand(len(passed.codes), self.config.codes))[0]
        dead = self.idle >= self.config.revive_after
        entries = self.autoencoder.decoder.codebook.weight
        entries[dead] = vectors[(draws[dead] * len(vectors)).long()].to(entries.dtype)
        self.idle[dead] = 0

    def _train_denoiser(self, images: Tensor, step: Step, rate: float) -> dict[str, Tensor]:
        self.autoencoder.eval()
        with torch.no_grad():
            grid = self.autoencoder.encode(images)
        codes, total = grid.flatten(1), self.diffusion_steps
        t = 1 + step.randint(total, len(codes))
        noisy = mask_codes(codes, t, step.rand(*codes.shape), steps=total, mask=self.config.codes)
        logits = step.module("denoiser")(noisy.view_as(grid), t).flatten(2)
        loss = masked_loss(
            logits, codes, noisy, t,
            steps=total, mask=self.config.codes, weighting=self.config.weighting,
        )  # fmt: skip
        step.update("denoiser", loss, lr=rate)
        masked = noisy == self.config.codes
        right = (logits.argmax(1) == codes) & masked
        return {"bits": loss.detach(), "accuracy": right.sum() / masked.sum().clamp(min=1)}

    def _variance(self, images: Tensor) -> Tensor:
        """Variance of all training pixels seen so far, including ``images``, in the autoencoder's
        unit."""
        values = images.detach().double() / 2
        sums = (torch.ones_like(values).sum(), values.sum(), values.square().sum())
        self.pixels += torch.stack(sums)
        count, total, squares = self.pixels
        return (squares / count - (total / count).square()).clamp(min=1e-6).float()

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], sampling: Mapping[str, Any] | None = None) -> Tensor:
        config, total, net = self.config, self.diffusion_steps, self.net
        device = self.pixels.device
        uniform = ImageStreams(seeds).rand(total, 2, total).permute(1, 2, 0, 3).to(device)
        codes = torch.full((len(seeds), total), config.codes, device=device)
        with evaluating(net):
            for t in range(total, 0, -1):
                steps = torch.full((len(seeds),), t, device=device)
                logits = net(self._grid(codes), steps).flatten(2)
                codes = uncover(
                    codes, logits, t, uniform[t - 1],
                    mask=config.codes, temperature=config.temperature,
                )  # fmt: skip
            images: Tensor = net.decoder(self._grid(codes))
        return images

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """``images`` (``[batch, C, H, W]`` in [-1, 1]) through encoder, codebook and decoder."""
        with evaluating(self.autoencoder):
            rebuilt: Tensor = self.autoencoder.decoder(self.autoencoder.encode(images))
        return rebuilt

    def _grid(self, codes: Tensor) -> Tensor:
        return codes.view(-1, self.side, self.side)


def _check(config: Config) -> None:
    check_time_steps(config.time_steps)
    if config.codes < 2:
        raise ValueError(f"codes={config.codes}: expected at least 2")
    if not 0 < config.autoencoder_share < 1:
        raise ValueError(
            f"autoencoder_share={config.autoencoder_share}: expected a number between 0 and 1"
        )
    if not config.temperature > 0:
        raise ValueError(f"temperature={config.temperature}: expected a number above 0")
    if config.decay not in ("constant", "linear"):
        raise ValueError(f"decay={config.decay!r}: expected 'constant' or 'linear'")
    if config.weighting not in ("reweighted", "elbo"):
        raise ValueError(f"weighting={config.weighting!r}: expected 'reweighted' or 'elbo'")


def build(config: Config, shape: ImageShape, parent: System | None = None) -> SpikingDiffusion:
    """Spiking-Diffusion for images of ``shape``; it has no parent."""
    return SpikingDiffusion(config, shape)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(time_steps=4, channels=(8, 16), codes=16, denoiser_channels=8, revive_after=20),
    "small": dict(
        time_steps=4, denoiser_channels=32, revive_after=20, learning_rate=4e-3, decay="linear"
    ),
    "medium": dict(revive_after=100, decay="linear"),
    "paper": dict(),
}
