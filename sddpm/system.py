"""SDDPM: the spiking U-Net trained directly with surrogate gradients.

Paper: Cao et al., "Spiking Denoising Diffusion Probabilistic Models", WACV 2024,
arXiv 2306.17046; code AndyCao1125/SDDPM (no licence; nothing is copied). Differences: the
first convolution runs once for all spiking steps, which gives the same numbers; averaged weights
and the warm-up are options that work (the published code has both and applies neither), off by
default; BatchNorm's statistics are of the whole batch (``norm_images``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sddpm.activations import is_spiking
from sddpm.configuration import before
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape, System
from sddpm.unet import Initialisation, UNet, UNetConfig, unet_config
from sddpm.widths import TRAINED, FreshUNet, over


@dataclass(frozen=True)
class Config(FreshUNet, DenoiserTraining):
    """Configuration of SDDPM. The defaults are those of the published code for CIFAR-10; a suite
    chooses batches and steps. A field's description names other values of the papers."""

    time_steps: int = 4
    """Spiking time steps of one network evaluation."""
    neuron: str = "if"
    """if, lif or plif."""
    threshold: float = 1.0
    """Firing threshold of every neuron."""
    initialisation: Initialisation = field(default="published", metadata=before("xavier"))
    """Initial weights: as in the ``published`` code, or ``xavier`` in every layer, as in the
    presets with committed results."""
    norm_images: int = field(default=0, metadata=before(0))
    """Images that share BatchNorm's statistics in training; 0: the whole batch, over all
    processes. The published code's default is 4, a batch of 32 on 8 GPUs that each normalise
    their own; the paper names no such split."""
    attention_heads: int = field(default=0, metadata=before(0))
    """Heads of a spiking self-attention (arXiv 2209.15425) in the middle; 0, as published: none."""


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Denoiser:
    """SDDPM for images of ``shape``; it has no parent."""
    net = UNet(spiking_unet(config, shape))
    return Denoiser(net, shape, config, DiffusionConfig(config.diffusion_steps))


def spiking_unet(
    config: Config, shape: ImageShape, *, temporal_scaling: bool = False
) -> UNetConfig:
    """The U-Net of ``config`` for images of ``shape``."""
    if not is_spiking(config.neuron):
        raise ValueError(f"neuron={config.neuron!r}: expected if, lif or plif")
    return unet_config(
        config,
        shape,
        activation=config.neuron,
        time_steps=config.time_steps,
        threshold=config.threshold,
        temporal_scaling=temporal_scaling,
        initialisation=config.initialisation,
        norm_images=config.norm_images,
        attention_heads=config.attention_heads,
    )


PRESETS = over(TRAINED, smoke=dict(initialisation="xavier"), small=dict(initialisation="xavier"))
