"""The published code's samplers, against loops that follow its definition in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy
import pytest
import torch
from torch import Tensor

from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape
from sddpm.rng import ImageStreams
from sddpm.samplers import Sampling, make_scheduler, sample

PROCESS = DiffusionConfig()
SHAPE = ImageShape(1, 4)
SEEDS = [3, 14]
BETAS = numpy.linspace(1e-4, 0.02, 1000)
ABAR = numpy.cumprod(1 - BETAS)


def denoise(x: Tensor, t: Tensor) -> Tensor:
    """A smooth function that sends some predicted images outside [-1, 1]."""
    return torch.tanh(x * 1.3) + 0.2 * torch.sin(3 * x + t[:, None, None, None] / 200)


def draw(name: str, steps: int) -> numpy.ndarray:
    return sample(denoise, SHAPE, SEEDS, PROCESS, Sampling(name, steps)).numpy()


def evaluate(x: numpy.ndarray, t: int) -> numpy.ndarray:
    return denoise(torch.from_numpy(x), torch.full((len(x),), t)).numpy()


def predicted(x: numpy.ndarray, eps: numpy.ndarray, t: int) -> numpy.ndarray:
    return numpy.clip((x - numpy.sqrt(1 - ABAR[t]) * eps) / numpy.sqrt(ABAR[t]), -1, 1)


def visited(steps: int) -> list[int]:
    """By the published rule, for the steps below: 1000 / steps apart, and 0 in the end."""
    return [*range(999, 0, -1000 // steps), 0]


@pytest.mark.parametrize("steps", [10, 50, 250])
def test_ddim_stops_at_diffusion_step_0(steps: int) -> None:
    x = ImageStreams(SEEDS).randn(1, 4, 4).double().numpy()
    steps_down = visited(steps)
    assert len(steps_down) == steps + 1
    for t, s in pairwise(steps_down):
        eps = evaluate(x, t)
        x = numpy.sqrt(ABAR[s]) * predicted(x, eps, t) + numpy.sqrt(1 - ABAR[s]) * eps
    published = draw("ddim_published", steps)
    assert numpy.abs(published - x).max() < 1e-4
    # Ours visits the same diffusion steps, and goes on from the last to the image.
    image = predicted(x, eps, 0)  # noise of step 0 taken off, with the last evaluation's noise
    ours = draw("ddim", steps)
    assert numpy.abs(published - ours).max() > 1e-3
    assert numpy.abs(image - ours).max() < 1e-4


@pytest.mark.parametrize("steps", [10, 50])
def test_ddpm_jumps_with_the_noise_of_one_step(steps: int) -> None:
    streams = ImageStreams(SEEDS)
    x = streams.randn(1, 4, 4).double().numpy()
    steps_down = visited(steps)
    for t, s in pairwise(steps_down):
        kept = ABAR[t] / ABAR[s]
        mean = numpy.sqrt(kept) * (1 - ABAR[s]) * x
        mean += numpy.sqrt(ABAR[s]) * (1 - kept) * predicted(x, evaluate(x, t), t)
        noise = streams.randn(1, 4, 4).double().numpy()
        x = mean / (1 - ABAR[t]) + numpy.sqrt(BETAS[t]) * noise
    image = predicted(x, evaluate(x, 0), 0)
    assert numpy.abs(draw("ddpm_published", steps + 1) - image).max() < 1e-3


def test_with_every_step_ddpm_is_the_published_one() -> None:
    assert numpy.abs(draw("ddpm_published", 1000) - draw("ddpm", 1000)).max() < 1e-3


def test_with_few_steps_it_is_not() -> None:
    assert numpy.abs(draw("ddpm_published", 51) - draw("ddpm", 51)).max() > 0.05


@pytest.mark.parametrize(
    ("name", "published", "evaluations"),
    [("ddim_published", 50, 50), ("ddim_published", 500, 500), ("ddim_published", 1000, 999),
     ("ddpm_published", 50, 51), ("ddpm_published", 500, 501), ("ddpm_published", 1000, 1000)],
)  # fmt: skip
def test_evaluations_of_the_published_numbers_of_steps(
    name: str, published: int, evaluations: int
) -> None:
    chosen = make_scheduler(PROCESS, Sampling(name, evaluations), None).timesteps.tolist()
    down = [int(999 - 1000 / published * i) for i in range(published)]
    down = down if down[-1] == 0 else [*down, 0]
    assert chosen == (down[:-1] if name == "ddim_published" else down)
