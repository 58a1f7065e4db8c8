"""VAE: the ANN baseline of FSVAE, with its shapes.

Paper: Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv 1312.6114, as the
ANN rows of Kamata et al. 2022, arXiv 2110.00375. FSVAE's convolutions with BatchNorm and
LeakyReLU, a Gaussian latent, tanh at the end. As there, the linear layers around the latent
have neither norm nor activation, which is what the published sizes say: 1,180,641 weights for
grey images of 32 pixels and 3,937,635 for colour ones of 64 are, divided by 2^20, the 1.13 M
and 3.76 M of the table in arXiv 2408.16467 (encoder included).

Different: that code weighs the KL by 1 / (batches of an epoch). A system does not know how many
those are, so the weight is an option, by default that of 60,000 images in batches of 250. The
last weights sample, not those with the lowest loss on the test set. Sizes other than 32 and 64
follow :mod:`baselines.vaes.pyramid`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.vaes.pyramid import Pyramid
from sddpm.layers import declare, evaluating
from sddpm.protocol import ImageShape, Step, System
from sddpm.rng import ImageStreams


@dataclass(frozen=True)
class Config:
    """VAE. The defaults are those of the published code for grey images of 32 pixels."""

    channels: int = 32
    """Width of the first level; each level doubles it."""
    latent: int = 128
    """Gaussian latent variables."""
    kl_weight: float = 1 / 240
    """Weight of the KL (summed over the latent) relative to the squared error (averaged over
    pixels): 1 / batches of an epoch, here 60,000 images / 250."""
    learning_rate: float = 1e-3
    """AdamW's step size."""
    weight_decay: float = 0.01
    """AdamW's; the published script names none, so it is torch's default."""


def _block(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.LeakyReLU())


class Encoder(nn.Module):
    """Images to the mean and the log-variance of their latents."""

    def __init__(self, config: Config, pyramid: Pyramid) -> None:
        super().__init__()
        self.levels = nn.Sequential(*(_block(conv) for conv in pyramid.down("real")))
        self.mean = declare(nn.Linear(pyramid.features, config.latent), reads="real")
        self.log_variance = declare(nn.Linear(pyramid.features, config.latent), reads="real")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Two ``[batch, latent]`` of images ``[batch, C, H, W]``."""
        features = self.levels(images).flatten(1)
        return self.mean(features), self.log_variance(features)


class Decoder(nn.Module):
    """Latents to images: the generator."""

    def __init__(self, config: Config, pyramid: Pyramid) -> None:
        super().__init__()
        self.bottom = (pyramid.widths[-1], pyramid.sizes[-1], pyramid.sizes[-1])
        self.read = declare(nn.Linear(config.latent, pyramid.features), reads="real")
        self.levels = nn.Sequential(*(_block(conv) for conv in pyramid.up("real")))
        self.last = pyramid.last("real")

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[batch, C, H, W]`` in (-1, 1) of latents ``[batch, latent]``."""
        return self.last(self.levels(self.read(z).unflatten(1, self.bottom))).tanh()


class GaussianVAE(nn.Module):
    """Encoder and decoder, as they run in training."""

    def __init__(self, config: Config, pyramid: Pyramid) -> None:
        super().__init__()
        self.encoder = Encoder(config, pyramid)
        self.decoder = Decoder(config, pyramid)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reconstruction, and mean and log-variance of the latent, ``[batch, latent]``."""
        mean, log_variance = self.encoder(images)
        return self.decoder(mean + noise * (log_variance / 2).exp()), mean, log_variance


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL from the standard normal, summed over the latent, averaged over the batch."""
    terms = mean.square() + log_variance.exp() - log_variance - 1
    return terms.sum(1).mean() / 2


class VAE(System):
    """Trains encoder and decoder on squared error and KL."""

    def __init__(self, config: Config, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.net = GaussianVAE(config, Pyramid.of(shape, config.channels))
        self.optimizers = {
            "net": torch.optim.AdamW(
                self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
            )
        }

    @property
    def generator(self) -> Decoder:
        return self.net.decoder

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        noise = step.randn(len(images), self.config.latent)
        rebuilt, mean, log_variance = step.module("net")(images, noise)
        rec, kl = functional.mse_loss(rebuilt, images), gaussian_kl(mean, log_variance)
        loss = rec + self.config.kl_weight * kl
        step.update("net", loss, lr=self.config.learning_rate)
        return {"loss": loss.detach(), "reconstruction": rec.detach(), "kl": kl.detach()}

    def sample(self, seeds: Sequence[int], sampling: Mapping[str, Any] | None = None) -> Tensor:
        noise = ImageStreams(seeds).randn(self.config.latent)
        with torch.no_grad(), evaluating(self.net):
            images: Tensor = self.net.decoder(noise.to(next(self.net.parameters()).device))
        return images


def build(config: Config, shape: ImageShape, parent: System | None = None) -> VAE:
    """VAE for images of ``shape``; it has no parent."""
    return VAE(config, shape)


PRESETS: dict[str, dict[str, Any]] = {
    # At the weight decay that their committed results were trained with.
    "smoke": dict(channels=8, latent=16, weight_decay=1e-3),
    "small": dict(channels=16, weight_decay=1e-3),
    "medium": dict(),
    "paper": dict(),
}
