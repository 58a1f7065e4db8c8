"""SGAD: a spiking GAN whose images are read out by attention scoring.

Paper: Feng, Zhao, Zeng, "Spiking Generative Adversarial Network with Attention Scoring
Decoding", arXiv 2305.10246 (2023). Written anew after a reading of the authors' code
(Brain-Cog-Lab/sgad, Apache-2.0). Generator and critic spike; the loss is the earth mover's
distance with the sign as shipped, so that a low score says "real".

Kept although odd, because the published figures rest on it:

- the critic has no Lipschitz control: clamping its weights and updating it more often than the
  generator are commented out in every script, and no gradient penalty exists;
- its score is the last membrane divided by the time steps, though a leaky membrane is already a
  mean; that alone, and a last hidden layer that can only spike, bound the score;
- nothing normalises the critic's linear layer, which is silent until training wakes it;
- batch norm takes the statistics of every spiking step by itself.

Mended, as plain defects:

- evaluation mode, in which the harness samples, is never switched on there and its statistics
  mix all steps; here they are kept for each step (:class:`baselines.gans.parts.StepBatchNorm`);
- what is constant in time is computed once, and the generator runs once for both updates of a
  step, which share their latents: the same numbers for less.

Different, because the harness has it so: a budget of steps in place of 100 epochs; images of 32
pixels have a generator that starts at 8 pixels and a critic of the 28-pixel layers, those of 8
pixels one that starts at 2 and a padded critic. For faces of 64 pixels the paper has 20 latent
variables and step sizes of 1.5e-4. For colour at 32 pixels no network is published beyond the
scoring's projection of 3072 values to 1024, which is used.
"""

from __future__ import annotations

from typing import Any

from baselines.gans.parts import AttentionGenerator
from baselines.gans.training import EarthMoverConfig as Config
from baselines.gans.training import EarthMoverGAN
from sddpm.protocol import ImageShape, System


def build(config: Config, shape: ImageShape, parent: System | None = None) -> EarthMoverGAN:
    """SGAD for images of ``shape``; it has no parent."""
    return EarthMoverGAN(config, shape, AttentionGenerator(config, shape))


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(time_steps=4, hidden=32, channels=16, critic_channels=8, critic_hidden=32),
    # The critic of SWGAN's small preset, so that the two differ in their read-out.
    "small": dict(
        hidden=512, channels=64, critic_channels=16, critic_hidden=512, critic_norm="spectral"
    ),
    "medium": dict(),
    "paper": dict(),
}
