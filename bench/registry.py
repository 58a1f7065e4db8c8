"""Every system, one entry each: the only Python file of the harness that names one.

Modules are strings and are imported when a system is built, so reading this list imports no
torch. To add a system, write its file and add its entry here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

TimeAxis = Literal["none", "trained", "free"]
DataKind = Literal["images", "points"]
Ability = Literal["convert", "methods", "clips", "twin", "foreign", "import"]


@dataclass(frozen=True)
class SystemEntry:
    """Facts about a system that the harness needs before it imports the system."""

    module: str
    """Module with ``Config``, ``PRESETS`` and ``build``, as ``package.module``."""
    title: str
    """Name in the table."""
    paper: str
    """Publication of the method."""
    time_axis: TimeAxis = "none"
    """``none``: no spiking time, one cell; ``trained``: one training per number of time steps;
    ``free``: one checkpoint serves every number of time steps."""
    parent: str | None = None
    """The system whose checkpoint this one is built from."""
    data: DataKind = "images"
    """Kind of data that it makes: images, or points of a manifold."""
    samplers: bool = False
    """Whether it denoises, so that a sampler and its steps apply."""
    guidable: bool = False
    """Whether its firing thresholds may move while it samples."""
    hooks: Mapping[Ability, str] = field(default_factory=dict)
    """Special abilities: name -> ``module`` or ``module:name``; :func:`load_hook` describes
    each."""


SYSTEMS: dict[str, SystemEntry] = {
    "sddpm": SystemEntry(
        "sddpm.system",
        "SDDPM",
        "Cao et al. 2024, arXiv 2306.17046",
        "trained",
        samplers=True,
        guidable=True,
        hooks={"import": "sddpm.pretrained:import_published"},
    ),
    "sddpm_tsm": SystemEntry(
        "sddpm.tsm",
        "SDDPM (TSM)",
        "Cao et al. 2024, arXiv 2408.16467",
        "trained",
        parent="sddpm",
        samplers=True,
        guidable=True,
    ),
    "sddpm_plus": SystemEntry(
        "sddpm.plus",
        "SDDPM+",
        "none: SDDPM's U-Net with integer neurons and real shortcuts",
        "trained",
        samplers=True,
        guidable=True,
    ),
    "sddpm_plus_taught": SystemEntry(
        "sddpm.taught",
        "SDDPM+ (taught)",
        "none: SDDPM+ from the weights and the predictions of its ANN twin",
        "trained",
        parent="ann_twin",
        samplers=True,
        guidable=True,
    ),
    "ann_twin": SystemEntry(
        "baselines.ann_twin", "ANN twin (ReLU)", "the U-Net of arXiv 2306.17046", samplers=True
    ),
    "converted": SystemEntry(
        "conversion.convert",
        "converted twin",
        "rate coding, Rueckauer et al. 2017; arXiv 2305.19868, 2408.16467, 2409.03368",
        "free",
        parent="ann_twin",
        samplers=True,
        guidable=True,
        hooks={"convert": "conversion.command", "methods": "conversion.methods:METHODS"},
    ),
    "quantised_twin": SystemEntry(
        "conversion.quantised",
        "quantised twin",
        "Hu et al. 2023, arXiv 2305.19868; arXiv 2408.16467",
        parent="ann_twin",
        samplers=True,
    ),
    "qcfs_twin": SystemEntry(
        "conversion.qcfs",
        "clip-floor-shift twin",
        "Bu et al. 2022, arXiv 2303.04347",
        parent="ann_twin",
        samplers=True,
        hooks={"clips": "conversion.qcfs"},
    ),
    "ddpm": SystemEntry(
        "baselines.ann_ddpm",
        "DDPM",
        "Ho et al. 2020, arXiv 2006.11239",
        samplers=True,
        hooks={"foreign": "baselines.ann_ddpm:from_diffusers"},
    ),
    "distilled_twin": SystemEntry(
        "conversion.distilled",
        "distilled twin",
        "none: the ReLU twin on another network's predictions",
        parent="ddpm",
        samplers=True,
        hooks={"twin": "conversion.distilled"},
    ),
    "fsvae": SystemEntry(
        "baselines.vaes.fsvae", "FSVAE", "Kamata et al. 2022, arXiv 2110.00375", "trained"
    ),
    "esvae": SystemEntry(
        "baselines.vaes.esvae", "ESVAE", "Zhan et al. 2023, arXiv 2310.14839", "trained"
    ),
    "vae": SystemEntry("baselines.vaes.vae", "VAE", "Kingma and Welling 2014, arXiv 1312.6114"),
    "sgan": SystemEntry(
        "baselines.gans.sgan", "SGAN", "Feng et al. 2023, arXiv 2305.10246", "trained"
    ),
    "swgan": SystemEntry(
        "baselines.gans.swgan", "SWGAN", "Feng et al. 2023, arXiv 2305.10246", "trained"
    ),
    "sgad": SystemEntry(
        "baselines.gans.sgad", "SGAD", "Feng et al. 2023, arXiv 2305.10246", "trained"
    ),
    "hybrid_gan": SystemEntry(
        "baselines.gans.hybrid_gan",
        "Hybrid GAN",
        "Rosenfeld et al. 2022, arXiv 2111.01750",
        "trained",
    ),
    "fsddim": SystemEntry(
        "baselines.fsddim.system",
        "FSDDIM",
        "Watanabe et al. 2023, arXiv 2312.01742",
        "trained",
        samplers=True,
    ),
    "sdit": SystemEntry(
        "baselines.sdit.system",
        "SDiT",
        "Yang et al. 2024, arXiv 2402.11588",
        "trained",
        samplers=True,
    ),
    "spiking_diffusion": SystemEntry(
        "baselines.spiking_diffusion.system",
        "Spiking-Diffusion",
        "Liu et al. 2023, arXiv 2308.10187",
        "trained",
    ),
    "pixel_gaussian": SystemEntry(
        "baselines.pixel_gaussian", "pixel Gaussian", "none: the floor that every model must beat"
    ),
    "rddpm": SystemEntry(
        "baselines.rddpm.mlp",
        "Riemannian DDPM",
        "Liu et al. 2025, arXiv 2505.04338",
        data="points",
    ),
    "rddpm_spiking": SystemEntry(
        "baselines.rddpm.spiking",
        "spiking Riemannian DDPM",
        "none: arXiv 2505.04338 with a spiking perceptron",
        "trained",
        data="points",
    ),
    "rddpm_converted": SystemEntry(
        "conversion.points",
        "converted Riemannian DDPM",
        "none: arXiv 2505.04338 with a rate-coded perceptron",
        "free",
        parent="rddpm",
        data="points",
    ),
}


def choose(kind: str, name: str, legal: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``legal``.

    Raises:
        ValueError: it is not; the message names near matches and every legal name.
    """
    names = list(legal)
    if name in names:
        return name
    near = get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"unknown {kind} {name!r}: {hint}choose from {', '.join(names)}")


def find(name: str) -> SystemEntry:
    """The entry of the system ``name``; ValueError with near matches if there is none."""
    return SYSTEMS[choose("system", name, SYSTEMS)]


def load_module(name: str) -> ModuleType:
    """Import the module of the system ``name``."""
    return import_module(find(name).module)


def load_hook(ability: Ability) -> tuple[str, Any]:
    """The system with a special ability, and the module or function behind it.

    - ``convert``: module that makes it from a trained parent: ``prepare``, ``needs_clips`` and
      ``prediction_error``.
    - ``methods``: the ways of doing so, name -> :class:`conversion.methods.Method`; no torch.
    - ``clips``: module of the system that ``convert`` trains to learn the clips of a ReLU parent.
    - ``twin``: module of the system that ``convert`` trains in place of a network that cannot be
      converted.
    - ``foreign``: function that reads it from a folder in another project's format:
      folder -> system.
    - ``import``: function that turns the authors' checkpoint file into a folder:
      (file, folder, options) -> number of parameters.
    """
    name, target = next(
        (name, entry.hooks[ability]) for name, entry in SYSTEMS.items() if ability in entry.hooks
    )
    module, _, attribute = target.partition(":")
    found = import_module(module)
    return name, getattr(found, attribute) if attribute else found
