"""QCFS: the ReLU twin with trainable clip-floor-shift activations, for any number of steps.

Bu et al. 2022, "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking
neural networks", arXiv 2303.04347: ``y = lambda clip(floor(x L / lambda + 1/2) / L, 0, 1)`` with
a learned ``lambda`` a layer. A neuron with that threshold, started at half of it, has the same
mean after L steps of even input, and in expectation no error at other T. Differences: the clips
start where their rounding of the ReLU twin's activations errs least, the weights at the twin's,
and the loss is in part the distance to the twin's predictions, so that a short training keeps
what the twin knows. BatchNorm's statistics stay the twin's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from conversion.calibrate import LeastSquares
from conversion.convert import convertible
from conversion.quantised import Quantised, quantised_net
from sddpm.denoising import DenoiserTraining
from sddpm.diffusion import noise_loss
from sddpm.protocol import ImageShape, Step, System
from sddpm.unet import UNet
from sddpm.widths import SIZES, UNetWidths, over


@dataclass(frozen=True)
class Config(UNetWidths, DenoiserTraining):
    """The clip-floor-shift twin. Its widths are the ReLU twin's."""

    learning_rate: float = 1e-3
    """Adam's step size after the warm-up."""
    warmup_steps: int = 20
    """Steps over which the step size rises linearly from 0; at most a fifth of the run."""
    decay: Literal["constant", "linear"] = "linear"
    """Schedule of the step size after the warm-up: ``constant``, or ``linear`` to 0 at the end."""
    levels: int = 16
    """Levels of an activation above 0: best is the number of spiking steps to come, or four times
    that where the network will be read through a window."""
    start_levels: int = 16
    """Number of levels for which the clips start at the least rounding error. Best is the later
    number of spiking steps."""
    parent_weight: float = 0.5
    """Share in the loss of the distance to the ReLU twin's prediction; the rest is to the noise."""


class ClipFloorShift(Quantised):
    """Trains weights and clips on the noise and on its parent's prediction of it.

    Args:
        teacher: the ReLU twin; None once trained.
    """

    def __init__(self, net: UNet, shape: ImageShape, config: Config, teacher: UNet | None) -> None:
        super().__init__(net, shape, config, LeastSquares(config.start_levels))
        self.config = config
        # In a tuple: no part of this system's state.
        self._teacher = () if teacher is None else (teacher,)

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        if not self._teacher:
            raise ValueError("a clip-floor-shift twin is trained beside its ReLU twin: give it")
        if step.number == 0:
            self._start_clips(images, step)
        self.net.eval()  # statistics of a few hundred batches would be worse than the parent's
        t = step.randint(self.diffusion.config.diffusion_steps, len(images))
        noise = step.randn(*images.shape)
        noisy = self.diffusion.add_noise(images, noise, t)
        teacher = self._teacher[0].to(images.device).eval()
        with torch.no_grad():
            wanted = teacher(noisy, t)
        predicted = step.module("net")(noisy, t)
        to_parent = noise_loss(self.net, predicted, wanted, t)
        to_noise = noise_loss(self.net, predicted, noise, t)
        weight = self.config.parent_weight
        self.update(weight * to_parent + (1 - weight) * to_noise, step)
        return {"loss": to_noise.detach(), "to_parent": to_parent.detach()}


def build(config: Config, shape: ImageShape, parent: System | None = None) -> ClipFloorShift:
    """The clip-floor-shift twin for images of ``shape``, from the weights ``parent`` samples with.

    Raises:
        ValueError: the parent is not a ReLU twin of the same widths, or a field is out of range.
    """
    for field in ("levels", "start_levels"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field}={getattr(config, field)}: expected at least 1")
    if not 0 <= config.parent_weight <= 1:
        raise ValueError(f"parent_weight={config.parent_weight}: expected a number from 0 to 1")
    net = quantised_net(config, shape, config.levels, parent)
    return ClipFloorShift(net, shape, config, None if parent is None else convertible(parent))


def config_for(parent: System, **chosen: Any) -> Config:
    """A Config with the widths of ``parent``, and other fields as ``chosen``."""
    return Config(**convertible(parent).config.widths(), **chosen)


PRESETS = over(
    SIZES,
    smoke=dict(levels=4, start_levels=4),
    medium=dict(learning_rate=4e-4),
    paper=dict(learning_rate=2e-4, warmup_steps=1000),
)
