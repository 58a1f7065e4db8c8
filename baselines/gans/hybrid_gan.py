"""Hybrid GAN: a spiking generator trained by an ANN discriminator.

Paper: Rosenfeld, Simeone, Rajendran, "Spiking Generative Adversarial Networks With a Neural
Network Discriminator: Local Training, Bayesian Models, and Continual Meta-Learning", IEEE
Transactions on Computers 2022, arXiv 2111.01750. No code of theirs was read.

Theirs trains spike patterns and handwritten digits by a local rule that the discriminator feeds;
the rows of the literature that bear its name are for other images. So this is a stand-in for the
idea: SGAD's spiking generator with its attention scoring (:mod:`baselines.gans.parts`, trained
through surrogate gradients), against the discriminator, the cross entropy with the
non-saturating generator's loss, the Adam and the initial weights of DCGAN (Radford, Metz,
Chintala 2016, arXiv 1511.06434). Its generator is SGAD's, weight for weight; critic, loss and
optimiser are what the two rows differ in.

Different from DCGAN:

- the generator, whose pixels need large currents, learns 20 times as fast as the discriminator.
  At DCGAN's 2e-4 for both, small networks on Fashion-MNIST in batches of 32 had a discriminator
  loss of 0.05 after 40 steps and 0.003 after 200, and the images stayed grey; at these rates it
  went from 0.3 to 0.95 in 330 steps, and there were clothes. On CIFAR-10 batch norm does not hold
  the discriminator: by step 1,020 of 128 images its loss was 0.004, and much came out flat grey.
  With spectral norm in its place (an option here, and what the suite of CIFAR-10 takes, the
  discriminator then at 2e-4) the losses stay level;
- the last convolution covers what is left of the image (4 pixels; 3 where the image has 28), and
  its sigmoid is in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam

from baselines.gans.parts import AttentionGenerator, GanConfig
from baselines.gans.training import SpikingGAN, says
from sddpm.layers import declare
from sddpm.protocol import ImageShape, System

BETAS = (0.5, 0.999)
"""Adam's, for both networks, as DCGAN has them."""


@dataclass(frozen=True)
class Config(GanConfig):
    """Hybrid GAN. The defaults are SGAD's generator for MNIST and DCGAN's discriminator."""

    learning_rate: float = 1e-3
    """Adam's step size of the generator."""
    critic_learning_rate: float = 5e-5
    """Adam's step size of the discriminator."""
    critic_channels: int = 64
    """Output channels of the discriminator's first convolution; each later one has twice as many as
    the one before."""
    critic_norm: Literal["batch", "spectral"] = "batch"
    """Normalisation of the discriminator: batch norm, as in DCGAN, or spectral norm."""


class Critic(nn.Module):
    """DCGAN's discriminator: convolutions of stride 2 with LeakyReLU, batch norm on all but the
    first, down to 3 or 4 pixels, and one convolution over what is left.

    With spectral norm (Miyato et al. 2018, arXiv 1802.05957) in its place, every convolution's
    largest singular value is 1, so that the logits' slope is bounded.
    """

    def __init__(self, config: Config, shape: ImageShape) -> None:
        super().__init__()
        levels: list[nn.Module] = []
        inputs, outputs, size = shape.channels, config.critic_channels, shape.size
        while size > 4:
            conv = nn.Conv2d(inputs, outputs, 4, 2, 1)
            batch = bool(levels) and config.critic_norm == "batch"
            # It is never evaluated, so running statistics would have no reader.
            norm = nn.BatchNorm2d(outputs, track_running_stats=False) if batch else nn.Identity()
            levels.append(nn.Sequential(conv, norm, nn.LeakyReLU(0.2)))
            inputs, outputs, size = outputs, 2 * outputs, size // 2
        self.levels = nn.Sequential(*levels)
        self.last = nn.Conv2d(inputs, 1, size)
        declare(self, reads="real")
        self.apply(_initial)
        if config.critic_norm == "spectral":
            for module in list(self.modules()):
                if isinstance(module, nn.Conv2d):
                    spectral_norm(module)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[batch]`` of images ``[batch, C, H, W]`` in [0, 1]; above 0 says "real"."""
        logits: Tensor = self.last(self.levels(images * 2 - 1))
        return logits.float().flatten()


def _initial(module: nn.Module) -> None:
    """DCGAN's initial weights."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class HybridGAN(SpikingGAN):
    """Trains SGAD's generator against an ANN by cross entropy."""

    def __init__(self, config: Config, shape: ImageShape) -> None:
        net, critic = AttentionGenerator(config, shape), Critic(config, shape)
        super().__init__(config, net, critic, Adam, betas=BETAS)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return says(real, True) + says(fake, False)

    def generator_loss(self, fake: Tensor) -> Tensor:
        return says(fake, True)


def build(config: Config, shape: ImageShape, parent: System | None = None) -> HybridGAN:
    """Hybrid GAN for images of ``shape``; it has no parent."""
    return HybridGAN(config, shape)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(time_steps=4, hidden=32, channels=16, critic_channels=8),
    "small": dict(hidden=512, channels=64, critic_channels=16),
    "medium": dict(),
    "paper": dict(),
}
