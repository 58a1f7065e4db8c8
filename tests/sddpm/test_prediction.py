"""What a network predicts, noise or v, against diffusers and the definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from baselines import ann_twin
from conversion import convert
from sddpm import system
from sddpm.diffusion import Diffusion, DiffusionConfig, NoiseOutput, noise_loss
from sddpm.engine.network import OptimizedUNet, optimize
from sddpm.protocol import ImageShape
from sddpm.training import TrainConfig, fit
from sddpm.unet import UNet, UNetConfig
from tests.support.images import GeneratedImages

PREDICTIONS = ("epsilon", "v_prediction")
WIDTHS = dict(channels=8, multipliers=(1, 2), blocks=1)
SHAPE = ImageShape(1, 8)


def drawn(batch: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 1, 8, 8, generator=rng) * 2 - 1
    t = torch.tensor([0, 1, 250, 500, 998, 999])[:batch]
    return images, torch.randn(images.shape, generator=rng), t


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_right_output_is_the_noise(prediction: str) -> None:
    output, diffusion = NoiseOutput(prediction, DiffusionConfig()), Diffusion(DiffusionConfig())
    images, noise, t = drawn()
    noisy = diffusion.add_noise(images, noise, t)
    torch.testing.assert_close(output(output.target(images, noise, t), noisy, t), noise)


def test_v_is_diffusers_velocity() -> None:
    images, noise, t = drawn()
    scheduler = DDPMScheduler(**DiffusionConfig().scheduler_options())
    expected = scheduler.get_velocity(images, noise, t)
    found = NoiseOutput("v_prediction", DiffusionConfig()).target(images, noise, t)
    torch.testing.assert_close(found, expected)


def test_a_step_equals_diffusers_own_v_prediction() -> None:
    """Our noise in an epsilon scheduler, and the raw output in a scheduler that knows v."""
    output = NoiseOutput("v_prediction", DiffusionConfig())
    options = DiffusionConfig().scheduler_options()
    ours = DDIMScheduler(**options, clip_sample=False)
    theirs = DDIMScheduler(**{**options, "prediction_type": "v_prediction"}, clip_sample=False)
    x, raw, _ = drawn()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)
    for t in ours.timesteps[::6]:
        eps = output(raw, x, t.expand(len(x)))
        # Where hardly any image is left, its reconstruction divides by sqrt(abar) = 0.01.
        torch.testing.assert_close(
            ours.step(eps, t, x).prev_sample,
            theirs.step(raw, t, x).prev_sample,
            rtol=1e-4,
            atol=1e-4,
        )


class Fixed(nn.Module):
    """A network that is nothing but its last layer."""


def test_the_loss_is_the_raw_outputs_squared_error() -> None:
    images, noise, t = drawn()
    net = UNet(UNetConfig(1, channels=8, multipliers=(1, 2), blocks=1, prediction="v_prediction"))
    noisy = Diffusion(DiffusionConfig()).add_noise(images, noise, t)
    raw = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    expected = (raw - net.output.target(images, noise, t)).square().mean()
    torch.testing.assert_close(
        noise_loss(net, net.output(raw, noisy, t), noise, t), expected, rtol=1e-3, atol=1e-4
    )
    plain = UNet(UNetConfig(1, channels=8, multipliers=(1, 2), blocks=1))
    for other in (plain, Fixed()):
        torch.testing.assert_close(noise_loss(other, raw, noise, t), (raw - noise).square().mean())


def test_an_untrained_v_network_draws_images_near_zero() -> None:
    """With the raw output at 0 the noise is sqrt(1 - abar) x: the image that is read off is
    sqrt(abar) x, nothing at the highest step."""
    output = NoiseOutput("v_prediction", DiffusionConfig())
    x = torch.randn(4, 1, 8, 8)
    t = torch.full((4,), 999)
    abar = Diffusion(DiffusionConfig()).alphas_cumprod[999]
    eps = output(torch.zeros_like(x), x, t)
    image = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
    torch.testing.assert_close(image, abar.sqrt() * x, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_engine_knows_v(mode: str) -> None:
    torch.manual_seed(0)
    net = UNet(
        UNetConfig(
            1, "relu", 1, channels=16, multipliers=(1, 2), blocks=1, prediction="v_prediction"
        )
    ).eval()
    nn.init.xavier_uniform_(net.head.conv.weight)
    x, _, t = drawn()
    prepared = optimize(net, mode)
    assert isinstance(prepared, OptimizedUNet)
    with torch.no_grad():
        expected = net(x, t)
    error = (prepared(x, t) - expected).norm() / expected.norm()
    assert error < {"exact": 1e-5, "fast": 2e-2}[mode]


@pytest.mark.parametrize("name", ["sddpm", "ann_twin"])
def test_training_on_v_lowers_its_loss(name: str, tmp_path: Path) -> None:
    """Memorising one image, the whole chain from the loss to the optimiser is at work."""
    module = {"sddpm": system, "ann_twin": ann_twin}[name]
    config = module.Config(
        **WIDTHS, prediction="v_prediction", learning_rate=5e-3, warmup_steps=5, ema_decay=0.0
    )
    torch.manual_seed(0)
    denoiser = module.build(config, SHAPE)
    images = GeneratedImages(1, 1, 8)
    picture = images.__getitems__([0]).float() / 127.5 - 1
    rng = torch.Generator().manual_seed(3)
    noise, t = torch.randn(32, 1, 8, 8, generator=rng), torch.randint(1000, (32,), generator=rng)
    noisy = denoiser.diffusion.add_noise(picture.expand(32, -1, -1, -1), noise, t)

    def loss() -> float:
        with torch.no_grad():
            return float(noise_loss(denoiser.net, denoiser.net(noisy, t), noise, t))

    before = loss()
    run = TrainConfig(steps=60, batch_size=16)
    fit(denoiser, images, config=run, folder=tmp_path, description={}, progress=False)
    assert loss() < 0.5 * before


def test_a_conversion_keeps_its_parents_prediction() -> None:
    twin = ann_twin.build(
        ann_twin.Config(**WIDTHS, ema_decay=0.0, prediction="v_prediction"), SHAPE
    )
    assert convert.config_of(twin).prediction == "v_prediction"
    with pytest.raises(ValueError, match="prediction=epsilon: the parent has v_prediction"):
        convert.build(convert.Config(**WIDTHS), SHAPE, twin)


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction='sample': expected 'epsilon' or"):
        NoiseOutput("sample", DiffusionConfig())  # type: ignore[arg-type]


@pytest.mark.parametrize("linear", [False, True])
def test_a_linear_head_starts_as_a_linear_map(linear: bool) -> None:
    """Published, the temporal head's Swish bends the output from the first step on."""
    torch.manual_seed(0)
    head = UNet(UNetConfig(1, channels=8, multipliers=(1, 2), blocks=1, linear_head=linear)).head
    h = 100 * head.conv(torch.randn(64, 8, 4, 4))
    out = h + nn.functional.silu(head.temporal_bn(head.temporal_conv(h)))
    assert torch.equal(out, h) == linear
    head(torch.randn(64, 8, 4, 4)).sum().backward()
    assert head.temporal_bn.weight.grad.count_nonzero()  # it learns from there
