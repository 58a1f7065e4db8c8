"""DDPM: the published ANN network (GroupNorm, SiLU), diffusers' UNet2DModel.

Paper: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv 2006.11239.
The network is diffusers' (Apache-2.0), at SDDPM's widths and without attention by default, as
in the ANN rows that the SDDPM authors trained; with ``attention`` and ``blocks=2`` it is
google/ddpm-cifar10-32, whose folder loads into it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError
from torch import Tensor

from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig, NoiseNetwork, NoiseOutput, Prediction
from sddpm.layers import declare
from sddpm.protocol import ImageShape, System
from sddpm.widths import SIZES, UNetWidths, check_widths, over


@dataclass(frozen=True)
class Config(UNetWidths, DenoiserTraining):
    """DDPM. The defaults are SDDPM's widths and the published training."""

    ema_decay: float = 0.9999
    """Decay a step of the averaged weights that sample; 0 samples with the last weights."""
    attention: bool = False
    """Self-attention at half the image's size, and in the middle."""
    groups: int = 32
    """Groups of GroupNorm; divides every width."""
    dropout: float = 0.1
    """Share of features dropped in training."""


SCHEDULE: dict[str, tuple[str | None, ...]] = {
    "beta_schedule": ("linear",),
    "prediction_type": ("epsilon", "v_prediction"),
    "trained_betas": (None,),
}
"""Field of a diffusers scheduler -> what it may say, first what it says when it is not there."""


class NoiseNet(NoiseNetwork):
    """diffusers' U-Net as ``eps = net(x, t)``; everything in it reads real numbers."""

    def __init__(self, unet: UNet2DModel, output: NoiseOutput) -> None:
        super().__init__()
        self.unet = declare(unet, reads="real")
        self.output = output

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        # Convolutions are fastest on channels-last memory, and keep the order of what they read.
        ordered = x.contiguous(memory_format=torch.channels_last)
        return self.output(self.unet(ordered, t).sample, x, t)


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Denoiser:
    """DDPM for images of ``shape``; it has no parent."""
    check_widths(config, shape.size)
    widths = tuple(config.channels * multiplier for multiplier in config.multipliers)
    if any(width % config.groups for width in widths):
        raise ValueError(f"groups={config.groups} must divide every width of {widths}")
    attention_level = 1 if config.attention and len(widths) > 1 else None
    kinds = ["AttnDownBlock2D" if level == attention_level else "DownBlock2D"
             for level in range(len(widths))]  # fmt: skip
    unet = UNet2DModel(
        sample_size=shape.size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        block_out_channels=widths,
        layers_per_block=config.blocks,
        down_block_types=tuple(kinds),
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        add_attention=config.attention,
        # Without attention the argument is still read: one head as wide as the layer.
        attention_head_dim=None if config.attention else widths[-1],
        norm_num_groups=config.groups,
        dropout=config.dropout,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )
    diffusion = DiffusionConfig(config.diffusion_steps)
    net = NoiseNet(unet, NoiseOutput(config.prediction, diffusion))
    return Denoiser(net, shape, config, diffusion)


def from_diffusers(folder: str | Path) -> Denoiser:
    """Load a diffusers DDPM folder, such as a download of google/ddpm-cifar10-32.

    Args:
        folder: holds ``config.json`` and weights, or has them in ``unet/``.

    Raises:
        FileNotFoundError: no diffusers U-Net is there.
        ValueError: it is not an unconditional noise network for square images, or has a noise
            schedule whose betas do not rise linearly.
    """
    folder = Path(folder)
    home = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    if not (home / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json here or in unet/ (a DDPM folder?)")
    try:
        name = json.loads((home / "config.json").read_text()).get("_class_name")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{home / 'config.json'}: not a JSON configuration ({error})") from error
    if name != "UNet2DModel":
        raise ValueError(f"{home / 'config.json'}: class {name!r}, expected 'UNet2DModel'")
    try:
        # safetensors, or a .bin that diffusers reads with weights_only: no pickled code runs.
        unet = UNet2DModel.from_pretrained(home, local_files_only=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{home}: weights cannot be loaded ({str(error)[:120]})") from error
    settings = unet.config
    if not isinstance(settings.sample_size, int) or settings.in_channels != settings.out_channels:
        raise ValueError(
            f"{home}: sample_size={settings.sample_size}, in/out channels="
            f"{settings.in_channels}/{settings.out_channels}; expected a square noise network"
        )
    if settings.get("num_class_embeds") or settings.get("class_embed_type"):
        raise ValueError(f"{home}: takes classes; expected an unconditional network")
    shape = ImageShape(settings.in_channels, settings.sample_size)
    diffusion, prediction = _noise_schedule(folder)
    # The loaded weights sample as they are: they are already averaged ones.
    training = Config(
        ema_decay=0.0, diffusion_steps=diffusion.diffusion_steps, prediction=prediction
    )
    net = NoiseNet(unet, NoiseOutput(training.prediction, diffusion))
    return Denoiser(net, shape, training, diffusion)


def _noise_schedule(folder: Path) -> tuple[DiffusionConfig, Prediction]:
    """What the folder's scheduler says, and where it says nothing what diffusers assumes."""
    default = DiffusionConfig()
    for path in (folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json"):
        if not path.is_file():
            continue
        try:
            said = json.loads(path.read_text())
            steps = int(said.get("num_train_timesteps", default.diffusion_steps))
            start = float(said.get("beta_start", default.beta_start))
            end = float(said.get("beta_end", default.beta_end))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a JSON configuration ({error})") from error
        for field, legal in SCHEDULE.items():
            found = said.get(field, legal[0])
            if found not in legal:
                expected = " or ".join(repr(value) for value in legal)
                raise ValueError(f"{path}: {field}={found!r}, expected {expected}")
        if steps < 1 or not 0 < start <= end < 1:
            raise ValueError(
                f"{path}: num_train_timesteps={steps}, betas from {start} to {end}; expected at "
                "least one step, and betas between 0 and 1 that do not fall"
            )
        return DiffusionConfig(steps, start, end), said.get("prediction_type", "epsilon")
    return default, "epsilon"


PRESETS = over(
    SIZES,
    smoke=dict(groups=8, dropout=0.0, learning_rate=1e-3, warmup_steps=20, ema_decay=0.0),
    small=dict(groups=8, dropout=0.0, learning_rate=1e-3, warmup_steps=200, decay="linear",
               ema_decay=0.995),
    medium=dict(learning_rate=4e-4, warmup_steps=1000, decay="linear", ema_decay=0.999),
)  # fmt: skip
