"""Riemannian DDPM: diffusion on a manifold, its score an ordinary perceptron.

Paper: Liu, Zhang, Schuette, Li, "Riemannian Denoising Diffusion Probabilistic Models",
arXiv 2505.04338; no public code was found. :mod:`sddpm.riemannian` has the method and says which
constants are this project's. The default network is the literature's: 5 hidden layers of 512 units
and SiLU, the time appended. The presets below ``paper`` have rectifiers, so that the network can be
converted to a spiking one, and sines and cosines of random directions beside the point.
"""

from __future__ import annotations

from dataclasses import dataclass

from sddpm.denoising import DenoiserTraining
from sddpm.protocol import PointShape, System
from sddpm.riemannian import TRAINED, RiemannianDiffusion, RiemannianWidths, network_of
from sddpm.widths import over


@dataclass(frozen=True)
class Config(RiemannianWidths, DenoiserTraining):
    """Riemannian DDPM."""

    activation: str = "silu"
    """silu or sin, as in the literature, or relu, which can be converted."""


def build(config: Config, shape: PointShape, parent: System | None = None) -> RiemannianDiffusion:
    """Riemannian DDPM for points of ``shape``; it has no parent."""
    if config.activation not in ("silu", "sin", "relu"):
        raise ValueError(f"activation={config.activation!r}: expected silu, sin or relu")
    net = network_of(config, shape, config.activation)
    return RiemannianDiffusion(net, shape, config, config)


RECTIFIED = dict(activation="relu")
PRESETS = over(TRAINED, smoke=RECTIFIED, small=RECTIFIED, medium=RECTIFIED)
