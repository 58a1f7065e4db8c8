"""The diffusion process: noise schedule, forward process, noise-prediction loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule of the published model: 1000 linear betas from 1e-4 to 0.02."""

    diffusion_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def scheduler_options(self) -> dict[str, Any]:
        """The same schedule in the words of diffusers' schedulers."""
        options = asdict(self)
        return {
            "num_train_timesteps": options.pop("diffusion_steps"),
            "beta_schedule": "linear",
            "prediction_type": "epsilon",
            **options,
        }


class Diffusion:
    """Forward process ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps``, ``t`` in 0..steps-1."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self._scheduler = DDPMScheduler(**config.scheduler_options())

    @property
    def alphas_cumprod(self) -> Tensor:
        """``abar_t``, ``[diffusion_steps]``."""
        return self._scheduler.alphas_cumprod

    def add_noise(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``x_t`` of ``images`` (``[batch, C, H, W]``) at steps ``t`` (``[batch]``)."""
        return self._scheduler.add_noise(images, noise, t)


def noise_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, over every element, in float32."""
    return torch.nn.functional.mse_loss(predicted.float(), noise.float())
