"""The distilled twin: a ReLU twin that learns another network's noise predictions.

For teachers that cannot be rate-coded (GroupNorm, SiLU, attention), such as a published DDPM: the
student is the U-Net that conversion starts from, and its loss the mean squared distance to what
the teacher predicts on noised images. It is no conversion: the student is another network, and
its distance to the teacher stands beside every figure of what is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig, noise_loss
from sddpm.protocol import ImageShape, Step, System
from sddpm.unet import UNet, unet_config
from sddpm.widths import TRAINED, FreshUNet, over


@dataclass(frozen=True)
class Config(FreshUNet, DenoiserTraining):
    """The distilled twin. The defaults are the published widths."""

    ema_decay: float = 0.9999
    """Decay a step of the averaged weights that sample; 0 samples with the last weights."""


class Distilled(Denoiser):
    """Trains on a teacher's predictions.

    Args:
        teacher: ``eps = teacher(x, t)``; None once trained.
    """

    def __init__(
        self, net: UNet, shape: ImageShape, config: Config, teacher: nn.Module | None
    ) -> None:
        super().__init__(net, shape, config, DiffusionConfig(config.diffusion_steps))
        # In a tuple: no part of this system's state.
        self._teacher = () if teacher is None else (teacher,)

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        if not self._teacher:
            raise ValueError("a distilled twin is trained on a teacher's predictions: give one")
        t = step.randint(self.diffusion.config.diffusion_steps, len(images))
        noise = step.randn(*images.shape)
        noisy = self.diffusion.add_noise(images, noise, t)
        teacher = self._teacher[0].to(images.device).eval()
        with torch.no_grad():
            wanted = teacher(noisy, t)
        predicted = step.module("net")(noisy, t)
        loss = noise_loss(self.net, predicted, wanted, t)
        self.update(loss, step)
        with torch.no_grad():
            relative = ((predicted - wanted).square().mean() / wanted.square().mean()).sqrt()
        return {"loss": loss.detach(), "relative_error": relative}


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Distilled:
    """A ReLU twin for images of ``shape`` that learns from ``parent``, any denoiser.

    Raises:
        ValueError: the parent does not predict noise, was trained on images of another size, or
            has another noise schedule.
    """
    if parent is not None:
        if not isinstance(parent, Denoiser):
            raise ValueError(f"a {type(parent).__name__} predicts no noise to learn from")
        if parent.shape != shape:
            size = f"{parent.shape.channels} x {parent.shape.size} x {parent.shape.size}"
            raise ValueError(
                f"the teacher was trained on images of {size}: give images of that size"
            )
        theirs, ours = parent.diffusion.config, DiffusionConfig(config.diffusion_steps)
        if theirs != ours:
            raise ValueError(
                f"the teacher was trained with the noise schedule {theirs}, and a distillation "
                f"keeps it: only {ours} can be learnt from"
            )
    unet = unet_config(config, shape, activation="relu", time_steps=1)
    return Distilled(UNet(unet), shape, config, None if parent is None else parent.generator)


PRESETS = over(TRAINED, smoke=dict(ema_decay=0.0))
