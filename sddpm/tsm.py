"""SDDPM with TSM: stage 2 of training, from a trained SDDPM.

Paper: Cao et al., "Spiking Diffusion Models", IEEE TAI 2024, arXiv 2408.16467; code
AndyCao1125/SDM (no licence; nothing is copied). A learned p[s] for each spiking step scales the
current of every convolution. It starts at 1, so the network starts equal to its parent. Weights
and p are then fine-tuned for less than a tenth of the parent's steps. Differences:

- the products of the first convolution run once for all steps, since only the scale differs;
- the last layer's small initial gain has no effect, since trained weights replace it;
- p may take larger steps than the weights (``p_rate``), without which p stays at 1 in a short
  fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sddpm import system
from sddpm.denoising import Denoiser
from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape, System
from sddpm.temporal import TemporalConv2d
from sddpm.unet import UNet


@dataclass(frozen=True)
class Config(system.Config):
    """SDDPM with TSM: the parent's fields, and stage 2's optimisation. The parent's weights take
    the place of the initial ones."""

    learning_rate: float = 1e-5
    """Adam's step size after the warm-up; the papers do not state stage 2's."""
    p_rate: float = 1.0
    """Step size of ``p`` over that of the weights. Adam moves a number by at most its step size
    a step, so one that suits weights hardly moves ``p`` away from 1 in a short run."""


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Denoiser:
    """SDDPM with TSM, from the weights that the trained SDDPM ``parent`` samples with.

    Without a parent the weights are fresh, to be loaded from a checkpoint.

    Raises:
        ValueError: the parent is another network than the configuration says, or ``p_rate`` is 0.
    """
    unet = system.spiking_unet(config, shape, temporal_scaling=True)
    if not config.p_rate > 0:
        raise ValueError(f"p_rate={config.p_rate}: expected a number above 0")
    net = UNet(unet)
    if parent is not None:
        load_parent(net, parent.generator)
    denoiser = Denoiser(net, shape, config, DiffusionConfig(config.diffusion_steps))
    denoiser.optimizers["net"] = torch.optim.Adam(groups(net, config.p_rate), config.learning_rate)
    return denoiser


def groups(net: nn.Module, p_rate: float) -> list[dict[str, Any]]:
    """The parameters as an optimiser takes them: the weights, and every ``p``, which moves
    ``p_rate`` times as fast."""
    scaling = {id(p) for name, p in net.named_parameters() if name.split(".")[-1] == "p"}
    weights = [p for p in net.parameters() if id(p) not in scaling]
    scales = [p for p in net.parameters() if id(p) in scaling]
    return [{"params": weights}, {"params": scales, "lr_factor": p_rate}]


def load_parent(net: UNet, parent: nn.Module) -> None:
    """Load the weights of stage 1 strictly; every p stays 1.

    Raises:
        ValueError: the parent has other layers, other neurons or another output.
    """
    for field in ("activation", "prediction", "attention_heads"):  # which no shape shows
        chosen, found = getattr(net.config, field), getattr(parent.config, field, None)
        if chosen != found:
            raise ValueError(f"{field}={chosen}: the parent has {found}, and TSM keeps it")
    own, theirs = net.state_dict(), parent.state_dict()
    scales = {name for name in own if name.split(".")[-1] == "p"}
    expected = {name: tuple(own[name].shape) for name in own.keys() - scales}
    found = {name: tuple(value.shape) for name, value in theirs.items()}
    if expected != found:
        odd = sorted(expected.items() ^ found.items())[0][0]
        raise ValueError(f"the parent is another network: {odd} differs")
    net.load_state_dict({**theirs, **{name: own[name] for name in scales}}, strict=True)


def scales(net: nn.Module) -> dict[str, Tensor]:
    """``p`` of every convolution, ``[time_steps]``, by the convolution's name."""
    return {
        name: module.p.detach().cpu()
        for name, module in net.named_modules()
        if isinstance(module, TemporalConv2d)
    }


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {**system.PRESETS["smoke"], "learning_rate": 2e-4},
    "small": {**system.PRESETS["small"], "learning_rate": 2e-4, "p_rate": 100.0, "ema_decay": 0.98},
    "medium": {**system.PRESETS["medium"], "learning_rate": 4e-5, "p_rate": 10.0},
    "paper": {},
}
