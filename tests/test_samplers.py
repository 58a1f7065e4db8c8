"""Samplers on a Gaussian whose exact denoiser is known, and streams that belong to images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sddpm.diffusion import Diffusion, DiffusionConfig
from sddpm.protocol import ImageShape, to_float, to_uint8
from sddpm.rng import ImageStreams, mix
from sddpm.samplers import SAMPLERS, Sampling, sample

MEAN, STD = 0.2, 0.25  # three standard deviations stay inside the clip of [-1, 1]
PROCESS = DiffusionConfig()
SHAPE = ImageShape(channels=1, size=4)


def exact_denoise(x: Tensor, t: Tensor) -> Tensor:
    """E[eps | x_t] for x_0 ~ N(MEAN, STD^2): sqrt(1 - abar) (x - sqrt(abar) MEAN) / Var[x_t]."""
    abar = Diffusion(PROCESS).alphas_cumprod[t].view(-1, 1, 1, 1)
    variance = abar * STD**2 + 1 - abar
    return (1 - abar).sqrt() * (x - abar.sqrt() * MEAN) / variance


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_converges_to_the_gaussian(eta: float) -> None:
    errors = []
    for steps in (5, 1000):
        images = sample(exact_denoise, SHAPE, range(1000), PROCESS, Sampling("ddim", steps, eta))
        errors.append(abs(images.std().item() - STD))
        assert images.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert errors[1] < 0.01
    assert errors[1] < errors[0]


def test_ddpm_reaches_the_gaussian_with_all_steps() -> None:
    images = sample(exact_denoise, SHAPE, range(400), PROCESS, Sampling("ddpm", 1000))
    assert images.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert images.std().item() == pytest.approx(STD, abs=0.015)


@pytest.mark.parametrize("sampling", [Sampling("ddpm", 20), Sampling("ddim", 10, 0.7)])
def test_an_image_depends_on_its_seed_alone(sampling: Sampling) -> None:
    """Image 17 is the same alone, in a batch of 3, in any order, and on a rerun."""
    alone = sample(exact_denoise, SHAPE, [17], PROCESS, sampling)[0]
    batch = sample(exact_denoise, SHAPE, [4, 17, 90], PROCESS, sampling)
    other = sample(exact_denoise, SHAPE, [17, 3], PROCESS, sampling)
    torch.testing.assert_close(batch[1], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(other[0], alone, rtol=0, atol=1e-6)
    assert not torch.allclose(batch[0], batch[2])


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_called_once_a_step(name: str) -> None:
    calls: list[int] = []

    def counting(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        calls.append(int(t[0]))
        return exact_denoise(x, t)

    sample(counting, SHAPE, [1, 2], PROCESS, Sampling(name, 25))
    assert len(calls) == 25
    assert calls[0] == PROCESS.diffusion_steps - 1
    assert calls == sorted(calls, reverse=True)


def test_streams_are_pairwise_different_and_repeatable() -> None:
    noise = ImageStreams(range(50)).randn(64)
    assert torch.equal(noise, ImageStreams(range(50)).randn(64))
    correlation = torch.corrcoef(noise) - torch.eye(50)
    assert correlation.abs().max() < 0.6
    assert len({mix(a, b) for a in range(40) for b in range(40)}) == 1600


def test_forward_process_by_hand() -> None:
    diffusion = Diffusion(DiffusionConfig(diffusion_steps=2, beta_start=0.1, beta_end=0.5))
    x, eps = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    abar = 0.9 * 0.5
    expected = abar**0.5 * 2 - (1 - abar) ** 0.5
    assert diffusion.add_noise(x, eps, torch.tensor([1])).item() == pytest.approx(expected)


def test_uint8_rounds_to_the_nearest_grey_and_back() -> None:
    greys = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(greys)), greys)
    assert to_uint8(torch.tensor([-1.5, -1.0, 0.0, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255]
    half = 2 * torch.tensor([10.49, 10.51]) / 255 - 1
    assert to_uint8(half).tolist() == [10, 11]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sampler="dimm"), "dimm"),
        (dict(steps=0), "steps=0"),
        (dict(eta=2.0), "eta=2"),
        (dict(sampler="ddpm", eta=0.5), "takes no eta"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_more_steps_than_the_training_had() -> None:
    with pytest.raises(ValueError, match="1001"):
        sample(exact_denoise, SHAPE, [0], PROCESS, Sampling("ddim", 1001))
