"""Riemannian DDPM with a spiking perceptron, trained directly with surrogate gradients.

Not from a paper: the diffusion of :mod:`baselines.rddpm.mlp` (arXiv 2505.04338), its score a
network of this project's neurons. The first layer reads the real point and its current is repeated
at every spiking step (direct encoding); BatchNorm stands before the neurons; the output is the
membrane of neurons that never fire. The steps' projections are the solver's, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

from sddpm.activations import ACTIVATIONS, is_rate_coded, is_spiking
from sddpm.denoising import DenoiserTraining
from sddpm.protocol import PointShape, System
from sddpm.riemannian import TRAINED, RiemannianDiffusion, RiemannianWidths, network_of
from sddpm.widths import over


@dataclass(frozen=True)
class Config(RiemannianWidths, DenoiserTraining):
    """Riemannian DDPM with spikes."""

    time_steps: int = 4
    """Spiking time steps of one network evaluation."""
    neuron: str = "if"
    """A spiking activation of :data:`sddpm.activations.ACTIVATIONS` that is trained as such."""
    threshold: float = 1.0
    """Firing threshold of every neuron."""


def build(config: Config, shape: PointShape, parent: System | None = None) -> RiemannianDiffusion:
    """Spiking Riemannian DDPM for points of ``shape``; it has no parent."""
    trained = [n for n in ACTIVATIONS if is_spiking(n) and not is_rate_coded(n)]
    if config.neuron not in trained:
        raise ValueError(f"neuron={config.neuron!r}: expected one of {', '.join(trained)}")
    net = network_of(config, shape, config.neuron, config.time_steps, config.threshold)
    return RiemannianDiffusion(net, shape, config, config)


PRESETS = over(TRAINED)
