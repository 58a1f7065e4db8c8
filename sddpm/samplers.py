"""Samplers: diffusers' schedulers behind one loop that knows nothing of the network.

A sampler is one entry of :data:`SAMPLERS`. The network is any ``denoise(x, t)`` that maps
``[batch, C, H, W]`` and ``[batch]`` integer diffusion steps to the predicted noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape
from sddpm.rng import ImageStreams

Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """Which solver, and how many network evaluations an image."""

    sampler: str = "ddim"
    """A key of :data:`SAMPLERS`."""
    steps: int = 50
    """Network evaluations an image; at most the diffusion steps of the training."""
    eta: float = 0.0
    """Share of the ancestral noise in DDIM: 0 is deterministic, 1 the DDPM posterior's."""

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r} is unknown; choose {', '.join(SAMPLERS)}")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: expected at least 1")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta}: expected a number from 0 to 1")
        if self.eta and not SAMPLERS[self.sampler].takes_eta:
            raise ValueError(f"eta={self.eta}: sampler {self.sampler!r} takes no eta; leave it 0")


@dataclass(frozen=True)
class SamplerEntry:
    """A scheduler class of diffusers (or one with the same ``step``) and its settings."""

    scheduler: type
    settings: dict[str, Any]
    takes_eta: bool = False
    about: str = ""


# "trailing" spacing starts from the last diffusion step, which is what x_T is.
SAMPLERS: dict[str, SamplerEntry] = {
    "ddpm": SamplerEntry(
        DDPMScheduler,
        {"variance_type": "fixed_large", "clip_sample": True, "timestep_spacing": "trailing"},
        about="ancestral sampling, variance beta_t, predicted image clipped (as published)",
    ),
    "ddim": SamplerEntry(
        DDIMScheduler,
        {"clip_sample": True, "timestep_spacing": "trailing"},
        takes_eta=True,
        about="DDIM, uniform spacing, predicted image clipped",
    ),
}


def sample(
    denoise: Denoise,
    shape: ImageShape,
    seeds: Sequence[int],
    diffusion: DiffusionConfig,
    sampling: Sampling,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw one image per seed, ``[len(seeds), C, size, size]`` in about [-1, 1] on ``device``.

    Raises:
        ValueError: more sampling steps than diffusion steps.
    """
    if sampling.steps > diffusion.diffusion_steps:
        raise ValueError(
            f"steps={sampling.steps}: the model was trained with "
            f"{diffusion.diffusion_steps} diffusion steps; use at most those"
        )
    entry = SAMPLERS[sampling.sampler]
    scheduler = entry.scheduler(**diffusion.scheduler_options(), **entry.settings)
    scheduler.set_timesteps(sampling.steps)
    options = {"eta": sampling.eta} if entry.takes_eta else {}
    streams = ImageStreams(seeds)
    x = streams.randn(shape.channels, shape.size, shape.size).to(device)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            eps = denoise(x, t.to(device).expand(len(x)))
            step = scheduler.step(
                eps.to(x.dtype), int(t), x, generator=streams.generators, **options
            )
            x = step.prev_sample
    return x
