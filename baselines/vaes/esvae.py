"""ESVAE: a spiking VAE whose latent is a firing rate, drawn anew as Poisson spikes.

Paper: Zhan, Tao, Xie, Liu, Zhang, Tang, Yang, "ESVAE: An Efficient Spiking Variational
Autoencoder with Reparameterizable Poisson Spiking Sampling", arXiv 2310.14839. Written anew after
a reading of the authors' code (QgZhan/ESVAE), whose settings are the defaults. The paper's
abstract was read, its equations were not.

FSVAE's encoder and decoder (:mod:`baselines.vaes.spiking`) without its autoregressive networks:

- posterior rate ``r_q``: the mean over time of the encoder's latent spikes;
- prior rate ``r_p``: the sigmoid of one linear layer of standard normal noise;
- latent: at every step, a bit fires where its rate exceeds a uniform number;
- loss: squared error plus ``mmd_weight`` times the RBF-MMD of ``r_q`` and ``r_p`` over the batch.

Prior and decoder sample. The prior's layer reads real numbers, once an image, so it costs
multiplications. Drawing the noise and the uniform numbers is not counted, as FSVAE's picks are not.

Different, because the harness has it so: the last weights sample, not those with the lowest loss,
the best score or the best FID on the test set. The authors' network also holds FSVAE's prior and
posterior and their scheduled sampling, which nothing calls: they are not here. The MMD of equal
points is 0 here (there, 0 / 0). With several processes, the MMD compares each process's own rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.vaes.pyramid import Pyramid
from baselines.vaes.spiking import SURROGATE, Decoder, Encoder, check_batch
from sddpm.layers import declare, evaluating
from sddpm.neurons import check_time_steps
from sddpm.protocol import ImageShape, Step, System
from sddpm.rng import ImageStreams

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths of the MMD's kernels over the mean squared distance of the points."""


@dataclass(frozen=True)
class Config:
    """ESVAE. The defaults are those of the published configuration for grey images of 32 pixels."""

    time_steps: int = 16
    """Spiking time steps, which are also the draws of each latent bit."""
    channels: int = 32
    """Width of the first level; each level doubles it."""
    latent: int = 32
    """Latent bits a step; published: 128 for colour images."""
    mmd_weight: float = 1e-3
    """Weight of the MMD relative to the squared error (averaged over pixels)."""
    learning_rate: float = 3e-3
    """AdamW's step size; published: 6e-4 on CIFAR-10, 1e-3 on CelebA."""
    prior_rate: float = 10.0
    """Step size of the prior's layer over that of all others, above 0."""
    weight_decay: float = 1e-3
    """AdamW's."""


class _Fire(torch.autograd.Function):
    """The spike of a rate above its uniform number. Its derivative by the rate is the surrogate's
    at the difference."""

    @staticmethod
    def forward(ctx: Any, rates: Tensor, uniform: Tensor) -> Tensor:
        ctx.save_for_backward(rates - uniform)
        return (rates > uniform).to(rates.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return gradients[0] * SURROGATE(difference), None


class PoissonSpikes(nn.Module):
    """Rates to spikes: independent draws at every step, differentiable by the rates.

    The window of the gradient is 1 where the rate is within 0.5 of the uniform number, else 0.
    """

    emits: ClassVar[str] = "spikes"

    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.time_steps = time_steps

    def forward(self, rates: Tensor, uniform: Tensor) -> Tensor:
        """Spikes (0 or 1) ``[time_steps * batch, latent]``.

        Args:
            rates: probability of a spike, ``[batch, latent]`` in [0, 1].
            uniform: one number in [0, 1) for each draw, ``[time_steps, batch, latent]``.
        """
        spikes: Tensor = _Fire.apply(rates.expand_as(uniform), uniform)
        return spikes.flatten(0, 1)


class Prior(nn.Module):
    """Noise to rates: one linear layer and a sigmoid."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layer = declare(nn.Linear(latent, latent), reads="real")

    def forward(self, noise: Tensor) -> Tensor:
        """Rates in (0, 1) of standard normal numbers, both ``[batch, latent]``."""
        rates: Tensor = self.layer(noise).float().sigmoid()
        return rates


class Generator(nn.Module):
    """Prior and decoder: the networks that run at sampling time."""

    def __init__(self, config: Config, pyramid: Pyramid) -> None:
        super().__init__()
        self.prior = Prior(config.latent)
        self.spikes = PoissonSpikes(config.time_steps)
        self.decoder = Decoder(config.time_steps, config.latent, pyramid)

    def forward(self, noise: Tensor, uniform: Tensor) -> Tensor:
        """Images ``[batch, C, H, W]`` in (-1, 1).

        Args:
            noise: standard normal numbers ``[batch, latent]``.
            uniform: numbers in [0, 1), ``[time_steps, batch, latent]``.
        """
        return self.decode(self.prior(noise), uniform)

    def decode(self, rates: Tensor, uniform: Tensor) -> Tensor:
        """Images of rates ``[batch, latent]`` in [0, 1]; the rest as :meth:`forward`."""
        spikes = self.spikes(rates, uniform).unflatten(0, uniform.shape[:2])
        images: Tensor = self.decoder(spikes)
        return images


class RateVAE(nn.Module):
    """All networks, as they run in training."""

    def __init__(self, config: Config, pyramid: Pyramid) -> None:
        super().__init__()
        self.encoder = Encoder(config.time_steps, config.latent, pyramid)
        self.generator = Generator(config, pyramid)

    def forward(
        self, images: Tensor, noise: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct ``images`` ``[batch, C, H, W]``.

        Args:
            noise: standard normal numbers for the prior, ``[batch, latent]``.
            uniform: numbers in [0, 1) for the posterior's draws, ``[time_steps, batch, latent]``.

        Returns:
            The reconstruction, and the rates of posterior and prior, each ``[batch, latent]`` in
            [0, 1].
        """
        posterior = self.encoder(images).mean(0)
        return self.generator.decode(posterior, uniform), posterior, self.generator.prior(noise)


def rbf_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Squared MMD of two sets of as many points, each ``[batch, width]``: a number of at least 0.

    The kernel is the sum over :data:`BANDWIDTHS` of ``exp(-d^2 / (bandwidth m))``. ``m`` is the
    mean of ``d^2`` over all pairs of different points of both sets, and a constant for the
    gradient. The means over pairs include each point with itself.
    """
    points = torch.cat([x, y])
    squared = (points[:, None] - points[None]).square().sum(-1)
    pairs = len(points) * (len(points) - 1)
    mean = (squared.detach().sum() / pairs).clamp(min=torch.finfo(squared.dtype).eps)
    kernel = torch.stack([(-squared / (b * mean)).exp() for b in BANDWIDTHS]).sum(0)
    n = len(x)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


class ESVAE(System):
    """Trains all networks on reconstruction and on the distance of the two sets of rates."""

    def __init__(self, config: Config, shape: ImageShape) -> None:
        super().__init__()
        check_time_steps(config.time_steps)
        if not config.prior_rate > 0:
            raise ValueError(f"prior_rate={config.prior_rate!r}: expected a number above 0")
        self.config = config
        self.net = RateVAE(config, Pyramid.of(shape, config.channels))
        prior = list(self.net.generator.prior.parameters())
        others = [p for p in self.net.parameters() if not any(p is own for own in prior)]
        groups: list[dict[str, Any]] = [
            {"params": others},
            {"params": prior, "lr_factor": config.prior_rate},
        ]
        self.optimizers = {
            "net": torch.optim.AdamW(
                groups, lr=config.learning_rate, weight_decay=config.weight_decay
            )
        }

    @property
    def generator(self) -> Generator:
        return self.net.generator

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        config, batch = self.config, len(images)
        check_batch(batch)
        noise = step.randn(batch, config.latent)
        uniform = step.rand(batch, config.time_steps, config.latent).transpose(0, 1)
        reconstruction, posterior, prior = step.module("net")(images, noise, uniform)
        rec, gap = functional.mse_loss(reconstruction, images), rbf_mmd(posterior, prior)
        loss = rec + config.mmd_weight * gap
        step.update("net", loss, lr=config.learning_rate)
        return {
            "loss": loss.detach(),
            "reconstruction": rec.detach(),
            "mmd": gap.detach(),
            # Over the images: 0 if the posterior ignores its input.
            "posterior_spread": posterior.detach().std(0).mean(),
        }

    def sample(self, seeds: Sequence[int], sampling: Mapping[str, Any] | None = None) -> Tensor:
        config, device = self.config, next(self.net.parameters()).device
        streams = ImageStreams(seeds)
        noise = streams.randn(config.latent)
        uniform = streams.rand(config.time_steps, config.latent).transpose(0, 1)
        with torch.no_grad(), evaluating(self.net):
            images: Tensor = self.net.generator(noise.to(device), uniform.to(device))
        return images


def build(config: Config, shape: ImageShape, parent: System | None = None) -> ESVAE:
    """ESVAE for images of ``shape``; it has no parent.

    Raises:
        ValueError: fewer than 4 pixels, time steps below 1, or a ``prior_rate`` of 0 or less.
    """
    return ESVAE(config, shape)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(time_steps=4, channels=8, latent=16),
    # FSVAE's step size: the published one is for batches 16 times as large.
    "small": dict(channels=16, learning_rate=1e-3),
    "medium": dict(),
    "paper": dict(),
}
