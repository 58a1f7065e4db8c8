"""Analytic-DPM: jumps between any diffusion steps with the optimal reverse variance.

Paper: Bao et al., "Analytic-DPM: an Analytic Estimate of the Optimal Reverse Variance in
Diffusion Probabilistic Models", ICLR 2022, arXiv 2201.06503; code baofff/Analytic-DPM (no
licence; nothing is copied). Difference: the statistics are always measured on the network
that samples, never fetched, because they belong to one network at one threshold.

Notation is the paper's, 1-based: A_n is the product of the first n alphas, B_n = 1 - A_n,
A_0 = 1. A network that counts diffusion steps from 0 is fed ``n - 1``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from sddpm.rng import mix

Form = Literal["ddpm", "ddim"]
Spacing = Literal["uniform", "quadratic"]


@dataclass
class StepOutput:
    """Result of ``step``, with the field names of diffusers."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class JumpScheduler:
    """DDPM-like and DDIM-like jumps ``r -> s < r`` over any subset of the diffusion steps.

    With ``gamma`` the variance is Analytic-DPM's, else the form's own (DDPM: the posterior's;
    DDIM: ``eta^2`` times that).

    Args:
        gamma: ``E ||eps(x_n, n)||^2 / d`` for n = 1..N, ``[N + 1]``; index 0 is not read.
        form: ``ddpm`` (posterior mean) or ``ddim``.
        eta: share of the ancestral noise in the DDIM form.
        spacing: ``uniform``, or ``quadratic`` (denser at low noise, up to 0.8 N).
        grey_levels: the last noisy jump's mean absolute noise stays below this many of 256
            grey levels; None leaves it.
        clip_sample: clip the predicted image to [-1, 1].
        scheduler_options: the noise schedule, in the words of diffusers' schedulers.
    """

    init_noise_sigma = 1.0

    def __init__(
        self,
        gamma: Tensor | None = None,
        form: Form = "ddim",
        eta: float = 0.0,
        spacing: Spacing = "uniform",
        grey_levels: float | None = None,
        clip_sample: bool = True,
        **scheduler_options: Any,
    ) -> None:
        if form not in ("ddpm", "ddim"):
            raise ValueError(f"form={form!r}: expected 'ddpm' or 'ddim'")
        if spacing not in ("uniform", "quadratic"):
            raise ValueError(f"spacing={spacing!r}: expected 'uniform' or 'quadratic'")
        alphas = DDPMScheduler(**scheduler_options).alphas_cumprod.double()
        self._a = torch.cat([torch.ones(1, dtype=torch.float64), alphas])
        self.diffusion_steps = len(alphas)
        if gamma is not None and gamma.shape != self._a.shape:
            raise ValueError(
                f"gamma has shape {tuple(gamma.shape)}, expected ({self.diffusion_steps + 1},)"
            )
        self._gamma = None if gamma is None else gamma.double().cpu()
        self._form, self._eta, self._clip = form, eta, clip_sample
        self._spacing, self._grey_levels = spacing, grey_levels
        self._chosen: list[int] = []
        self.timesteps = torch.empty(0, dtype=torch.long)

    def set_timesteps(self, steps: int) -> None:
        """Choose ``steps`` of 1..N. Uniform spacing holds 1 and N; a single step is N."""
        total = self.diffusion_steps
        if steps == 1:
            chosen = [total]
        elif self._spacing == "uniform":
            chosen = [round(1 + i * (total - 1) / (steps - 1)) for i in range(steps)]
        else:
            chosen = _quadratic(steps, total)
        self._chosen = chosen
        self.timesteps = torch.tensor(chosen[::-1]) - 1

    def scale_model_input(self, x: Tensor, t: int | Tensor) -> Tensor:
        """The network reads ``x`` as it is."""
        return x

    def step(
        self,
        model_output: Tensor,
        t: int | Tensor,
        sample: Tensor,
        generator: Sequence[torch.Generator] | None = None,
    ) -> StepOutput:
        """Jump from diffusion step ``t`` (counted from 0) to the next chosen one."""
        r = int(t) + 1
        index = self._chosen.index(r)
        s = self._chosen[index - 1] if index else 0
        a_r = float(self._a[r])
        x0 = (sample - math.sqrt(1 - a_r) * model_output) / math.sqrt(a_r)
        if self._clip:
            x0 = x0.clamp(-1, 1)
        if s == 0:
            return StepOutput(x0, x0)
        mean_x0, mean_other, other = self._mean(r, s, model_output, sample)
        sigma = math.sqrt(self.variance(r, s))
        if self._grey_levels is not None and index == 1:
            # The mean absolute noise is sigma sqrt(2 / pi), in units of [-1, 1].
            sigma = min(sigma, self._grey_levels * 2 / 255 * math.sqrt(math.pi / 2))
        noise = randn_tensor(
            sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
        )
        return StepOutput(mean_x0 * x0 + mean_other * other + sigma * noise, x0)

    def _mean(self, r: int, s: int, eps: Tensor, x: Tensor) -> tuple[float, float, Tensor]:
        """Coefficients of the predicted image and of the second term, and that term."""
        a_r, a_s = float(self._a[r]), float(self._a[s])
        b_r, b_s = 1 - a_r, 1 - a_s
        a = a_r / a_s
        if self._form == "ddpm":
            return math.sqrt(a_s) * (1 - a) / b_r, math.sqrt(a) * b_s / b_r, x
        return math.sqrt(a_s), math.sqrt(b_s - self._own_variance(r, s)), eps

    def _own_variance(self, r: int, s: int) -> float:
        """The form's variance without statistics: v = (1 - A_r/A_s) B_s / B_r, times eta^2."""
        a_r, a_s = float(self._a[r]), float(self._a[s])
        posterior = (1 - a_r / a_s) * (1 - a_s) / (1 - a_r)
        return posterior if self._form == "ddpm" else self._eta**2 * posterior

    def variance(self, r: int, s: int) -> float:
        """Variance of the jump ``r -> s`` (1-based), before the last jump's limit.

        With statistics it adds the uncertainty of the predicted image, whose variance is
        ``C_r = (B_r / A_r)(1 - Gamma_r)``, clipped to [0, 1]::

            ddpm: v + A_s (1 - A_r/A_s)^2 / B_r^2 C_r
            ddim: l^2 + (sqrt(A_s) - sqrt((B_s - l^2) A_r / B_r))^2 C_r,   l^2 = eta^2 v
        """
        own = self._own_variance(r, s)
        if self._gamma is None:
            return own
        a_r, a_s = float(self._a[r]), float(self._a[s])
        b_r, b_s = 1 - a_r, 1 - a_s
        covariance = min(max(b_r / a_r * (1 - float(self._gamma[r])), 0.0), 1.0)
        if self._form == "ddpm":
            return own + a_s * (1 - a_r / a_s) ** 2 / b_r**2 * covariance
        slope = math.sqrt(a_s) - math.sqrt((b_s - own) * a_r / b_r)
        return own + slope**2 * covariance


def _quadratic(steps: int, total: int) -> list[int]:
    """DDIM's quadratic rule: squares of evenly spaced roots up to 0.8 N, without repeats."""
    roots = torch.linspace(0, math.sqrt(0.8 * total), steps, dtype=torch.float64)
    chosen = [int(n) + 1 for n in roots.square().tolist()]
    for i in range(1, steps):  # small squares collide: push them up by one
        chosen[i] = max(chosen[i], chosen[i - 1] + 1)
    return chosen


@torch.inference_mode()
def estimate_gamma(
    denoise: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    alphas_cumprod: Tensor,
    seed: int = 0,
    batch_size: int = 256,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Measure ``Gamma_n``, the mean square of the predicted noise, for n = 1..N.

    Args:
        denoise: the network that will sample, at the threshold it will sample with.
        images: float images in [-1, 1], ``[M, C, H, W]``; every one is used at every n, with
            fresh noise: N * M network evaluations.
        alphas_cumprod: ``[N]``.
        on_step: called with (n, N) as it goes.

    Returns:
        float64 ``[N + 1]``; index 0 is 0 and unused.
    """
    if len(images) < 1:
        raise ValueError("no images to estimate Analytic-DPM's statistics from")
    total = len(alphas_cumprod)
    gamma = torch.zeros(total + 1, dtype=torch.float64)
    rng = torch.Generator().manual_seed(mix(seed))
    for n in range(1, total + 1):
        a = float(alphas_cumprod[n - 1])
        squares = 0.0
        for x in images.split(batch_size):
            noise = torch.randn(x.shape, generator=rng, dtype=torch.float32).to(x.device)
            t = torch.full((len(x),), n - 1, device=x.device)
            eps = denoise(math.sqrt(a) * x + math.sqrt(1 - a) * noise, t)
            squares += float(eps.double().square().mean((1, 2, 3)).sum())
        gamma[n] = squares / len(images)
        if on_step:
            on_step(n, total)
    return gamma
