"""Samplers on a Gaussian whose exact denoiser is known, and streams that belong to images."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from sddpm.analytic import estimate_gamma
from sddpm.diffusion import Diffusion, DiffusionConfig
from sddpm.protocol import ImageShape, to_float, to_uint8
from sddpm.rng import SEEDS_PER_RUN, ImageStreams, image_seeds, mix
from sddpm.samplers import SAMPLERS, Sampling, make_scheduler, sample

MEAN, STD = 0.2, 0.25  # three standard deviations stay inside the clip of [-1, 1]
PROCESS = DiffusionConfig()
SHAPE = ImageShape(channels=1, size=4)


def exact_denoise(x: Tensor, t: Tensor) -> Tensor:
    """E[eps | x_t] for x_0 ~ N(MEAN, STD^2): sqrt(1 - abar) (x - sqrt(abar) MEAN) / Var[x_t]."""
    abar = Diffusion(PROCESS).alphas_cumprod[t].view(-1, 1, 1, 1)
    variance = abar * STD**2 + 1 - abar
    return (1 - abar).sqrt() * (x - abar.sqrt() * MEAN) / variance


def exact_gamma() -> Tensor:
    """Gamma_n = E eps^2 = B_n / (A_n STD^2 + B_n) for that denoiser, in closed form."""
    abar = Diffusion(PROCESS).alphas_cumprod.double()
    return torch.cat([torch.zeros(1), (1 - abar) / (abar * STD**2 + 1 - abar)])


def draw(name: str, steps: int, eta: float = 0.0, count: int = 1000) -> Tensor:
    sampling = Sampling(name, steps, eta)
    return sample(exact_denoise, SHAPE, range(count), PROCESS, sampling, gamma=exact_gamma())


@pytest.mark.parametrize(
    ("name", "eta", "few", "many"),
    [
        ("ddpm", 0.0, 10, 1000),
        ("ddim", 0.0, 5, 500),
        ("ddim", 1.0, 5, 1000),
        ("ddim_quadratic", 0.0, 5, 500),
        ("dpm_solver", 0.0, 5, 100),
        ("dpm_solver++", 0.0, 5, 100),
        ("sde_dpm_solver++", 0.0, 5, 200),
        ("unipc", 0.0, 5, 100),
        ("euler", 0.0, 5, 500),
    ],
)
def test_converges_to_the_gaussian(name: str, eta: float, few: int, many: int) -> None:
    """Mean and deviation approach the truth as steps grow (16,000 numbers: s.e. 0.0014)."""
    errors = []
    for steps in (few, many):
        images = draw(name, steps, eta)
        errors.append(abs(images.std().item() - STD) + abs(images.mean().item() - MEAN))
    assert errors[1] < 0.012
    assert errors[1] < errors[0]


PICTURE = torch.linspace(-0.9, 0.9, 16).view(1, 1, 4, 4)


def denoise_to_picture(x: Tensor, t: Tensor) -> Tensor:
    """The noise in ``x`` if the only picture there is were PICTURE."""
    abar = Diffusion(PROCESS).alphas_cumprod[t].view(-1, 1, 1, 1)
    return (x - abar.sqrt() * PICTURE) / (1 - abar).sqrt()


# The published DDIM does not; tests/sddpm/test_published_samplers.py has what it gives.
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddim_published"])
def test_the_last_step_reaches_the_picture(name: str) -> None:
    """The last three steps of any number of them, from where the chain would be, and whole
    chains of a few: nothing of the noise is left."""
    abar = Diffusion(PROCESS).alphas_cumprod
    noise = ImageStreams([3]).randn(1, 4, 4)
    one = () if name == "ddpm_published" else (1,)
    for steps in (*one, 2, 3, 4, *range(5, 1001, 38), 61, 103, 999, 1000):
        scheduler = make_scheduler(PROCESS, Sampling(name, steps), torch.ones(1001))
        first = scheduler.timesteps[-3:][0].long()
        x = abar[first].sqrt() * PICTURE + (1 - abar[first]).sqrt() * noise
        if name == "euler":  # diffusers' runs on x / sqrt(abar)
            x = x / abar[first].sqrt()
        takes = {"generator": ImageStreams([3]).generators} if name.startswith("ddpm") else {}
        for t in scheduler.timesteps[-3:]:
            eps = denoise_to_picture(scheduler.scale_model_input(x, t), t.long().expand(1))
            x = scheduler.step(eps, t, x, **takes).prev_sample
        assert (x - PICTURE).abs().max() < 1e-3, steps
    for steps in (*one, 2, 7, 10, 20, 61):
        sampling = Sampling(name, steps)
        images = sample(
            denoise_to_picture, SHAPE, [0, 1], PROCESS, sampling, gamma=torch.ones(1001)
        )
        assert (images - PICTURE).abs().max() < 1e-3, steps


@pytest.mark.parametrize("name", ["analytic_ddpm", "analytic_ddim"])
def test_analytic_variance_is_the_closed_form(name: str) -> None:
    """x_s given x_r is Gaussian here, with variance B_s|r = Var[x_s] - Cov^2 / Var[x_r]."""
    scheduler = make_scheduler(PROCESS, Sampling(name, 10), exact_gamma())
    abar = [1.0, *Diffusion(PROCESS).alphas_cumprod.double().tolist()]
    for r, s in [(1000, 700), (700, 300), (300, 20), (20, 1)]:
        if name == "analytic_ddpm":
            ratio = abar[r] / abar[s]
            marginal_s, marginal_r = (abar[i] * STD**2 + 1 - abar[i] for i in (s, r))
            exact = marginal_s - ratio * marginal_s**2 / marginal_r
        else:  # E[x_s | x_0, x_r] is not linear in this chain: mean's slope times Var[x_0 | x_r]
            posterior = STD**2 * (1 - abar[r]) / (abar[r] * STD**2 + 1 - abar[r])
            slope = abar[s] ** 0.5 - ((1 - abar[s]) * abar[r] / (1 - abar[r])) ** 0.5
            exact = slope**2 * posterior
        assert scheduler.variance(r, s) == pytest.approx(exact, rel=1e-4)


def test_analytic_sampling_is_right_with_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exact variance ten steps give the Gaussian; DDPM's own variance does not.

    The limit of the last noisy jump is for pictures, whose true variance there is tiny; this
    Gaussian's is not, so it is lifted.
    """
    entry = SAMPLERS["analytic_ddpm"]
    monkeypatch.setitem(SAMPLERS, "analytic_ddpm", replace(entry, settings={"form": "ddpm"}))
    assert abs(draw("analytic_ddpm", 10).std().item() - STD) < 0.01
    assert abs(draw("ddpm", 10).std().item() - STD) > 0.03


def test_gamma_is_estimated_from_images() -> None:
    """Against the closed form, at a process short enough to measure."""
    process = DiffusionConfig(diffusion_steps=20, beta_start=0.01, beta_end=0.4)
    abar = Diffusion(process).alphas_cumprod

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        a = abar[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)

    images = MEAN + STD * torch.randn(500, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    gamma = estimate_gamma(denoise, images, abar)
    exact = (1 - abar) / (abar * STD**2 + 1 - abar)
    assert gamma[0] == 0
    torch.testing.assert_close(gamma[1:].float(), exact, rtol=0.08, atol=0)


def test_last_noisy_jump_is_limited_in_grey_levels() -> None:
    scheduler = make_scheduler(PROCESS, Sampling("analytic_ddpm", 10), exact_gamma())
    last = scheduler.timesteps[-2]
    x = torch.zeros(4000, 1, 1, 1)
    rng = [torch.Generator().manual_seed(i) for i in range(4000)]
    noise = scheduler.step(torch.zeros_like(x), last, x, generator=rng).prev_sample
    assert noise.abs().mean().item() == pytest.approx(2 * 2 / 255, rel=0.05)


def test_statistics_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"analytic_ddpm.*statistics"):
        sample(exact_denoise, SHAPE, [0], PROCESS, Sampling("analytic_ddpm", 10))


def test_quadratic_spacing_by_hand() -> None:
    """Roots of linspace(0, sqrt(800), 5): squares 0, 50, 200, 450, 800, counted from 0."""
    scheduler = make_scheduler(PROCESS, Sampling("ddim_quadratic", 5), None)
    assert scheduler.timesteps.tolist() == [800, 450, 200, 50, 0]
    scheduler = make_scheduler(PROCESS, Sampling("ddim_quadratic", 100), None)
    assert len(set(scheduler.timesteps.tolist())) == 100


@pytest.mark.parametrize(
    "sampling", [Sampling("ddpm", 20), Sampling("ddim", 10, 0.7), Sampling("sde_dpm_solver++", 10)]
)
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

    sample(counting, SHAPE, [1, 2], PROCESS, Sampling(name, 25), gamma=exact_gamma())
    assert len(calls) == 25
    last = 800 if name == "ddim_quadratic" else PROCESS.diffusion_steps - 1
    assert calls[0] == last
    assert calls == sorted(calls, reverse=True)


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_steps_is_that_many(name: str) -> None:
    """From high noise to low, none twice; 61 and 61 others are where diffusers has one too many."""
    many = range(1, 1001) if name == "ddim" else (333, 600, 1000)
    impossible = {"ddim_published": 1000, "ddpm_published": 1}.get(name)
    for steps in (1, 2, 61, 103, *(() if name == "ddim_quadratic" else many)):
        if steps == impossible:
            with pytest.raises(ValueError, match=f"steps={steps}: .* evaluates the network"):
                make_scheduler(PROCESS, Sampling(name, steps), None)
            continue
        scheduler = make_scheduler(PROCESS, Sampling(name, steps), exact_gamma())
        chosen = scheduler.timesteps.tolist()
        assert len(chosen) == steps, (steps, chosen)
        assert 0 <= chosen[-1] <= chosen[0] < PROCESS.diffusion_steps
        assert all(a > b for a, b in pairwise(chosen)), (steps, chosen)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm_solver++", "unipc", "euler"])
def test_a_number_of_steps_that_does_not_divide_the_diffusion_steps(name: str) -> None:
    """61 steps come as near to the Gaussian as 60 do, and 300 of DDIM nearer."""
    tolerance = 0.01 if name == "ddpm" else 0.004
    assert draw(name, 61).std().item() == pytest.approx(draw(name, 60).std().item(), abs=tolerance)
    if name == "ddim":
        for steps in (300, 350, 501, 700):
            assert draw(name, steps, count=300).std().item() == pytest.approx(STD, abs=0.006)


def test_ddim_is_diffusers_where_the_steps_divide() -> None:
    """And to the bit: eta 0.7, ten steps, noise of the same generators."""
    theirs = DDIMScheduler(
        **PROCESS.scheduler_options(), clip_sample=True, timestep_spacing="trailing"
    )
    theirs.set_timesteps(10)
    streams = ImageStreams([5])
    x = streams.randn(1, 4, 4)
    for t in theirs.timesteps:
        eps = exact_denoise(x, t.expand(1))
        x = theirs.step(eps, t, x, eta=0.7, generator=streams.generators).prev_sample
    drawn = sample(exact_denoise, SHAPE, [5], PROCESS, Sampling("ddim", 10, 0.7))
    torch.testing.assert_close(drawn, x, rtol=0, atol=1e-5)


def test_sde_dpm_solver_begins_as_ddim_with_all_its_noise() -> None:
    """Its step of order 1, which every multistep chain begins with, is DDIM's with eta 1
    (arXiv 2211.01095, section 6)."""
    first: dict[str, Tensor] = {}
    for name, eta in [("sde_dpm_solver++", 0.0), ("ddim_unclipped", 1.0)]:
        states: list[Tensor] = []
        sampling = Sampling(name, 20, eta)
        sample(
            exact_denoise,
            SHAPE,
            range(8),
            PROCESS,
            sampling,
            on_step=lambda done, x, image, states=states: states.append(x),
        )
        first[name] = states[0]
    ours, ddim = first.values()
    torch.testing.assert_close(ours, ddim, atol=2e-6, rtol=1e-5)


def test_sde_dpm_solver_keeps_the_deviation_that_ddim_loses() -> None:
    """Order 2 with 50 steps; DDIM with all its noise draws images that are too even there."""
    lost = {
        name: STD - draw(name, 50, eta).std().item()
        for name, eta in [("sde_dpm_solver++", 0.0), ("ddim", 1.0)]
    }
    assert abs(lost["sde_dpm_solver++"]) < lost["ddim"] / 10


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
        (dict(sampler="ddpm", eta=0.5), "takes no eta.*or choose ddim"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_more_steps_than_the_training_had() -> None:
    with pytest.raises(ValueError, match="1001"):
        sample(exact_denoise, SHAPE, [0], PROCESS, Sampling("ddim", 1001))


def test_no_image_of_a_seed_is_one_of_the_next() -> None:
    last = image_seeds(0, SEEDS_PER_RUN - 2, SEEDS_PER_RUN)
    assert last[-1] < image_seeds(1, 0, 1)[0]
    with pytest.raises(ValueError, match=r"image 1,000,001 of seed 0: one seed has 1,000,000"):
        image_seeds(0, SEEDS_PER_RUN, SEEDS_PER_RUN + 1)
