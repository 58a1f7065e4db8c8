"""The ANN twin: the U-Net of SDDPM with ReLU and BatchNorm, at one time step.

It has SDDPM's topology and weights' names, so it is both the fair ANN rival and the network
that ANN-to-SNN conversion starts from. Difference from the authors' ANN rows: those keep the
GroupNorm and Swish of DDPM (see ann_ddpm.py), which cannot be rate-coded exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig, Prediction
from sddpm.protocol import ImageShape, System
from sddpm.unet import UNet, UNetConfig, check_image_size


@dataclass(frozen=True)
class Config(DenoiserTraining):
    """The ANN twin of SDDPM. The defaults are the published widths and the ANN rows' EMA."""

    ema_decay: float = 0.9999
    """Decay a step of the averaged weights that sample; 0 samples with the last weights."""
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


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Denoiser:
    """The ANN twin for images of ``shape``; it has no parent."""
    unet = UNetConfig(
        image_channels=shape.channels,
        channels=config.channels,
        multipliers=tuple(config.multipliers),
        blocks=config.blocks,
        activation="relu",
        time_steps=1,
        diffusion_steps=config.diffusion_steps,
        prediction=config.prediction,
        linear_head=config.linear_head,
    )
    check_image_size(unet, shape.size)
    return Denoiser(UNet(unet), shape, config, DiffusionConfig(config.diffusion_steps))


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(channels=16, multipliers=(1, 2), blocks=1, learning_rate=2e-3, warmup_steps=20,
                  ema_decay=0.0),
    "small": dict(channels=16, multipliers=(1, 1, 2, 4), blocks=1, prediction="v_prediction",
                  linear_head=True, learning_rate=2e-3, warmup_steps=200, decay="linear",
                  ema_decay=0.995),
    "medium": dict(channels=64, learning_rate=4e-4, warmup_steps=1000, decay="linear",
                   ema_decay=0.999),
    "paper": dict(),
}  # fmt: skip
