"""Schedulers of diffusers, changed so that each step ends at the next chosen diffusion step, and
the last one at the image.

diffusers' rule for "the last step" is diffusion step 0. "Trailing" spacing starts from the last
diffusion step, which is what x_T is, and ends above 0 for most numbers of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor


class NextStepDDIM(DDIMScheduler):
    """diffusers' DDIM, but each step goes to the next of the chosen diffusion steps.

    diffusers goes back by ``1000 // steps``, which misses it when ``steps`` does not divide 1000.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: Sequence[torch.Generator] | None = None,
    ) -> Any:
        """One step, to the next of ``timesteps``; after the last, to the image."""
        later = self.timesteps[self.timesteps < timestep].tolist()
        jump = int(timestep) - (later[0] if later else -1)
        # All that diffusers reads of it is ``num_train_timesteps // num_inference_steps``.
        self.num_inference_steps = Fraction(self.config.num_train_timesteps, jump)
        return super().step(model_output, timestep, sample, eta=eta, generator=generator)


class NoiselessEndDDPM(DDPMScheduler):
    """diffusers' ancestral sampling, but the last step adds no noise.

    diffusers adds it wherever the diffusion step is above 0, so also to the finished image.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Sequence[torch.Generator] | None = None,
    ) -> Any:
        """One step; the last gives the predicted image, which is the posterior's mean there."""
        out = super().step(model_output, timestep, sample, generator=generator)
        if int(timestep) != int(self.timesteps[-1]):
            return out
        image = out.pred_original_sample
        return DDPMSchedulerOutput(prev_sample=image, pred_original_sample=image)


class LearnedRangeDDPM(NoiselessEndDDPM):
    """Ancestral sampling with a learned variance (Improved DDPM, arXiv 2102.09672, equation 15),
    over jumps as well: the larger bound is the jump's beta.

    diffusers takes the beta of one diffusion step there, whatever the jump. With
    ``variance_type="learned_range"``, its ``step`` reads the second half of the output's channels.
    """

    def _get_variance(
        self, t: int, predicted_variance: Tensor | None = None, variance_type: Any = None
    ) -> Tensor:
        """Logarithm of the variance, ``[batch, C, H, W]``: ``predicted_variance`` is -1 for the
        posterior's and 1 for beta."""
        assert predicted_variance is not None
        smallest = super()._get_variance(t, variance_type="fixed_small").log()
        largest = super()._get_variance(t, variance_type="fixed_large").log()
        return smallest + (predicted_variance + 1) / 2 * (largest - smallest)


class SolverToImage(DPMSolverMultistepScheduler):
    """diffusers' DPM-Solver in noise form, but the last step goes to the image.

    diffusers stops at the schedule's least noise, because the image's log signal-to-noise ratio
    is infinite. The limit of the first-order step towards it is the predicted image.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Sequence[torch.Generator] | None = None,
    ) -> Any:
        """One step, to the next of ``timesteps``; after the last, to the image."""
        if int(timestep) != int(self.timesteps[-1]):
            return super().step(model_output, timestep, sample)
        signal = self.alphas_cumprod[int(timestep)].to(sample.device)
        image = (sample - (1 - signal).sqrt() * model_output) / signal.sqrt()
        return SchedulerOutput(prev_sample=image)
