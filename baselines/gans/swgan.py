"""SWGAN: a spiking GAN with the earth mover's distance and a membrane read-out.

Paper: Feng, Zhao, Zeng, "Spiking Generative Adversarial Network with Attention Scoring
Decoding", arXiv 2305.10246 (2023), where it is the step before SGAD. Written anew after a
reading of the authors' code (Brain-Cog-Lab/sgad, Apache-2.0). Generator and critic spike; the
loss is the earth mover's distance with the sign as shipped: a low score says "real".

Kept although odd, because the published figures rest on it:

- a pixel is the sigmoid of its last membrane divided by the time steps, though a leaky membrane
  is already a mean: at 16 steps a black or a white pixel needs currents of about 80;
- the critic as it is in :mod:`baselines.gans.sgad`: no Lipschitz control, its score divided by the
  time steps as well, its linear layer without a norm;
- batch norm takes the statistics of every spiking step by itself.

Mended, as plain defects: what :mod:`baselines.gans.sgad` mends, evaluation statistics for each step
above all. Different: sizes and budgets, as there; for faces of 64 pixels the paper has 20 latent
variables. The small preset bounds the critic by spectral norm: without, one of three trainings on
Fashion-MNIST ran away (a gap of 41 between scores of real and generated images, pictures of grey
weave), and with it the same seed draws clothes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from baselines.gans.parts import GeneratorStack, LastMembrane
from baselines.gans.training import EarthMoverConfig as Config
from baselines.gans.training import EarthMoverGAN
from sddpm.protocol import ImageShape, System


class Generator(nn.Module):
    """Latents to images by the membrane that every pixel has at the last step."""

    def __init__(self, config: Config, shape: ImageShape) -> None:
        super().__init__()
        self.stack = GeneratorStack(config, shape)
        self.readout = LastMembrane(config.time_steps, divided=True)

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[batch, C, H, W]`` in (0, 1) of latents ``[batch, latent]``."""
        membrane: Tensor = self.readout(self.stack(z))
        return membrane.sigmoid()


def build(config: Config, shape: ImageShape, parent: System | None = None) -> EarthMoverGAN:
    """SWGAN for images of ``shape``; it has no parent."""
    return EarthMoverGAN(config, shape, Generator(config, shape))


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(time_steps=4, hidden=32, channels=16, critic_channels=8, critic_hidden=32),
    # A faster generator: few steps, and pixels that need large currents.
    "small": dict(
        hidden=512, channels=64, critic_channels=16, critic_hidden=512, critic_norm="spectral",
        learning_rate=1e-3,
    ),
    "medium": dict(),
    "paper": dict(),
}  # fmt: skip
