"""The ANN rows: the twin shares SDDPM's weights by name, DDPM is the published network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from baselines import ann_ddpm, ann_twin
from bench.energy.meter import Meter
from bench.energy.prices import DEFAULT_TABLE, TABLES, published_mj
from sddpm import system as sddpm_system
from sddpm.checkpoint import count_parameters
from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape
from sddpm.samplers import Sampling, sample

SHAPE = ImageShape(3, 16)
WIDTHS = dict(channels=8, multipliers=(1, 2), blocks=1)


def test_twin_and_sddpm_load_each_other_strictly() -> None:
    twin = ann_twin.build(ann_twin.Config(**WIDTHS), SHAPE)
    spiking = sddpm_system.build(sddpm_system.Config(**WIDTHS), SHAPE)
    spiking.net.load_state_dict(twin.net.state_dict(), strict=True)
    twin.net.load_state_dict(spiking.net.state_dict(), strict=True)


def test_twin_at_the_paper_configuration_is_the_same_size() -> None:
    with torch.device("meta"):
        twin = ann_twin.build(ann_twin.Config(ema_decay=0.0), ImageShape(3, 32))
    assert count_parameters(twin.net) == 66_696_413


def test_ddpm_costs_what_the_authors_print() -> None:
    """29.2 mJ at 4.6 pJ a product (arXiv 2306.17046), for 6.35 G products."""
    with torch.device("meta"):
        system = ann_ddpm.build(ann_ddpm.Config(ema_decay=0.0), ImageShape(3, 32))
        x, t = torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)
    with torch.no_grad(), Meter(system.generator.eval()) as meter:
        system.generator(x, t)
    counts = meter.counts(images=1)
    assert counts.macs == pytest.approx(6.35e9, rel=1e-3)
    assert published_mj(counts, TABLES[DEFAULT_TABLE]) == pytest.approx(29.2, abs=0.05)


def test_ddpm_with_attention_has_the_parameters_of_the_ddpm_paper() -> None:
    """Ho et al. print 35.7 M for CIFAR-10."""
    config = ann_ddpm.Config(attention=True, multipliers=(1, 2, 2, 2), ema_decay=0.0)
    with torch.device("meta"):
        system = ann_ddpm.build(config, ImageShape(3, 32))
    assert count_parameters(system.net) == 35_746_307


# The configuration of google/ddpm-cifar10-32, narrowed.
GOOGLE = dict(
    sample_size=16, in_channels=3, out_channels=3, block_out_channels=(32, 64, 64, 64),
    layers_per_block=2, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=None,
)  # fmt: skip


@pytest.mark.parametrize("layout", ["flat", "pipeline", "bin"])
def test_a_diffusers_folder_loads_and_predicts_the_same_noise(layout: str, tmp_path: Path) -> None:
    unet = UNet2DModel(**GOOGLE).eval()
    home = tmp_path / "unet" if layout == "pipeline" else tmp_path
    unet.save_pretrained(home, safe_serialization=layout != "bin")
    scheduler_home = tmp_path / "scheduler" if layout == "pipeline" else tmp_path
    DDPMScheduler(num_train_timesteps=500).save_pretrained(scheduler_home)
    system = ann_ddpm.from_diffusers(tmp_path)
    system.eval()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 400])
    with torch.no_grad():
        torch.testing.assert_close(system.generator(x, t), unet(x, t).sample, rtol=0, atol=1e-5)
    assert system.diffusion.config.diffusion_steps == 500
    assert system.shape == SHAPE
    assert system.sample([0, 1], {"sampler": "ddim", "steps": 2}).shape == (2, 3, 16, 16)


def test_our_builder_makes_the_network_of_that_folder() -> None:
    config = ann_ddpm.Config(
        channels=32, multipliers=(1, 2, 2, 2), attention=True, dropout=0.0, ema_decay=0.0
    )
    ours = ann_ddpm.build(config, SHAPE).net.unet
    theirs = UNet2DModel(**GOOGLE)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([9])
    with torch.no_grad():
        predicted, expected = ours.eval()(x, t).sample, theirs.eval()(x, t).sample
        torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-5)


def test_a_diffusers_folder_says_its_noise_schedule(tmp_path: Path) -> None:
    UNet2DModel(**GOOGLE).save_pretrained(tmp_path)
    said = {"beta_start": 0.001, "beta_end": 0.03, "prediction_type": "v_prediction"}
    DDPMScheduler(num_train_timesteps=200, **said).save_pretrained(tmp_path)
    system = ann_ddpm.from_diffusers(tmp_path)
    assert system.diffusion.config == DiffusionConfig(200, 0.001, 0.03)
    assert system.net.output.prediction == "v_prediction"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule='squaredcos_cap_v2'"),
        ({"prediction_type": "sample"}, "prediction_type='sample'"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"num_train_timesteps": "many"}, "not a JSON configuration"),
        ({"beta_end": 2}, "betas"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=True"),
        ({"clip_sample_range": 2.0}, r"clip_sample_range=2\.0, expected 1\.0"),
        ({"thresholding": True}, "thresholding=True"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"_class_name": "EDMEulerScheduler"}, "'EDMEulerScheduler' is of another process"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "another process"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "another process"),
        ({"_class_name": "ScoreSdeVpScheduler"}, "another process"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "another process"),
        ({"_class_name": "LCMScheduler"}, "another process"),
        ([1], "not a JSON configuration"),
    ],
)
def test_other_noise_schedules_are_refused(said: object, words: str, tmp_path: Path) -> None:
    UNet2DModel(**GOOGLE).save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=rf"scheduler_config\.json.*{words}"):
        ann_ddpm.from_diffusers(tmp_path)


def test_a_scheduler_s_silence_is_what_diffusers_assumes(tmp_path: Path) -> None:
    """Heun's class assumes betas from 0.00085 to 0.012 and no clip, DDPM's 1e-4 to 0.02."""
    UNet2DModel(**GOOGLE).save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text('{"_class_name": "HeunDiscreteScheduler"}')
    assert ann_ddpm.from_diffusers(tmp_path).diffusion.config == DiffusionConfig(
        1000, 0.00085, 0.012, clip=False
    )


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "ddim_quadratic"])
def test_a_network_that_is_not_clipped_is_sampled_so(sampler: str, tmp_path: Path) -> None:
    """The only picture there is has values of 3: a clipped chain cannot reach it."""
    UNet2DModel(**GOOGLE).save_pretrained(tmp_path)
    DDPMScheduler(clip_sample=False).save_pretrained(tmp_path)
    process = ann_ddpm.from_diffusers(tmp_path).diffusion
    abar = process.alphas_cumprod

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = abar[t].view(-1, 1, 1, 1)
        return (x - a.sqrt() * 3) / (1 - a).sqrt()

    images = sample(denoise, SHAPE, [0], process.config, Sampling(sampler, 5))
    assert (images - 3).abs().max() < 1e-3


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    for name, value in (("unet", 0.0), ("unet_ema", 1.0)):
        unet = UNet2DModel(**GOOGLE)
        unet.conv_out.bias.data.fill_(value)
        unet.save_pretrained(tmp_path / name)
    bias = ann_ddpm.from_diffusers(tmp_path).net.unet.conv_out.bias
    assert bias.eq(1).all()


def test_noise_levels_in_place_of_steps_are_refused(tmp_path: Path) -> None:
    UNet2DModel(**GOOGLE, time_embedding_type="fourier").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="time_embedding_type='fourier'"):
        ann_ddpm.from_diffusers(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        "empty",
        "other class",
        "no weights",
        "conditional",
        "classes",
        "json",
    ],
)
def test_foreign_folders_are_named(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if damage == "other class":
        (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    elif damage == "no weights":
        UNet2DModel(**GOOGLE).save_config(folder)
    elif damage == "conditional":
        UNet2DModel(**{**GOOGLE, "out_channels": 6}).save_pretrained(folder)
    elif damage == "classes":
        UNet2DModel(**GOOGLE, num_class_embeds=10).save_pretrained(folder)
    elif damage == "json":
        (folder / "config.json").write_text("[1, 2")
    with pytest.raises((ValueError, FileNotFoundError), match="model"):
        ann_ddpm.from_diffusers(folder)


def test_widths_that_groups_do_not_divide() -> None:
    with pytest.raises(ValueError, match="groups=32"):
        ann_ddpm.build(ann_ddpm.Config(channels=48), SHAPE)
    with pytest.raises(ValueError, match="halved"):
        ann_ddpm.build(ann_ddpm.Config(channels=32), ImageShape(3, 12))
