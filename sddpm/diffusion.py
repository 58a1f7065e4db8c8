"""The diffusion process: noise schedule, forward process, what a network predicts, its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

Prediction = Literal["epsilon", "v_prediction"]
"""Quantity that a network's last layer predicts, in diffusers' terms; see :class:`NoiseOutput`."""


MOST_DIFFUSION_STEPS = 100_000
"""Steps that a noise schedule may have: its tables grow with them."""


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule of the published model: 1000 linear betas from 1e-4 to 0.02."""

    diffusion_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    clip: bool = True
    """Whether samplers that clip the predicted image to [-1, 1] may; some foreign networks were
    made to be sampled without."""
    learned_variance: bool = False
    """Whether the network's output has twice the image's channels: the noise, then where the
    variance lies between the posterior's (-1) and beta (1), on a logarithmic scale (Improved DDPM,
    arXiv 2102.09672). Ancestral sampling draws with it; other samplers drop it."""

    def __post_init__(self) -> None:
        if not 1 <= self.diffusion_steps <= MOST_DIFFUSION_STEPS:
            raise ValueError(
                f"diffusion_steps={self.diffusion_steps}: expected 1 to {MOST_DIFFUSION_STEPS:,}"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"betas from {self.beta_start} to {self.beta_end}: expected numbers between 0 and "
                "1 that do not fall"
            )

    def scheduler_options(self) -> dict[str, Any]:
        """The same schedule in the words of diffusers' schedulers."""
        options = asdict(self)
        del options["clip"], options["learned_variance"]
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


class NoiseOutput(nn.Module):
    """A network's raw output, as the noise that samplers and losses ask for.

    ``epsilon``: the output is the noise, as SDDPM is published. ``v_prediction``: it is
    ``v = sqrt(abar) eps - sqrt(1 - abar) x_0`` (Salimans and Ho 2022, arXiv 2202.00512), so that
    ``eps = sqrt(abar) v + sqrt(1 - abar) x_t``. At high noise ``eps`` is nearly the input, which
    spikes must carry through the whole network digit by digit; ``v`` asks them for the image.

    Raises:
        ValueError: the prediction is unknown.
    """

    signal: Tensor
    noise_level: Tensor

    def __init__(self, prediction: Prediction, diffusion: DiffusionConfig) -> None:
        super().__init__()
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction={prediction!r}: expected 'epsilon' or 'v_prediction'")
        self.prediction = prediction
        abar = Diffusion(diffusion).alphas_cumprod.double()
        # Fixed by the schedule: no part of a checkpoint.
        self.register_buffer("signal", abar.sqrt().float(), persistent=False)
        self.register_buffer("noise_level", (1 - abar).sqrt().float(), persistent=False)

    def forward(self, raw: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise in ``x`` (``[batch, C, H, W]``) at steps ``t`` (``[batch]``), of ``raw``."""
        if self.prediction == "epsilon":
            return raw
        return _at(self.noise_level, t) * x + _at(self.signal, t) * raw

    def amplified(self, noise: Tensor, x: Tensor, t: Tensor, gain: float) -> Tensor:
        """The noise that the raw output times ``gain`` stands for, of the ``noise`` that the raw
        output stands for. For ``v``: ``gain eps + (1 - gain) sqrt(1 - abar) x_t``."""
        if self.prediction == "epsilon":
            return gain * noise
        return gain * noise + (1 - gain) * (_at(self.noise_level, t) * x)

    def target(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Target of the raw output for ``images`` and the ``noise`` in them."""
        if self.prediction == "epsilon":
            return noise
        return _at(self.signal, t) * noise - _at(self.noise_level, t) * images

    def weight(self, t: Tensor) -> Tensor:
        """Factor from a squared error of the noise to one of the raw output, ``[batch, 1, 1,
        1]``."""
        signal = _at(self.signal, t)
        return torch.ones_like(signal) if self.prediction == "epsilon" else signal.square().pow(-1)

    def extra_repr(self) -> str:
        return self.prediction


class NoiseNetwork(nn.Module):
    """A network ``eps = net(x, t)`` that states which quantity its last layer predicts."""

    output: NoiseOutput


def noise_loss(net: nn.Module, predicted: Tensor, wanted: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of the output of ``net``'s last layer, over every element and in float32.
    If ``net`` does not state another quantity, the output is the noise.

    Args:
        predicted: noise, ``[batch, C, H, W]``.
        wanted: the true noise, or a teacher's.
        t: diffusion steps, ``[batch]``.
    """
    squared = (predicted.float() - wanted.float()).square()
    if isinstance(net, NoiseNetwork):
        squared = squared * net.output.weight(t)
    return squared.mean()


NoiseLoss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""The loss of a training step, with the arguments of :func:`noise_loss`."""


class MinSNRLoss:
    """Squared error of the noise that weights each diffusion step by its signal-to-noise ratio
    ``SNR = abar / (1 - abar)`` (Min-SNR, Hang et al. 2023, arXiv 2303.09556, equation 6).

    Args:
        gamma: largest ratio that counts in full, above 0: a step's weight is
            ``min(SNR, gamma) / SNR``.
        diffusion: the schedule that the ratios are of.

    Raises:
        ValueError: ``gamma`` is not above 0.
    """

    def __init__(self, gamma: float, diffusion: DiffusionConfig) -> None:
        if not gamma > 0:
            raise ValueError(f"gamma={gamma}: expected a number above 0")
        self.gamma = gamma
        abar = Diffusion(diffusion).alphas_cumprod
        self._ratios = abar / (1 - abar)

    def __call__(self, net: nn.Module, predicted: Tensor, wanted: Tensor, t: Tensor) -> Tensor:
        """Weighted mean of the squared error of the noise, with the arguments of
        :func:`noise_loss`."""
        squared = (predicted.float() - wanted.float()).square().mean((1, 2, 3))
        ratio = self._ratios.to(t.device)[t]
        # The image's error is the noise's over the ratio; clipped at gamma.
        return (squared * ratio.clamp(max=self.gamma) / ratio).mean()


def _at(table: Tensor, t: Tensor) -> Tensor:
    return table[t][:, None, None, None]
