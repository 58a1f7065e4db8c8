"""FSVAE: a VAE whose encoder, latent, prior and decoder all spike.

Paper: Kamata, Mukuta, Harada, "Fully Spiking Variational Autoencoder", AAAI 2022,
arXiv 2110.00375. Written anew after the paper and a reading of the authors' code
(kamata1729/FullySpikingVAE, MIT licence).

The latent is ``time_steps`` steps of ``latent`` bits. Each bit has ``copies`` spiking copies,
one of which is picked at random, so the fraction of copies that fire is the probability of the
bit. Prior and posterior are autoregressive spiking networks. Only prior and decoder sample.

The encoder and the decoder, with what is kept and mended in them, are
:mod:`baselines.vaes.spiking`'s.

Kept although odd, because the published figures rest on it: the posterior draws the bits that
it is fed on growing prefixes with batch statistics, so the bits in the decoder can differ from
the bits fed back.

Mended, as a plain defect: the prefixes of the posterior's drawing and of scheduled sampling leave
the running statistics alone (there, sequences of one step weighed as much as whole ones).

Different, because the harness has it so: the last weights sample, not those with the lowest
loss on the test set; the probability of scheduled sampling rises every step, not every epoch;
the step size is not multiplied by the batch's size / 250.

Sampling runs the prior one step at a time with carried membranes, which at evaluation equals
running it on every prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.spiking_layers import Membrane, postsynaptic
from baselines.vaes.pyramid import Pyramid
from baselines.vaes.spiking import Decoder, Encoder, block, check_batch, linear
from sddpm.layers import evaluating
from sddpm.neurons import check_time_steps
from sddpm.protocol import ImageShape, Step, System
from sddpm.rng import ImageStreams

LATENT_ALPHA = 2.0
"""tdBN's factor in prior and posterior; 1 in encoder and decoder."""
FIRST_REPLACED = 5
"""Scheduled sampling leaves the bits of the steps before this one alone, counted from 0."""


@dataclass(frozen=True)
class Config:
    """FSVAE. The defaults are those of the published code for images of 32 pixels."""

    time_steps: int = 16
    """Spiking time steps, which are also the steps of the latent."""
    channels: int = 32
    """Width of the first level; each level doubles it."""
    latent: int = 128
    """Latent bits a step."""
    copies: int = 20
    """Spiking copies of each latent bit."""
    hidden: tuple[int, ...] = (256, 512)
    """Widths of the hidden layers of prior and posterior."""
    distance: Literal["mmd", "kl"] = "mmd"
    """Between posterior and prior: spike-space MMD (weight 1), or Bernoulli KL (weight 1e-4)."""
    scheduled: tuple[float, float] = (0.1, 0.3)
    """Probability, at the start and at the end of training, that the prior gets a bit vector of its
    own in place of the posterior's."""
    learning_rate: float = 1e-3
    """AdamW's step size."""
    weight_decay: float = 1e-3
    """AdamW's."""


class LatentNet(nn.Module):
    """Three spiking linear layers whose outputs are the copies of the latent's bits: the prior
    and the posterior. Output ``s`` depends on the inputs up to ``s`` alone."""

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        self.copies = config.copies
        widths = (inputs, *config.hidden, config.latent * config.copies)
        self.layers = nn.ModuleList(
            block(linear(i, o), o, config.time_steps, LATENT_ALPHA) for i, o in pairwise(widths)
        )

    def at_rest(self) -> list[Membrane]:
        """Membranes to carry from one call to the next, one a layer."""
        return [Membrane() for _ in self.layers]

    def forward(
        self, x: Tensor, membranes: list[Membrane] | None = None, track: bool = True
    ) -> Tensor:
        """Spikes ``[steps, batch, latent, copies]`` of spikes ``[steps, batch, inputs]``.

        Args:
            membranes: given, the steps of ``x`` follow those of the call before; at evaluation
                that equals one call on all of them.
            track: whether the norms' running statistics take note in training.
        """
        steps, batch = x.shape[:2]
        x = x.flatten(0, 1)
        for n, layer in enumerate(self.layers):
            x = layer(x, steps, membranes[n] if membranes else None, track)
        return x.view(steps, batch, -1, self.copies).float()


def pick(copies: Tensor, picks: Tensor) -> Tensor:
    """One copy a bit: ``[..., latent, copies]`` at indices ``[..., latent]``."""
    return copies.gather(-1, picks[..., None]).squeeze(-1)


class Generator(nn.Module):
    """Prior and decoder: the networks that run at sampling time."""

    def __init__(self, config: Config, pyramid: Pyramid) -> None:
        super().__init__()
        self.prior = LatentNet(config, config.latent)
        self.decoder = Decoder(config.time_steps, config.latent, pyramid)

    def forward(self, picks: Tensor) -> Tensor:
        """Images ``[batch, C, H, W]`` from the copies' indices ``[time_steps, batch, latent]``."""
        membranes = self.prior.at_rest()
        before = torch.zeros(picks.shape[1:], dtype=torch.float32, device=picks.device)
        drawn = []
        for picked in picks:
            before = pick(self.prior(before[None], membranes)[0], picked)
            drawn.append(before)
        return self.decoder(torch.stack(drawn))


class SpikingVAE(nn.Module):
    """All networks, as they run in training."""

    def __init__(self, config: Config, pyramid: Pyramid) -> None:
        super().__init__()
        self.encoder = Encoder(config.time_steps, config.latent, pyramid)
        self.posterior = LatentNet(config, 2 * config.latent)
        self.generator = Generator(config, pyramid)

    def forward(
        self, images: Tensor, picks: Tensor, replaced: Sequence[bool], jitter: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct ``images`` ``[batch, C, H, W]``.

        Args:
            picks: which copy is each bit, ``[time_steps, batch, latent]``.
            replaced: at which steps the prior is fed its own bits (scheduled sampling).
            jitter: added to the prior's probabilities there, ``[time_steps, batch, latent]``.

        Returns:
            The reconstruction, and the probabilities of posterior and prior, each
            ``[time_steps, batch, latent]``: the fractions of copies that fire.
        """
        x = self.encoder(images)
        copies = self.posterior(torch.cat([x, self._drawn(x.detach(), picks)], -1))
        z = pick(copies, picks)
        prior = self.generator.prior(self._scheduled(shift(z.detach()), replaced, jitter))
        return self.generator.decoder(z), copies.mean(-1), prior.mean(-1)

    @torch.no_grad()
    def _drawn(self, x: Tensor, picks: Tensor) -> Tensor:
        """The bits before each step, drawn from the posterior on growing prefixes."""
        before = torch.zeros_like(x)
        for s in range(1, len(x)):
            prefix = torch.cat([x[:s], before[:s]], -1)
            before[s] = pick(self.posterior(prefix, track=False)[-1], picks[s - 1])
        return before

    @torch.no_grad()
    def _scheduled(self, before: Tensor, replaced: Sequence[bool], jitter: Tensor) -> Tensor:
        """The bits before each step, those of the steps ``replaced`` being the prior's own."""
        for s in range(FIRST_REPLACED, len(before) - 1):
            if replaced[s]:
                own = self.generator.prior(before[: s + 1], track=False)[-1].mean(-1)
                before[s + 1] = (own + jitter[s] > 0.5).to(before.dtype)
        return before


def shift(z: Tensor) -> Tensor:
    """The bits before each step: ``z`` one step later, zeros first."""
    return torch.cat([torch.zeros_like(z[:1]), z[:-1]])


def spike_mmd(posterior: Tensor, prior: Tensor) -> Tensor:
    """Spike-space MMD of probabilities ``[time_steps, batch, latent]``: the mean squared
    difference of their PSPs."""
    return functional.mse_loss(postsynaptic(posterior), postsynaptic(prior))


def bernoulli_kl(posterior: Tensor, prior: Tensor, floor: float = 0.01) -> Tensor:
    """Sum over time and latent, mean over the batch, of the KL of ``[time_steps, batch, latent]``
    probabilities; ``floor`` is added in the logarithms."""
    q, p = posterior, prior
    on = q * ((q + floor) / (p + floor)).log()
    off = (1 - q) * ((1 - q + floor) / (1 - p + floor)).log()
    return (on + off).sum((0, 2)).mean()


DISTANCES = {"mmd": (spike_mmd, 1.0), "kl": (bernoulli_kl, 1e-4)}
"""Distance of posterior and prior, and its weight beside the reconstruction's 1."""


class FSVAE(System):
    """Trains all networks on reconstruction and on the prior's distance from the posterior."""

    def __init__(self, config: Config, shape: ImageShape) -> None:
        super().__init__()
        check_time_steps(config.time_steps)
        if config.distance not in DISTANCES:
            raise ValueError(f"distance={config.distance!r}: choose from {', '.join(DISTANCES)}")
        if config.copies < 1:
            raise ValueError(f"copies={config.copies!r}: expected at least 1")
        self.config = config
        self.net = SpikingVAE(config, Pyramid.of(shape, config.channels))
        self.optimizers = {
            "net": torch.optim.AdamW(
                self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
            )
        }

    @property
    def generator(self) -> Generator:
        return self.net.generator

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        config, batch = self.config, len(images)
        check_batch(batch)
        size = (batch, config.time_steps, config.latent)
        picks = step.randint(config.copies, *size).transpose(0, 1)
        jitter = 1e-3 * step.randn(*size).transpose(0, 1)
        first, last = config.scheduled
        chance = first + (last - first) * step.number / step.total
        # One draw a step for the whole batch, so the first row of the global batch serves all.
        draws = step.gather(step.rand(batch, config.time_steps))[0]
        replaced = (draws < chance).tolist()

        reconstruction, posterior, prior = step.module("net")(images, picks, replaced, jitter)
        distance, weight = DISTANCES[config.distance]
        rec, gap = functional.mse_loss(reconstruction, images), distance(posterior, prior)
        loss = rec + weight * gap
        step.update("net", loss, lr=config.learning_rate)
        return {
            "loss": loss.detach(),
            "reconstruction": rec.detach(),
            config.distance: gap.detach(),
            # Over the images at the first step, where the encoder is all that the posterior
            # reads: 0 if it ignores its input. Later steps differ by their own random bits.
            "posterior_spread": posterior[0].detach().std(0).mean(),
        }

    def sample(self, seeds: Sequence[int], sampling: Mapping[str, Any] | None = None) -> Tensor:
        picks = self._picks(seeds)
        with torch.no_grad(), evaluating(self.net):
            images: Tensor = self.net.generator(picks)
        return images

    def reconstruct(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """``images`` (``[batch, C, H, W]`` in [-1, 1]) through encoder, posterior and decoder,
        one seed an image."""
        picks = self._picks(seeds)
        never, jitter = [False] * len(picks), torch.zeros(picks.shape, device=picks.device)
        with torch.no_grad(), evaluating(self.net):
            rebuilt: Tensor = self.net(images, picks, never, jitter)[0]
        return rebuilt

    def _picks(self, seeds: Sequence[int]) -> Tensor:
        """Index of the copy that becomes each bit, ``[time_steps, batch, latent]``, from the
        images' streams."""
        config = self.config
        uniform = ImageStreams(seeds).rand(config.time_steps, config.latent).transpose(0, 1)
        return (uniform * config.copies).long().to(next(self.net.parameters()).device)


def build(config: Config, shape: ImageShape, parent: System | None = None) -> FSVAE:
    """FSVAE for images of ``shape``; it has no parent."""
    return FSVAE(config, shape)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(time_steps=4, channels=8, latent=16, copies=4, hidden=(32, 64)),
    "small": dict(channels=16),
    "medium": dict(),
    "paper": dict(),
}
