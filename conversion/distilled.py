"""The distilled twin: a ReLU twin that learns another network's noise predictions.

For teachers that cannot be rate-coded (GroupNorm, SiLU, attention), such as a published DDPM: the
student is the U-Net that conversion starts from, and its loss the mean squared distance to what
the teacher predicts on noised images. It is no conversion: the student is another network, and
its distance to the teacher stands beside every figure of what is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sddpm.denoising import DenoiserTraining
from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape, System
from sddpm.teaching import TaughtDenoiser, teacher_of
from sddpm.unet import UNet, unet_config
from sddpm.widths import TRAINED, FreshUNet, over


@dataclass(frozen=True)
class Config(FreshUNet, DenoiserTraining):
    """The distilled twin. The defaults are the published widths."""

    ema_decay: float = 0.9999
    """Decay a step of the averaged weights that sample; 0 samples with the last weights."""


def build(config: Config, shape: ImageShape, parent: System | None = None) -> TaughtDenoiser:
    """A ReLU twin for images of ``shape`` that learns from ``parent``, any denoiser.

    Raises:
        ValueError: the parent does not predict noise, was trained on images of another size, or
            has another noise schedule.
    """
    diffusion = DiffusionConfig(config.diffusion_steps)
    teacher = None if parent is None else teacher_of(parent, shape, diffusion)
    unet = unet_config(config, shape, activation="relu", time_steps=1)
    return TaughtDenoiser(UNet(unet), shape, config, diffusion, teacher=teacher)


PRESETS = over(TRAINED, smoke=dict(ema_decay=0.0))
