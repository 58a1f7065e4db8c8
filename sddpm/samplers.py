"""Samplers: diffusers' schedulers in one loop that is independent of the network.

A sampler is one entry of :data:`SAMPLERS`. The network is any ``denoise(x, t)`` that maps
``[batch, C, H, W]`` and ``[batch]`` integer diffusion steps to the predicted noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from sddpm.analytic import JumpScheduler
from sddpm.diffusion import DiffusionConfig
from sddpm.guidance import Thresholds, check_gain
from sddpm.layers import solver_arithmetic
from sddpm.protocol import ImageShape
from sddpm.published_samplers import PublishedScheduler
from sddpm.rng import ImageStreams
from sddpm.schedulers import (
    LearnedRangeDDPM,
    NextStepDDIM,
    NoiselessEndDDPM,
    SolverToImage,
)

Denoise = Callable[[Tensor, Tensor], Tensor]
OnStep = Callable[[int, Tensor, Tensor], None]
"""Called with (steps done, x, predicted image)."""


@dataclass(frozen=True)
class Sampling:
    """A solver and its number of network evaluations for an image."""

    sampler: str = "sde_dpm_solver++"
    """A key of :data:`SAMPLERS`."""
    steps: int = 50
    """Network evaluations an image; at most the diffusion steps of the training."""
    eta: float = 0.0
    """Share of the ancestral noise in DDIM: 0 is deterministic, 1 the DDPM posterior's."""
    threshold: Thresholds | None = None
    """Firing threshold while sampling, one or one a layer; None keeps the trained ones."""
    gain: float = 1.0
    """Factor of the network's raw output (v or noise) while sampling; 1 is as trained
    (:meth:`sddpm.denoising.Denoiser.amplified`)."""
    engine: Literal["plain", "exact", "fast"] = "exact"
    """Form of the network: unchanged (``plain``), or prepared by
    :func:`sddpm.engine.network.optimize`."""
    label: int | None = None
    """Class that all images are of, for a network that is told classes; None: one at random for
    each image."""

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r} is unknown; choose {', '.join(SAMPLERS)}")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: expected at least 1")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta}: expected a number from 0 to 1")
        check_gain(self.gain)
        if self.engine not in ("plain", "exact", "fast"):
            raise ValueError(f"engine={self.engine!r}: expected plain, exact or fast")
        if self.eta and not SAMPLERS[self.sampler].takes_eta:
            others = ", ".join(name for name, entry in SAMPLERS.items() if entry.takes_eta)
            raise ValueError(
                f"eta={self.eta}: sampler {self.sampler!r} takes no eta; leave it 0, or choose "
                f"{others}"
            )


@dataclass(frozen=True)
class SamplerEntry:
    """A scheduler class (diffusers' or one with the same ``step``) and its settings."""

    scheduler: type
    settings: dict[str, Any]
    about: str
    takes_eta: bool = False
    """Whether ``eta`` scales its noise."""
    needs_gamma: bool = False
    """Whether it needs statistics of the network (:func:`sddpm.analytic.estimate_gamma`)."""


# "trailing" spacing starts from the last diffusion step, which is what x_T is.
SAMPLERS: dict[str, SamplerEntry] = {
    "ddpm": SamplerEntry(
        NoiselessEndDDPM,
        {"variance_type": "fixed_large", "clip_sample": True, "timestep_spacing": "trailing"},
        "ancestral sampling, predicted image clipped; with 1000 steps as published by SDDPM",
    ),
    "ddpm_unclipped": SamplerEntry(
        NoiselessEndDDPM,
        {"variance_type": "fixed_large", "clip_sample": False, "timestep_spacing": "trailing"},
        "ancestral sampling, predicted image not clipped (as SDiT was published)",
    ),
    "ddim": SamplerEntry(
        NextStepDDIM,
        {"clip_sample": True, "timestep_spacing": "trailing"},
        "DDIM, uniform spacing, predicted image clipped",
        takes_eta=True,
    ),
    "ddim_unclipped": SamplerEntry(
        NextStepDDIM,
        {"clip_sample": False, "timestep_spacing": "trailing"},
        "DDIM, uniform spacing, predicted image not clipped (as FSDDIM was published)",
        takes_eta=True,
    ),
    "ddim_quadratic": SamplerEntry(
        JumpScheduler,
        {"form": "ddim", "spacing": "quadratic"},
        "DDIM, steps denser at low noise, predicted image clipped",
        takes_eta=True,
    ),
    "ddim_published": SamplerEntry(
        PublishedScheduler,
        {"form": "ddim"},
        "SDDPM's code: DDIM that stops at diffusion step 0, short of the image",
    ),
    "ddpm_published": SamplerEntry(
        PublishedScheduler,
        {"form": "ddpm"},
        "SDDPM's code: ancestral with the noise of one diffusion step whatever the jump; its "
        "S steps are S + 1 here up to S = 500",
    ),
    "dpm_solver": SamplerEntry(
        SolverToImage,
        {
            "algorithm_type": "dpmsolver",
            "final_sigmas_type": "sigma_min",
            "timestep_spacing": "trailing",
        },
        "DPM-Solver of order 2, multistep, deterministic",
    ),
    "dpm_solver++": SamplerEntry(
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "timestep_spacing": "trailing"},
        "DPM-Solver++ of order 2, multistep, deterministic",
    ),
    "sde_dpm_solver++": SamplerEntry(
        DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++", "timestep_spacing": "trailing"},
        "DPM-Solver++ of order 2, multistep, of the reverse equation with noise",
    ),
    "unipc": SamplerEntry(
        UniPCMultistepScheduler,
        {"timestep_spacing": "trailing"},
        "UniPC predictor-corrector of order 2, deterministic",
    ),
    "euler": SamplerEntry(
        EulerDiscreteScheduler,
        {"timestep_spacing": "trailing"},
        "Euler steps of the probability-flow equation, deterministic",
    ),
    "analytic_ddpm": SamplerEntry(
        JumpScheduler,
        {"form": "ddpm", "grey_levels": 2.0},
        "Analytic-DPM, DDPM form: the optimal reverse variance from measured statistics",
        needs_gamma=True,
    ),
    "analytic_ddim": SamplerEntry(
        JumpScheduler,
        {"form": "ddim", "grey_levels": 1.0},
        "Analytic-DPM, DDIM form",
        takes_eta=True,
        needs_gamma=True,
    ),
}


def sample(
    denoise: Denoise,
    shape: ImageShape,
    seeds: Sequence[int],
    diffusion: DiffusionConfig,
    sampling: Sampling,
    device: torch.device | str = "cpu",
    gamma: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Draw one image per seed, ``[len(seeds), C, size, size]`` in about [-1, 1] on ``device``.

    Args:
        gamma: statistics of the network, for samplers that need them.
        on_step: called after each step with (steps done, x, predicted image); a look inside.

    Raises:
        ValueError: more sampling steps than diffusion steps, statistics are missing, or the
            network puts out NaN or infinite numbers.
    """
    if sampling.steps > diffusion.diffusion_steps:
        raise ValueError(
            f"steps={sampling.steps}: the model was trained with "
            f"{diffusion.diffusion_steps} diffusion steps; use at most those"
        )
    scheduler = make_scheduler(diffusion, sampling, gamma)
    streams = ImageStreams(seeds)
    takes = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {}
    if "generator" in takes:
        options["generator"] = streams.generators
    if "eta" in takes:
        options["eta"] = sampling.eta
    x = streams.randn(shape.channels, shape.size, shape.size).to(device)
    x = x * scheduler.init_noise_sigma
    finite: list[Tensor] = []
    with torch.inference_mode():
        for done, t in enumerate(scheduler.timesteps, start=1):
            step = t.to(device=device, dtype=torch.long).expand(len(x))
            eps = denoise(scheduler.scale_model_input(x, t), step)
            with solver_arithmetic():
                if diffusion.learned_variance and not isinstance(scheduler, LearnedRangeDDPM):
                    eps = eps[:, : shape.channels]
                finite.append(eps.isfinite().all())
                out = scheduler.step(eps.to(x.dtype), t, x, **options)
            x = out.prev_sample
            if on_step:
                on_step(done, x, getattr(out, "pred_original_sample", x))
    # Asked for all steps at once: a GPU is waited for once.
    good = torch.stack(finite).tolist()
    if not all(good):
        first = int(scheduler.timesteps[good.index(False)])
        raise ValueError(
            f"the network's output is NaN or infinite from diffusion step {first} on; its weights "
            "or thresholds are out of range"
        )
    return x


def check_steps(sampler: str, steps: int, diffusion_steps: int) -> None:
    """Raise ValueError if ``sampler`` cannot take ``steps`` steps through a process of
    ``diffusion_steps``. That depends on no network."""
    gamma = torch.ones(diffusion_steps + 1)
    make_scheduler(DiffusionConfig(diffusion_steps), Sampling(sampler, steps), gamma)


def make_scheduler(diffusion: DiffusionConfig, sampling: Sampling, gamma: Tensor | None) -> Any:
    """The scheduler of ``sampling``, its diffusion steps chosen: ``timesteps``, descending."""
    entry = SAMPLERS[sampling.sampler]
    settings = {**diffusion.scheduler_options(), **entry.settings}
    if entry.scheduler is JumpScheduler:
        settings["eta"] = sampling.eta
    if not diffusion.clip and "clip_sample" in inspect.signature(entry.scheduler).parameters:
        settings["clip_sample"] = False
    if entry.needs_gamma:
        if gamma is None:
            raise ValueError(
                f"sampler {sampling.sampler!r} needs statistics of this network: "
                "estimate them from images first (sddpm.analytic.estimate_gamma)"
            )
        settings["gamma"] = gamma
    kind = entry.scheduler
    if diffusion.learned_variance and kind is NoiselessEndDDPM:
        kind, settings["variance_type"] = LearnedRangeDDPM, "learned_range"
    scheduler = kind(**settings)
    _set_steps(scheduler, sampling.steps)
    return scheduler


def _set_steps(scheduler: Any, steps: int) -> None:
    """Choose ``steps`` diffusion steps, of which diffusers may add one too many.

    Its ``np.arange(1000, 0, -1000 / steps)`` ends on a rounding error above 0 for some ``steps``
    (61, 103, ...), which becomes a step at t = -1, that is 999 again.
    """
    scheduler.set_timesteps(steps)
    if len(scheduler.timesteps) == steps:
        return
    scheduler.timesteps = scheduler.timesteps[:steps]
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])
