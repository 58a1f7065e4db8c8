"""DDPM: the published ANN network (GroupNorm, SiLU), diffusers' UNet2DModel.

Paper: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv 2006.11239.
The network is diffusers' (Apache-2.0). By default it is the one of the SDDPM authors' ANN rows,
which is w86763777/pytorch-ddpm's (no licence; nothing is copied) at SDDPM's widths, with
attention in the middle block alone. For colour images of 32 pixels it learns 67,474,691 numbers;
with the fixed time-embedding table of 128,000, which that code counts as well and diffusers
computes, these are 67,602,691: 67.60 x 10^6, or divided by 2^20 the 64.47 M of the tables in
arXiv 2306.17046 and 2408.16467. Without attention it is 66,423,043 learned numbers: 66.42 x 10^6,
or 63.35 x 2^20. With ``attention`` and multipliers (1, 2, 2, 2) it is google/ddpm-cifar10-32,
whose folder loads into it.

Different from the authors' network, as in google/ddpm-cifar10-32: a halving convolution is padded
at the right and at the bottom, not on all sides; GroupNorm's epsilon is 1e-6, not 1e-5; the
frequencies of the time embedding end at 1/10,000, not just above it, and sines and cosines are
not interleaved.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError
from torch import Tensor, nn

from sddpm.configuration import before
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig, NoiseNetwork, NoiseOutput, Prediction
from sddpm.layers import declare
from sddpm.protocol import ImageShape, System
from sddpm.widths import SIZES, UNetWidths, check_widths, over


@dataclass(frozen=True)
class Config(UNetWidths, DenoiserTraining):
    """DDPM. The defaults are the network and the training of the published code for the ANN rows
    with averaged weights of arXiv 2408.16467; its rows without are ``ema_decay=0``."""

    ema_decay: float = 0.9999
    """Decay a step of the averaged weights that sample; 0 samples with the last weights."""
    attention: bool = False
    """Self-attention at half the image's size, and in the middle."""
    middle_attention: bool = field(default=True, metadata=before(False))
    """Self-attention in the middle block, independent of ``attention``."""
    initialisation: Literal["published", "torch"] = field(
        default="published", metadata=before("torch")
    )
    """Initial weights. ``published``: Xavier weights and biases of 0, with a gain of 1e-5 in the
    last convolution of every residual block, of every attention and of the network, so that the
    residual branches start close to zero. ``torch``: torch's default for every layer."""
    groups: int = 32
    """Groups of GroupNorm; divides every width."""
    dropout: float = 0.1
    """Share of features dropped in training."""


PROCESSES = (
    "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler",
    "PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
)  # fmt: skip
"""diffusers' schedulers that sample DDPM's process; which of them does not matter to a network.
Others are of another one: EDM, flow matching, score SDEs, consistency models."""
SCHEDULE: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("linear",),
    "prediction_type": ("epsilon", "v_prediction"),
    "trained_betas": (None,),
    "rescale_betas_zero_snr": (False, None),
    "use_flow_sigmas": (False, None),
    "thresholding": (False, None),
    "clip_sample_range": (1.0, None),
}
"""Legal values by field of a diffusers scheduler."""


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
    if config.initialisation not in ("published", "torch"):
        raise ValueError(
            f"initialisation={config.initialisation!r}: expected 'published' or 'torch'"
        )
    attention_level = 1 if config.attention and len(widths) > 1 else None
    kinds = [
        "AttnDownBlock2D" if level == attention_level else "DownBlock2D"
        for level in range(len(widths))
    ]
    unet = UNet2DModel(
        sample_size=shape.size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        block_out_channels=widths,
        layers_per_block=config.blocks,
        down_block_types=tuple(kinds),
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        add_attention=config.attention or config.middle_attention,
        # Read without attention as well: one head as wide as the deepest layer.
        attention_head_dim=None if config.attention else widths[-1],
        norm_num_groups=config.groups,
        dropout=config.dropout,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )
    if config.initialisation == "published":
        _initialise(unet)
    diffusion = DiffusionConfig(config.diffusion_steps)
    net = NoiseNet(unet, NoiseOutput(config.prediction, diffusion))
    return Denoiser(net, shape, config, diffusion)


def _initialise(unet: UNet2DModel) -> None:
    """The published initial weights; see :class:`Config`."""
    last = (".conv2", ".to_out.0", "conv_out")
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=1e-5 if name.endswith(last) else 1.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def from_diffusers(folder: str | Path) -> Denoiser:
    """Load a diffusers DDPM folder, such as a download of google/ddpm-cifar10-32.

    Args:
        folder: holds ``config.json`` and weights, or has them in ``unet/``, or averaged ones in
            ``unet_ema/``, which are preferred.

    Raises:
        FileNotFoundError: no diffusers U-Net is there.
        ValueError: it is not an unconditional noise network for square images, or its scheduler
            is of another process than DDPM's with betas that rise linearly.
    """
    folder = Path(folder)
    # Averaged weights, where a training left both.
    homes = (folder / "unet_ema", folder / "unet")
    home = next((home for home in homes if (home / "config.json").is_file()), folder)
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
        unet = UNet2DModel.from_pretrained(home, local_files_only=True, low_cpu_mem_usage=False)
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
    if settings.get("time_embedding_type", "positional") != "positional":
        raise ValueError(
            f"{home}: time_embedding_type={settings.time_embedding_type!r}, expected 'positional': "
            "it reads noise levels, not diffusion steps"
        )
    shape = ImageShape(settings.in_channels, settings.sample_size)
    diffusion, prediction = _noise_schedule(folder)
    # The loaded weights sample as they are: they are already averaged ones.
    training = Config(
        ema_decay=0.0, diffusion_steps=diffusion.diffusion_steps, prediction=prediction
    )
    net = NoiseNet(unet, NoiseOutput(training.prediction, diffusion))
    return Denoiser(net, shape, training, diffusion)


def _noise_schedule(folder: Path) -> tuple[DiffusionConfig, Prediction]:
    """Settings of the folder's scheduler, with diffusers' defaults for those that it lacks."""
    for path in (folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json"):
        if path.is_file():
            try:
                return _read_schedule(json.loads(path.read_text()))
            except (TypeError, AttributeError, json.JSONDecodeError) as error:
                raise ValueError(f"{path}: not a JSON configuration ({error})") from error
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
    return DiffusionConfig(), "epsilon"


def _read_schedule(said: dict[str, Any]) -> tuple[DiffusionConfig, Prediction]:
    name = said.get("_class_name", "DDPMScheduler")
    if name not in PROCESSES:
        raise ValueError(
            f"class {name!r} is of another process than DDPM's; expected one of "
            f"{', '.join(PROCESSES)}"
        )
    assumed = inspect.signature(getattr(diffusers, name)).parameters
    whole = {field: p.default for field, p in assumed.items()} | said
    for field_name, legal in SCHEDULE.items():
        found = whole.get(field_name, legal[0])
        if found not in legal:
            expected = " or ".join(repr(value) for value in legal if value is not None)
            raise ValueError(f"{field_name}={found!r}, expected {expected or 'none'}")
    steps, start, end = (whole[key] for key in ("num_train_timesteps", "beta_start", "beta_end"))
    if type(steps) is not int or not all(isinstance(x, int | float) for x in (start, end)):
        raise TypeError(f"num_train_timesteps={steps!r}, betas from {start!r} to {end!r}")
    config = DiffusionConfig(steps, start, end, clip=bool(whole.get("clip_sample", True)))
    return config, whole["prediction_type"]


_MEASURED: dict[str, Any] = dict(middle_attention=False, initialisation="torch")
"""Settings with which the presets with committed results were measured."""

PRESETS = over(
    SIZES,
    smoke=dict(groups=8, dropout=0.0, learning_rate=1e-3, warmup_steps=20, ema_decay=0.0,
               **_MEASURED),
    small=dict(groups=8, dropout=0.0, learning_rate=1e-3, warmup_steps=200, decay="linear",
               ema_decay=0.995, **_MEASURED),
    medium=dict(learning_rate=4e-4, warmup_steps=1000, decay="linear", ema_decay=0.999),
)  # fmt: skip
