"""A noise-prediction network as a System: what SDDPM, its ANN twins and converted nets share.

The network is anything with ``eps = net(x, t)``; spike encoding, the step loop and the
read-out stay inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sddpm.averaging import Average
from sddpm.diffusion import Diffusion, DiffusionConfig, noise_loss
from sddpm.engine.network import optimize
from sddpm.guidance import guided, read_thresholds
from sddpm.layers import evaluating
from sddpm.protocol import ImageShape, Step, System
from sddpm.samplers import Denoise, OnStep, Sampling, sample


@dataclass(frozen=True)
class DenoiserTraining:
    """How a noise network is trained. The defaults are the published ones."""

    learning_rate: float = 2e-4
    """Adam's step size after the warm-up."""
    warmup_steps: int = 5000
    """Steps over which the step size rises linearly from 0; at most a fifth of the run."""
    decay: Literal["constant", "linear"] = "constant"
    """What the step size does after the warm-up: stay, or fall linearly to 0 at the end."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.0
    """Decay a step of the averaged weights that sample; 0 samples with the last weights."""


class Denoiser(System):
    """Trains ``net`` to predict noise and samples through :mod:`sddpm.samplers`.

    Args:
        net: ``eps = net(x, t)``.
        shape: of the images.
        training: optimisation settings.
        diffusion: noise schedule.
    """

    graphable = frozenset({"net"})

    def __init__(
        self,
        net: nn.Module,
        shape: ImageShape,
        training: DenoiserTraining,
        diffusion: DiffusionConfig | None = None,
    ) -> None:
        super().__init__()
        if training.decay not in ("constant", "linear"):
            raise ValueError(f"decay={training.decay!r}: expected 'constant' or 'linear'")
        if not 0 <= training.ema_decay < 1:
            raise ValueError(f"ema_decay={training.ema_decay}: expected a number in [0, 1)")
        # Convolutions and the fused kernels are fastest on channels-last memory.
        self.net = net.to(memory_format=torch.channels_last)
        self.shape = shape
        self.training_config = training
        self.diffusion = Diffusion(diffusion or DiffusionConfig())
        self.averaged = Average(net, training.ema_decay) if training.ema_decay else None
        self.gamma: Tensor | None = None
        """Statistics for the samplers that need them (:func:`sddpm.analytic.estimate_gamma`)."""
        self._engine: tuple[Any, Denoise] | None = None
        self.optimizers = {"net": torch.optim.Adam(net.parameters(), lr=training.learning_rate)}

    @property
    def generator(self) -> nn.Module:
        return self.net if self.averaged is None else self.averaged.module

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        t = step.randint(self.diffusion.config.diffusion_steps, len(images))
        noise = step.randn(*images.shape)
        predicted = step.module("net")(self.diffusion.add_noise(images, noise, t), t)
        loss = self.loss(predicted, noise, t)
        rate = learning_rate(self.training_config, step.number, step.total)
        step.update("net", loss, lr=rate, clip=self.training_config.gradient_clip)
        if self.averaged is not None:
            self.averaged.update_parameters(self.net)
        return {"loss": loss.detach()}

    def loss(self, predicted: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a training step makes smaller, of the noise ``[batch, C, H, W]`` at steps ``t``."""
        return noise_loss(self.net, predicted, noise, t)

    def sample(
        self,
        seeds: Sequence[int],
        sampling: Mapping[str, Any] | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """One image in [-1, 1] per seed; ``on_step`` looks inside, as in
        :func:`sddpm.samplers.sample`."""
        settings = Sampling(**(sampling or {}))
        device = next(self.parameters()).device
        with evaluating(self.generator), guided(self.generator, settings.threshold):
            return sample(
                self.prepared(settings.engine),
                self.shape,
                seeds,
                self.diffusion.config,
                settings,
                device,
                gamma=self.gamma,
                on_step=on_step,
            )

    def prepared(self, engine: str) -> Denoise:
        """The generator in the form that ``engine`` names, prepared once per state of weights
        and thresholds."""
        if engine == "plain":
            return self.generator
        thresholds = read_thresholds(self.generator)
        versions = tuple(
            tensor._version
            for name, tensor in self.generator.state_dict(keep_vars=True).items()
            if name.removesuffix(".theta") not in thresholds
        )
        key = (engine, tuple(thresholds.items()), versions, next(self.parameters()).device)
        if self._engine is None or self._engine[0] != key:
            self._engine = (key, optimize(self.generator, engine))  # type: ignore[arg-type]
        return self._engine[1]


def learning_rate(training: DenoiserTraining, number: int, total: int) -> float:
    """Step size of step ``number`` (from 0) of ``total``: linear warm-up, then ``decay``."""
    warmup = min(training.warmup_steps, total // 5)
    if number < warmup:
        return training.learning_rate * (number + 1) / warmup
    if training.decay == "linear":
        return training.learning_rate * (total - number) / (total - warmup)
    return training.learning_rate
