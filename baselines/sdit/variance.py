"""Loss of a learned variance: the variational bound of Improved DDPM.

Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", arXiv 2102.09672: the
reverse step's variance is ``exp(f log beta + (1 - f) log beta~)`` (equation 15) with
``beta~ = beta (1 - abar[t-1]) / (1 - abar[t])``, and ``f`` is trained on the bound with the mean
held fixed (equation 16).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sddpm.diffusion import Diffusion

GREY_STEP = 2 / 255
"""Distance of two grey levels of images in [-1, 1]."""


class VarianceBound(nn.Module):
    """The bound's terms, in bits a number, from what a network puts out.

    Args:
        diffusion: the process.
    """

    log_beta: Tensor
    log_posterior: Tensor
    error_scale: Tensor

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        abar = diffusion.alphas_cumprod.double()
        before = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
        beta = 1 - abar / before
        posterior = beta * (1 - before) / (1 - abar)
        # 0 at the first step: the authors take the second step's in its place.
        posterior[0] = posterior[min(1, len(posterior) - 1)]
        tables = {
            "log_beta": beta.log(),
            "log_posterior": posterior.log() if len(posterior) > 1 else beta.log(),
            # From an error of the noise to one of the reverse step's mean.
            "error_scale": beta / ((1 - beta).sqrt() * (1 - abar).sqrt()),
        }
        for name, table in tables.items():
            # Fixed by the schedule: no part of a checkpoint.
            self.register_buffer(name, table.float(), persistent=False)

    def forward(
        self, images: Tensor, noise: Tensor, predicted: Tensor, place: Tensor, t: Tensor
    ) -> Tensor:
        """The term of each image's step, ``[batch]``.

        Args:
            images: ``[batch, C, H, W]`` in [-1, 1].
            noise: what was added to them.
            predicted: the network's noise; a constant for the gradient.
            place: its other output, ``2 f - 1``.
            t: steps, ``[batch]``.
        """
        log_beta, true, scale = (
            table[t][:, None, None, None]
            for table in (self.log_beta, self.log_posterior, self.error_scale)
        )
        fraction = (place.float() + 1) / 2
        ours = fraction * log_beta + (1 - fraction) * true
        error = scale * (predicted.detach().float() - noise)
        divergence = 0.5 * (ours - true - 1 + (true - ours).exp() + error.square() * (-ours).exp())
        likelihood = level_log_likelihood(images, images - error, 0.5 * ours)
        first = (t == 0)[:, None, None, None]
        return torch.where(first, -likelihood, divergence).mean((1, 2, 3)) / math.log(2)


def level_log_likelihood(images: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Logarithm of the probability of each number's grey level under a normal distribution.

    A level takes all within half a step of it; the lowest and the highest take the tails. At least
    log(1e-12). All tensors have one shape.
    """
    centred, inverse = images - means, (-log_scales).exp()
    above = torch.special.ndtr((centred + GREY_STEP / 2) * inverse)
    below = torch.special.ndtr((centred - GREY_STEP / 2) * inverse)
    above = torch.where(images > 0.999, torch.ones_like(above), above)
    below = torch.where(images < -0.999, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-12).log()
