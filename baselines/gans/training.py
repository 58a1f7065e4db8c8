"""Training and sampling of the spiking GANs, and the critic that SWGAN and SGAD share.

Not a system. After arXiv 2305.10246 and its code (Brain-Cog-Lab/sgad, Apache-2.0), written anew.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Optimizer, RMSprop

from baselines.gans.parts import Block, ConstantBlock, GanConfig, LastMembrane, neuron
from sddpm.layers import declare, evaluating
from sddpm.protocol import ImageShape, Step, System
from sddpm.rng import ImageStreams


@dataclass(frozen=True)
class EarthMoverConfig(GanConfig):
    """Options of SWGAN and SGAD. The defaults are those of the published configuration file for
    MNIST."""

    critic_channels: int = 32
    """Output channels of the critic's first convolution; the second has twice as many."""
    critic_hidden: int = 1024
    """Width of the critic's linear layer; doubled above 32 pixels, as the published sizes say."""
    critic_norm: Literal["none", "spectral"] = "none"
    """Normalisation of the critic's linear layers: none, as published, or spectral (Miyato et al.
    2018, arXiv 1802.05957)."""


class SpikingCritic(nn.Module):
    """Images to scores, with spikes: two convolutions with pooling, two linear layers.

    The convolutions take no padding at the published sizes; images under 28 pixels are too
    small for that and keep their size. With spectral norm, the score cannot change by more than
    the spikes do.
    """

    def __init__(self, config: EarthMoverConfig, shape: ImageShape) -> None:
        super().__init__()
        time_steps, channels = config.time_steps, config.critic_channels
        padding, cut = (0, 4) if shape.size >= 28 else (2, 0)
        size = ((shape.size - cut) // 2 - cut) // 2
        hidden = config.critic_hidden * (2 if shape.size > 32 else 1)
        conv = nn.Conv2d(shape.channels, channels, 5, padding=padding)
        self.conv1 = ConstantBlock(conv, time_steps)
        conv = nn.Conv2d(channels, 2 * channels, 5, padding=padding)
        # It reads means of four spikes.
        self.conv2 = Block(conv, 2 * channels, time_steps, "real")
        self.pool = nn.AvgPool2d(2)
        self.fc1 = declare(nn.Linear(2 * channels * size * size, hidden), reads="real")
        self.neuron = neuron(time_steps)
        self.fc2 = declare(nn.Linear(hidden, 1), reads="spikes")
        if config.critic_norm == "spectral":
            spectral_norm(self.fc1)
            spectral_norm(self.fc2)
        self.readout = LastMembrane(time_steps, divided=True)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``[batch]``, unbounded, of images ``[batch, C, H, W]`` in [0, 1]."""
        maps = self.pool(self.conv2(self.pool(self.conv1(images))))
        scores: Tensor = self.readout(self.fc2(self.neuron(self.fc1(maps.flatten(1)))))
        return scores.squeeze(1)


def earth_mover(real: Tensor, fake: Tensor) -> Tensor:
    """The critic's loss on scores: ``mean real - mean fake``, so that low means real, with the
    sign as shipped. The generator's is ``mean fake``."""
    return real.mean() - fake.mean()


def says(scores: Tensor, real: bool, reduction: str = "mean") -> Tensor:
    """Binary cross entropy of ``sigmoid(scores)`` with "real" (1) or "fake" (0)."""
    labels = torch.full_like(scores, float(real))
    return functional.binary_cross_entropy_with_logits(scores, labels, reduction=reduction)


class SpikingGAN(System):
    """Two networks, ``net`` (the generator) and ``critic``, trained against each other.

    A subclass makes both networks and says what their losses are.

    Args:
        net: the generator, from latents ``[batch, config.latent]``.
        critic: from what ``net`` gives, or from images in [0, 1], to scores ``[batch]``.
        optimizer: makes each network's, with ``options`` beside the step size.
    """

    def __init__(
        self,
        config: GanConfig,
        net: nn.Module,
        critic: nn.Module,
        optimizer: Callable[..., Optimizer],
        **options: Any,
    ) -> None:
        super().__init__()
        self.config, self.net, self.critic = config, net, critic
        rates = {"net": config.learning_rate, "critic": config.critic_learning_rate}
        self.optimizers = {
            name: optimizer([*getattr(self, name).parameters()], lr=rate, **options)
            for name, rate in rates.items()
        }

    @property
    def generator(self) -> nn.Module:
        return self.net

    @abstractmethod
    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the critic from its scores ``[batch]`` of real and generated images."""

    @abstractmethod
    def generator_loss(self, fake: Tensor) -> Tensor:
        """Loss of the generator from the critic's scores ``[batch]`` of its images."""

    def pictures(self, output: Tensor) -> Tensor:
        """Images ``[batch, C, H, W]`` in [0, 1] from the generator's output."""
        return output

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        """One update of the critic on the real ``images`` and as many generated ones, then one of
        the generator on the same latents. A step of ``batch`` images uses ``batch`` real images
        once."""
        config, batch = self.config, len(images)
        if batch < 2:
            raise ValueError(
                f"a batch of {batch} image: batch norm needs at least 2, raise batch_size"
            )
        real = (images + 1) / 2
        output = step.module("net")(step.randn(batch, config.latent))

        critic = step.module("critic")
        scores_real, scores_fake = critic(real), critic(output.detach())
        critic_loss = self.critic_loss(scores_real, scores_fake)
        step.update("critic", critic_loss, lr=config.critic_learning_rate)

        # The critic's update left the generator alone, so its output is still what it would give.
        generator_loss = self.generator_loss(critic(output))
        step.update("net", generator_loss, lr=config.learning_rate)
        with torch.no_grad():
            spread = self.pictures(output).std(0).mean() / real.std(0).mean().clamp(min=1e-6)
        return {
            "critic": critic_loss.detach(),
            "generator": generator_loss.detach(),
            "score_gap": (scores_fake - scores_real).detach().mean(),
            # Over the batch, as a share of the real images'; towards 0 if the generator
            # collapses to one image.
            "relative_spread": spread,
        }

    def sample(self, seeds: Sequence[int], sampling: Mapping[str, Any] | None = None) -> Tensor:
        """One image in [-1, 1] per seed, in evaluation mode (the paper leaves the mode open)."""
        z = ImageStreams(seeds).randn(self.config.latent).to(next(self.net.parameters()).device)
        with torch.no_grad(), evaluating(self.net):
            return self.pictures(self.net(z)) * 2 - 1


class EarthMoverGAN(SpikingGAN):
    """The generator ``net`` against :class:`SpikingCritic`, by scores: SWGAN and SGAD."""

    def __init__(self, config: EarthMoverConfig, shape: ImageShape, net: nn.Module) -> None:
        super().__init__(config, net, SpikingCritic(config, shape), RMSprop)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return earth_mover(real, fake)

    def generator_loss(self, fake: Tensor) -> Tensor:
        return fake.mean()
