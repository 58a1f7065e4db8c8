"""SDDPM, the directly trained spiking diffusion model, and the modules that all systems share."""

from typing import TYPE_CHECKING, Any

from sddpm.allocation import keep
from sddpm.threads import settle
from sddpm.version import __version__

if TYPE_CHECKING:
    from sddpm.engine.network import optimize
    from sddpm.pretrained import SDDPM, Model, load
    from sddpm.published import load_published
    from sddpm.unet import UNet, UNetConfig

__all__ = [
    "SDDPM", "Model", "UNet", "UNetConfig", "__version__", "load", "load_published", "optimize",
]  # fmt: skip

_HOMES = {
    "SDDPM": "pretrained",
    "Model": "pretrained",
    "load": "pretrained",
    "UNet": "unet",
    "UNetConfig": "unet",
    "load_published": "published",
    "optimize": "engine.network",
}


settle()  # torch reads it when it is loaded
keep()


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``sddpm-bench --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sddpm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sddpm.{_HOMES[name]}"), name)
