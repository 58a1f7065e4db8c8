"""Every system, one entry each: the only Python file of the harness that names one.

Modules are strings and are imported when a system is built, so reading this list imports no
torch. To add a system, write its file and add its entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

TimeAxis = Literal["none", "trained", "free"]


@dataclass(frozen=True)
class Entry:
    """What the harness must know about a system before it imports it."""

    module: str
    """Module with ``Config``, ``PRESETS`` and ``build``, as ``package.module``."""
    title: str
    """Name in the table."""
    paper: str
    """Where the method comes from."""
    time_axis: TimeAxis = "none"
    """``none``: no spiking time, one cell; ``trained``: one training per number of time steps;
    ``free``: one checkpoint serves every number of time steps."""
    parent: str | None = None
    """The system whose checkpoint this one is built from."""
    samplers: bool = False
    """Whether it denoises, so that a sampler and its steps apply."""
    guidable: bool = False
    """Whether its firing thresholds may move while it samples."""
    converter: str | None = None
    """Module that turns a trained parent into this system: ``prepare``, ``needs_clips`` and
    ``prediction_error``."""
    methods: str | None = None
    """Module with ``METHODS``, the ways in which ``converter`` works; it imports no torch."""
    prepares: Literal["clips", "twin"] | None = None
    """What ``convert`` trains it for before it converts: the ``clips`` of a ReLU parent, or a
    ``twin`` of a network that cannot be converted."""
    foreign: str | None = None
    """Function that reads this system from a folder in another project's format, as
    ``module:function``."""
    importer: str | None = None
    """Function that turns the authors' checkpoint file into a folder, as ``module:function``."""


SYSTEMS: dict[str, Entry] = {
    "sddpm": Entry(
        "sddpm.system",
        "SDDPM",
        "Cao et al. 2024, arXiv 2306.17046",
        "trained",
        samplers=True,
        guidable=True,
        importer="sddpm.pretrained:import_published",
    ),
    "sddpm_tsm": Entry(
        "sddpm.tsm",
        "SDDPM (TSM)",
        "Cao et al. 2024, arXiv 2408.16467",
        "trained",
        parent="sddpm",
        samplers=True,
        guidable=True,
    ),
    "sddpm_plus": Entry(
        "sddpm.plus",
        "SDDPM+",
        "none: SDDPM's U-Net with the ingredients that its ablation chose",
        "trained",
        samplers=True,
        guidable=True,
    ),
    "ann_twin": Entry(
        "baselines.ann_twin", "ANN twin (ReLU)", "the U-Net of arXiv 2306.17046", samplers=True
    ),
    "converted": Entry(
        "conversion.convert",
        "converted twin",
        "rate coding, Rueckauer et al. 2017; arXiv 2305.19868, 2408.16467, 2409.03368",
        "free",
        parent="ann_twin",
        samplers=True,
        guidable=True,
        converter="conversion.command",
        methods="conversion.methods",
    ),
    "quantised_twin": Entry(
        "conversion.quantised",
        "quantised twin",
        "Hu et al. 2023, arXiv 2305.19868; arXiv 2408.16467",
        parent="ann_twin",
        samplers=True,
    ),
    "qcfs_twin": Entry(
        "conversion.qcfs",
        "clip-floor-shift twin",
        "Bu et al. 2022, arXiv 2303.04347",
        parent="ann_twin",
        samplers=True,
        prepares="clips",
    ),
    "ddpm": Entry(
        "baselines.ann_ddpm",
        "DDPM",
        "Ho et al. 2020, arXiv 2006.11239",
        samplers=True,
        foreign="baselines.ann_ddpm:from_diffusers",
    ),
    "distilled_twin": Entry(
        "conversion.distilled",
        "distilled twin",
        "none: the ReLU twin on another network's predictions",
        parent="ddpm",
        samplers=True,
        prepares="twin",
    ),
    "fsvae": Entry(
        "baselines.vaes.fsvae", "FSVAE", "Kamata et al. 2022, arXiv 2110.00375", "trained"
    ),
    "vae": Entry("baselines.vaes.vae", "VAE", "Kingma and Welling 2014, arXiv 1312.6114"),
    "sgan": Entry("baselines.gans.sgan", "SGAN", "Feng et al. 2023, arXiv 2305.10246", "trained"),
    "swgan": Entry(
        "baselines.gans.swgan", "SWGAN", "Feng et al. 2023, arXiv 2305.10246", "trained"
    ),
    "sgad": Entry("baselines.gans.sgad", "SGAD", "Feng et al. 2023, arXiv 2305.10246", "trained"),
    "hybrid_gan": Entry(
        "baselines.gans.hybrid_gan",
        "Hybrid GAN",
        "Rosenfeld et al. 2022, arXiv 2111.01750",
        "trained",
    ),
    "fsddim": Entry(
        "baselines.fsddim.system",
        "FSDDIM",
        "Watanabe et al. 2023, arXiv 2312.01742",
        "trained",
        samplers=True,
    ),
    "spiking_diffusion": Entry(
        "baselines.spiking_diffusion.system",
        "Spiking-Diffusion",
        "Liu et al. 2023, arXiv 2308.10187",
        "trained",
    ),
    "pixel_gaussian": Entry(
        "baselines.pixel_gaussian", "pixel Gaussian", "none: the floor that every model must beat"
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


def find(name: str) -> Entry:
    """The entry of the system ``name``; ValueError with near matches if there is none."""
    return SYSTEMS[choose("system", name, SYSTEMS)]


def load_module(name: str) -> ModuleType:
    """Import the module of the system ``name``."""
    return import_module(find(name).module)


def load_converter() -> tuple[str, ModuleType]:
    """What ``sddpm-bench convert`` makes: the system's name, and the module behind it."""
    name, entry = next((name, e) for name, e in SYSTEMS.items() if e.converter)
    return name, import_module(str(entry.converter))


def load_methods() -> Mapping[str, Any]:
    """The methods of ``sddpm-bench convert``: name -> a :class:`conversion.methods.Method`."""
    module = next(entry.methods for entry in SYSTEMS.values() if entry.methods)
    methods: Mapping[str, Any] = import_module(module).METHODS
    return methods


def find_preparer(what: Literal["clips", "twin"]) -> str:
    """The system that ``convert`` trains for its clips, or as a twin, before it converts."""
    return next(name for name, entry in SYSTEMS.items() if entry.prepares == what)


def load_foreign() -> Callable[..., Any]:
    """What reads a network from another project's folder: folder -> system."""
    module, _, function = next(e.foreign for e in SYSTEMS.values() if e.foreign).partition(":")
    reader: Callable[..., Any] = getattr(import_module(module), function)
    return reader


def load_importer() -> Callable[..., int]:
    """The function behind ``sddpm-bench import``: (file, folder, options) -> parameters."""
    module, _, function = next(e.importer for e in SYSTEMS.values() if e.importer).partition(":")
    imported: Callable[..., int] = getattr(import_module(module), function)
    return imported
