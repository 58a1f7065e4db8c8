"""SGAN: a spiking GAN whose images are spike trains, trained by cross entropy.

Paper: Feng, Zhao, Zeng, "Spiking Generative Adversarial Network with Attention Scoring
Decoding", arXiv 2305.10246 (2023), where it is the weakest of three models. Written anew after
a reading of the authors' code (Brain-Cog-Lab/sgad, Apache-2.0). Generator and critic spike; the
losses are sums of cross entropies over the batch.

Kept although odd, because it is the paper's point against this model:

- the critic sees grey images, the same at every step, as the real ones and trains of binary
  frames as the generated ones, which it can tell apart by that alone (the out-of-domain
  problem); its probability is the sigmoid of the last membrane divided by the time steps;
- batch norm takes the statistics of every spiking step by itself, and the pixels' currents have
  none, so that the pixels are silent until training wakes them.

Mended, as plain defects:

- the critic's membranes are fresh for the generated images (there, they start from where the
  real ones left them);
- evaluation statistics for each step, and no product twice, as :mod:`baselines.gans.sgad` says.

Not published, and our reading: a sample is the mean of its frames, so that it has
``time_steps + 1`` grey levels. Only 28 pixels in grey are published; other sizes are those of
SWGAN's generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import RMSprop

from baselines.gans.parts import GanConfig, GeneratorStack, LastMembrane, neuron
from baselines.gans.training import SpikingGAN, says
from sddpm.layers import declare
from sddpm.protocol import ImageShape, System


@dataclass(frozen=True)
class Config(GanConfig):
    """SGAN. The defaults are those of the published configuration file for MNIST."""

    latent: int = 100
    """Normal latent variables an image, repeated at every step."""
    critic_learning_rate: float = 4e-4
    """Step size of the critic (the discriminator)."""
    critic_hidden: int = 400
    """Width of the critic's hidden layer."""


class Generator(nn.Module):
    """Latents to a spike train for every pixel."""

    def __init__(self, config: Config, shape: ImageShape) -> None:
        super().__init__()
        self.stack = GeneratorStack(config, shape)
        self.neuron = neuron(config.time_steps)

    def forward(self, z: Tensor) -> Tensor:
        """Spikes ``[time_steps, batch, C, H, W]`` of latents ``[batch, latent]``."""
        spikes: Tensor = self.neuron(self.stack(z))
        return spikes.unflatten(0, (-1, len(z)))


class Critic(nn.Module):
    """Frames to logits: one hidden layer of neurons and a membrane read-out."""

    def __init__(self, config: Config, shape: ImageShape) -> None:
        super().__init__()
        self.time_steps = config.time_steps
        features = shape.channels * shape.size**2
        self.fc1 = declare(nn.Linear(features, config.critic_hidden), reads="real")
        self.neuron = neuron(config.time_steps)
        self.fc2 = declare(nn.Linear(config.critic_hidden, 1), reads="spikes")
        self.readout = LastMembrane(config.time_steps, divided=True)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits ``[batch]`` of ``[time_steps, batch, C, H, W]``, or of images ``[batch, C, H,
        W]`` in [0, 1], the same at every step; above 0 says "real"."""
        if frames.ndim == 4:
            currents = self.fc1(frames.flatten(1)).repeat(self.time_steps, 1)
        else:
            currents = self.fc1(frames.flatten(0, 1).flatten(1))
        scores: Tensor = self.readout(self.fc2(self.neuron(currents)))
        return scores.squeeze(1)


class SGAN(SpikingGAN):
    """Trains the spike-train generator against the spiking critic."""

    def __init__(self, config: Config, shape: ImageShape) -> None:
        super().__init__(config, Generator(config, shape), Critic(config, shape), RMSprop)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return (says(real, True, "sum") + says(fake, False, "sum")) / 2

    def generator_loss(self, fake: Tensor) -> Tensor:
        return says(fake, True, "sum")

    def pictures(self, output: Tensor) -> Tensor:
        return output.float().mean(0)


def build(config: Config, shape: ImageShape, parent: System | None = None) -> SGAN:
    """SGAN for images of ``shape``; it has no parent."""
    return SGAN(config, shape)


PRESETS: dict[str, dict[str, Any]] = {
    # A rate at which the pixels, silent at first, begin to fire within a few steps.
    "smoke": dict(time_steps=4, hidden=32, channels=32, critic_hidden=32, learning_rate=5e-3),
    "small": dict(hidden=512, channels=64, learning_rate=1e-3, critic_learning_rate=1e-3),
    "medium": dict(),
    "paper": dict(),
}
