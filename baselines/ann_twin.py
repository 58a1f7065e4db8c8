"""The ANN twin: the U-Net of SDDPM with ReLU and BatchNorm, at one time step.

It has SDDPM's topology and weights' names, so it is both the fair ANN rival and the network
that ANN-to-SNN conversion starts from. Difference from the authors' ANN rows: those keep the
GroupNorm and Swish of DDPM (see ann_ddpm.py), which cannot be rate-coded exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sddpm.configuration import before
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape, System
from sddpm.unet import UNet, unet_config
from sddpm.widths import TRAINED, FreshUNet, over


@dataclass(frozen=True)
class Config(FreshUNet, DenoiserTraining):
    """The ANN twin of SDDPM. The defaults are the published widths and the ANN rows' EMA."""

    ema_decay: float = 0.9999
    """Decay a step of the averaged weights that sample; 0 samples with the last weights."""
    stem_shortcut: bool = field(default=False, metadata=before(False))
    """Add a convolution of the image itself to the stem's output, as SDDPM+ does."""
    stem_gain: bool = field(default=False, metadata=before(False))
    """Multiply what the stem's shortcut adds by a factor that depends on the diffusion step."""


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Denoiser:
    """The ANN twin for images of ``shape``; it has no parent."""
    unet = unet_config(
        config,
        shape,
        activation="relu",
        time_steps=1,
        stem_shortcut=config.stem_shortcut,
        stem_gain=config.stem_gain,
    )
    return Denoiser(UNet(unet), shape, config, DiffusionConfig(config.diffusion_steps))


PRESETS = over(TRAINED, smoke=dict(ema_decay=0.0))
