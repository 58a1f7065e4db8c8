"""SDDPM: the spiking U-Net trained directly with surrogate gradients.

Paper: Cao et al., "Spiking Denoising Diffusion Probabilistic Models", WACV 2024,
arXiv 2306.17046; code AndyCao1125/SDDPM (no licence; nothing is copied). Differences: the
first convolution runs once for all spiking steps, which gives the same numbers, and averaged
weights are an option that works (the published one is never applied).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sddpm.activations import is_spiking
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig, Prediction
from sddpm.protocol import ImageShape, System
from sddpm.unet import UNet, UNetConfig, check_image_size


@dataclass(frozen=True)
class Config(DenoiserTraining):
    """SDDPM. The defaults are the published CIFAR-10 configuration."""

    time_steps: int = 4
    """Spiking time steps of one network evaluation."""
    neuron: str = "if"
    """if, lif or plif."""
    threshold: float = 1.0
    """Firing threshold of every neuron."""
    channels: int = 128
    """Base width of the U-Net."""
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    """Width of each level in units of ``channels``."""
    blocks: int = 2
    """Residual blocks a level on the way down."""
    diffusion_steps: int = 1000
    """Steps of the noise schedule."""
    prediction: Prediction = "epsilon"
    """What the last layer stands for: the noise, as published, or v (``v_prediction``)."""
    linear_head: bool = False
    """Start with a linear output: see :class:`sddpm.unet.UNetConfig`; published: no."""


def unet_config(config: Config, shape: ImageShape, *, temporal_scaling: bool = False) -> UNetConfig:
    """The U-Net of ``config`` for images of ``shape``."""
    if not is_spiking(config.neuron):
        raise ValueError(f"neuron={config.neuron!r}: expected if, lif or plif")
    return UNetConfig(
        image_channels=shape.channels,
        channels=config.channels,
        multipliers=tuple(config.multipliers),
        blocks=config.blocks,
        activation=config.neuron,
        time_steps=config.time_steps,
        threshold=config.threshold,
        diffusion_steps=config.diffusion_steps,
        temporal_scaling=temporal_scaling,
        prediction=config.prediction,
        linear_head=config.linear_head,
    )


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Denoiser:
    """SDDPM for images of ``shape``; it has no parent."""
    unet = unet_config(config, shape)
    check_image_size(unet, shape.size)
    return Denoiser(UNet(unet), shape, config, DiffusionConfig(config.diffusion_steps))


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(channels=16, multipliers=(1, 2), blocks=1, learning_rate=2e-3, warmup_steps=20),
    "small": dict(
        channels=16, multipliers=(1, 1, 2, 4), blocks=1, prediction="v_prediction",
        linear_head=True, learning_rate=2e-3, warmup_steps=200, decay="linear", ema_decay=0.995,
    ),
    "medium": dict(channels=64, learning_rate=4e-4, warmup_steps=1000, decay="linear",
                   ema_decay=0.999),
    "paper": dict(),
}  # fmt: skip
