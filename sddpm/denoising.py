"""A noise-prediction network as a System: what SDDPM, its ANN twins and converted nets share.

The network is anything with ``eps = net(x, t)``; spike encoding, the step loop and the
read-out stay inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sddpm.averaging import Average
from sddpm.diffusion import (
    Diffusion,
    DiffusionConfig,
    NoiseLoss,
    NoiseNetwork,
    NoiseOutput,
    noise_loss,
)
from sddpm.layers import each_step
from sddpm.mixed_time import drawn, running_at
from sddpm.prepared import PreparedNetwork
from sddpm.protocol import ImageShape, Step, System
from sddpm.samplers import Denoise, OnStep, Sampling, sample


@dataclass(frozen=True)
class DenoiserTraining:
    """Options of the training of a noise network. The defaults are those of the published SDDPM
    code, which differs from the paper in some points."""

    learning_rate: float = 2e-4
    """Adam's step size after the warm-up; 1e-5 in arXiv 2408.16467."""
    warmup_steps: int = 0
    """Steps over which the step size rises linearly from 0; at most a fifth of the run. The paper
    has 5,000; its code takes the number and never applies it."""
    decay: Literal["constant", "linear"] = "constant"
    """Schedule of the step size after the warm-up: ``constant``, or ``linear`` to 0 at the end."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient, above 0."""
    ema_decay: float = 0.0
    """Decay a step of the averaged weights that sample; 0 samples with the last weights."""


class Denoiser(System):
    """Trains ``net`` to predict noise and samples through :mod:`sddpm.samplers`.

    Args:
        net: ``eps = net(x, t)``.
        shape: of the images.
        training: optimisation settings.
        diffusion: noise schedule.
        loss: of a training step.
        mixed_time_steps: numbers of spiking time steps of which a training step draws one; none:
            those of ``net``.
    """

    graphable = frozenset({"net"})
    channels_last = frozenset({"net", "averaged"})

    def __init__(
        self,
        net: nn.Module,
        shape: ImageShape,
        training: DenoiserTraining,
        diffusion: DiffusionConfig | None = None,
        loss: NoiseLoss = noise_loss,
        mixed_time_steps: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check_training(training)
        # Whatever torch's default type is: precision is the business of autocast.
        self.net = net.float()
        self.shape = shape
        self.training_config = training
        self.loss = loss
        self.mixed_time_steps = mixed_time_steps
        if mixed_time_steps:  # a CUDA graph has one number of them
            self.graphable = frozenset()
        self.diffusion = Diffusion(diffusion or DiffusionConfig())
        self.averaged = Average(self.net, training.ema_decay) if training.ema_decay else None
        self.gamma: Tensor | None = None
        """Statistics for the samplers that need them (:func:`sddpm.analytic.estimate_gamma`)."""
        self._prepared = PreparedNetwork()
        self.optimizers = {
            "net": torch.optim.Adam(self.net.parameters(), lr=training.learning_rate)
        }

    @property
    def generator(self) -> nn.Module:
        return self.net if self.averaged is None else self.averaged.module

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        t = step.randint(self.diffusion.config.diffusion_steps, len(images))
        noise = step.randn(*images.shape)
        noisy = self.diffusion.add_noise(images, noise, t)
        with self.drawn_time_steps(step):
            predicted = step.module("net")(noisy, t)
        loss = self.loss(self.net, predicted, noise, t)
        self.update(loss, step)
        return {"loss": loss.detach()}

    def drawn_time_steps(self, step: Step) -> AbstractContextManager[None]:
        """The network of a training step, at its own number of time steps inside this context."""
        if not self.mixed_time_steps:
            return nullcontext()
        return running_at(self.net, drawn(self.mixed_time_steps, step))

    def update(self, loss: Tensor, step: Step) -> None:
        """Step the optimiser on ``loss`` at the step size of the schedule, then the average."""
        rate = learning_rate(self.training_config, step.number, step.total)
        step.update("net", loss, lr=rate, clip=self.training_config.gradient_clip)
        if self.averaged is not None:
            self.averaged.update_parameters(self.net)

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
        with self._prepared.at(self.generator, settings.engine, settings.threshold) as denoise:
            return sample(
                self.amplified(self.told(denoise, seeds, settings.label), settings.gain),
                self.shape,
                seeds,
                self.diffusion.config,
                settings,
                device,
                gamma=self.gamma,
                on_step=on_step,
            )

    def told(self, denoise: Denoise, seeds: Sequence[int], label: int | None) -> Denoise:
        """``denoise``, told the class of the image of each seed.

        Args:
            label: the class of all; None: any.

        Raises:
            ValueError: the network was trained without this class.
        """
        check_label(label, self.classes)
        return denoise

    @property
    def noise_output(self) -> NoiseOutput | None:
        """The module that turns the network's raw output into noise; None where it is the noise."""
        net = self.generator
        return net.output if isinstance(net, NoiseNetwork) else None

    def amplified(self, denoise: Denoise, gain: float) -> Denoise:
        """``denoise`` with the network's raw output, v or noise, times ``gain``.

        A read-out is linear, so a chip that holds ``gain`` in its weights pays nothing for it.
        Only the noise is amplified, not a learned variance behind it.
        """
        if gain == 1:
            return denoise
        output = self.noise_output

        def amplify(x: Tensor, t: Tensor) -> Tensor:
            noise, *variance = denoise(x, t).split(x.shape[1], dim=1)
            if output is None:
                noise = gain * noise
            else:
                noise = output.amplified(noise, x, each_step(t, x), gain)
            return torch.cat([noise, *variance], dim=1) if variance else noise

        return amplify

    def prepared(self, engine: str) -> Denoise:
        """The generator, at its weights and thresholds of now, in the form that ``engine`` names:
        plain, exact or fast."""
        return self._prepared.form(self.generator, engine)


def check_label(label: int | None, classes: int) -> None:
    """Raise ValueError if ``label`` is none of ``classes`` classes."""
    if label is not None and not 0 <= label < classes:
        expected = f"a class from 0 to {classes - 1}" if classes else "none: it knows no classes"
        raise ValueError(f"label={label}: expected {expected}")


def check_training(training: DenoiserTraining) -> None:
    """Raise ValueError, naming the option, if one of ``training`` is out of its range."""
    if training.decay not in ("constant", "linear"):
        raise ValueError(f"decay={training.decay!r}: expected 'constant' or 'linear'")
    if not 0 <= training.ema_decay < 1:
        raise ValueError(f"ema_decay={training.ema_decay}: expected a number in [0, 1)")
    if not training.gradient_clip > 0:  # a gradient of norm 0 learns nothing
        raise ValueError(
            f"gradient_clip={training.gradient_clip}: expected a number above 0, such as 1e9 for "
            "gradients of every size"
        )


def learning_rate(training: DenoiserTraining, number: int, total: int) -> float:
    """Step size of step ``number`` (from 0) of ``total``: linear warm-up, then ``decay``."""
    warmup = min(training.warmup_steps, total // 5)
    if number < warmup:
        return training.learning_rate * (number + 1) / warmup
    if training.decay == "linear":
        return training.learning_rate * (total - number) / (total - warmup)
    return training.learning_rate
