"""SDDPM: the spiking U-Net trained directly with surrogate gradients.

Paper: Cao et al., "Spiking Denoising Diffusion Probabilistic Models", WACV 2024,
arXiv 2306.17046; code AndyCao1125/SDDPM (no licence; nothing is copied). Differences: the
first convolution runs once for all spiking steps, which gives the same numbers, and averaged
weights are an option that works (the published one is never applied).
"""

from __future__ import annotations

from dataclasses import dataclass

from sddpm.activations import is_spiking
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape, System
from sddpm.unet import UNet, UNetConfig, unet_config
from sddpm.widths import TRAINED, FreshUNet


@dataclass(frozen=True)
class Config(FreshUNet, DenoiserTraining):
    """SDDPM. The defaults are the published CIFAR-10 configuration."""

    time_steps: int = 4
    """Spiking time steps of one network evaluation."""
    neuron: str = "if"
    """if, lif or plif."""
    threshold: float = 1.0
    """Firing threshold of every neuron."""


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
    )


PRESETS = TRAINED
