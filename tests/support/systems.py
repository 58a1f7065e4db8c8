"""Small systems, built from the registry or by hand, for tests that train and sample."""

from __future__ import annotations

import torch

from bench.registry import SYSTEMS, SystemEntry, load_module
from sddpm import system as sddpm_system
from sddpm.denoising import Denoiser
from sddpm.pretrained import SDDPM
from sddpm.protocol import ImageShape, Shape, System


def config_of(name: str, preset: str = "smoke"):
    module = load_module(name)
    return module.Config(**module.PRESETS[preset])


def make(name: str, shape: Shape, seed: int = 0) -> System:
    """The system at its smoke preset, built from an untrained parent where it has one."""
    entry = SYSTEMS[name]
    parent = make(entry.parent, shape, seed) if entry.parent else None
    torch.manual_seed(seed)
    return load_module(name).build(config_of(name), shape, parent)


def options(entry: SystemEntry, **more: str) -> dict | None:
    return {"sampler": "ddim", "steps": 3, "eta": 1.0, **more} if entry.samplers else None


TINY = sddpm_system.Config(
    time_steps=2, channels=4, multipliers=(1,), blocks=1, learning_rate=1e-2, warmup_steps=2,
    ema_decay=0.9,
)  # fmt: skip


def tiny_system() -> Denoiser:
    torch.manual_seed(0)
    return sddpm_system.build(TINY, ImageShape(1, 8))


WIDTHS = dict(time_steps=2, channels=4, multipliers=(1, 2), blocks=1)


def model(module=sddpm_system, name: str = "sddpm") -> SDDPM:
    """An untrained network as ``from_pretrained`` opens one."""
    torch.manual_seed(0)
    config = module.Config(**WIDTHS)
    denoiser = module.build(config, ImageShape(1, 8))
    torch.nn.init.normal_(denoiser.net.head.conv.weight)
    facts = {"system": name, "config": dict(vars(config)), "shape": {"channels": 1, "size": 8}}
    return SDDPM(denoiser, facts)
