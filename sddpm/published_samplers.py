"""The samplers of the published SDDPM code, step for step.

Code: AndyCao1125/SDDPM (no licence; nothing is copied). For ``S`` steps it visits the diffusion
steps ``int(999 - 1000 i / S)`` of the 1000, ``i`` in 0..S-1, and 0 after them where that list does
not end there, which is for every ``S`` up to 500.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from sddpm.analytic import StepOutput


class PublishedScheduler:
    """The published code's ``ddim`` (deterministic), or its ``ddpm2``, which is its ``ddpm`` where
    every step is visited.

    In both the predicted image is clipped and ``x`` is not. ``ddim`` goes from each visited step
    to the next and stops at diffusion step 0 without evaluating the network there: what it gives
    holds noise of deviation ``sqrt(1 - abar_0)``, 0.01. ``ddpm`` goes to the mean of the posterior
    of the jump, but adds the noise of one diffusion step, ``beta_t``, however long the jump is;
    at 0 it gives the image.

    Args:
        form: ``ddim`` or ``ddpm``.
        scheduler_options: the noise schedule, in the words of diffusers' schedulers.
    """

    init_noise_sigma = 1.0

    def __init__(self, form: Literal["ddim", "ddpm"], **scheduler_options: Any) -> None:
        schedule = DDPMScheduler(**scheduler_options)
        self._abar = schedule.alphas_cumprod.double().tolist()
        self._betas = schedule.betas.double().tolist()
        self._form = form
        self._visited: list[int] = []
        self.timesteps = torch.empty(0, dtype=torch.long)

    def set_timesteps(self, evaluations: int) -> None:
        """Choose the diffusion steps for the given number of network evaluations.

        Raises:
            ValueError: the published code cannot do that.
        """
        total = len(self._abar)
        for steps in (evaluations - 1, evaluations, evaluations + 1):
            visited = _visited(total, steps) if 1 <= steps <= total else []
            evaluated = visited[:-1] if self._form == "ddim" else visited
            if len(evaluated) == evaluations:
                self._visited, self.timesteps = visited, torch.tensor(evaluated)
                return
        legal = f"1 to {total - 1}" if self._form == "ddim" else f"2 to {total}"
        raise ValueError(
            f"steps={evaluations}: the published {self._form} evaluates the network {legal} times"
        )

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
        """Move ``sample`` from diffusion step ``t`` to the next visited step; ``ddpm`` goes from 0
        to the image."""
        now = int(t)
        abar = self._abar[now]
        x0 = (sample - math.sqrt(1 - abar) * model_output) / math.sqrt(abar)
        x0 = x0.clamp(-1, 1)
        if now == 0:
            return StepOutput(x0, x0)
        later = self._abar[self._visited[self._visited.index(now) + 1]]
        if self._form == "ddim":
            x = math.sqrt(later) * x0 + math.sqrt(1 - later) * model_output
            return StepOutput(x, x0)
        kept = abar / later
        mean_x0 = math.sqrt(later) * (1 - kept) / (1 - abar)
        mean_x = math.sqrt(kept) * (1 - later) / (1 - abar)
        noise = randn_tensor(
            sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
        )
        x = mean_x0 * x0 + mean_x * sample + math.sqrt(self._betas[now]) * noise
        return StepOutput(x, x0)


def _visited(total: int, steps: int) -> list[int]:
    visited = [int(total - 1 - total / steps * i) for i in range(steps)]
    return visited if visited[-1] == 0 else [*visited, 0]
