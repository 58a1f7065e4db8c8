"""A perceptron on points: the network of a diffusion on a manifold, with any activation.

Liu et al. (arXiv 2505.04338) and the literature before it use 3 to 5 hidden layers of 512 units and
append the time to the point. Spiking time is folded into the batch, as in :mod:`sddpm.neurons`:
with ``time_steps = 1`` the same network is an ANN. The first layer reads real numbers, runs once,
and its current is repeated at every spiking step (direct encoding).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sddpm.activations import ACTIVATIONS, is_rate_coded, is_spiking, make_activation, reads_after
from sddpm.layers import Reads, declare, linear
from sddpm.neurons import DirectEncoding, MeanReadout, MembraneReadout


class Sine(nn.Module):
    """``sin(x)`` as an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


SMOOTH: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "sin": Sine}
"""Activations that have no spiking form."""
TIMES = 2
"""Numbers that state the time of a point."""


@dataclass(frozen=True)
class PointNetConfig:
    """Sizes of a :class:`PointNet`."""

    coordinates: int
    """Numbers of a point."""
    width: int
    """Units of a hidden layer."""
    layers: int
    """Hidden layers, at least 1."""
    activation: str
    """One of :data:`sddpm.activations.ACTIVATIONS` or :data:`SMOOTH`."""
    time_steps: int = 1
    """Spiking time steps; 1 where there is no spiking time."""
    threshold: float = 1.0
    """Firing threshold."""
    frequencies: int = 0
    """Random directions of which sine and cosine are appended to the point; they are not
    trained."""
    highest_frequency: float = 1.0
    """Largest scale of a random direction, in radians a unit of length; scales are log-uniform
    from 1."""


class PointNet(nn.Module):
    """``net(x, time)``: a vector at each point of a manifold.

    A spiking network that is trained as such has BatchNorm before its neurons, so that their
    currents fit the threshold; ANNs, and the networks converted from them, have none.

    Raises:
        ValueError: no hidden layer, or an unknown activation.
    """

    def __init__(self, config: PointNetConfig) -> None:
        super().__init__()
        self.config = config
        name = config.activation
        if name not in {**ACTIVATIONS, **SMOOTH}:
            legal = ", ".join([*ACTIVATIONS, *SMOOTH])
            raise ValueError(f"activation={name!r}: expected one of {legal}")
        for field, least in (("layers", 1), ("width", 1), ("frequencies", 0)):
            if getattr(config, field) < least:
                raise ValueError(
                    f"{field}={getattr(config, field)}: expected a whole number from {least}"
                )
        reads: Reads = "real" if name in SMOOTH else reads_after(name)
        self.waves = _waves(config) if config.frequencies else None
        inputs = config.coordinates + 2 * config.frequencies + TIMES
        self.first = linear(inputs, config.width, reads="real")
        self.encode = DirectEncoding(config.time_steps)
        hidden = [linear(config.width, config.width, reads=reads) for _ in range(config.layers - 1)]
        self.hidden = nn.ModuleList(hidden)
        normed = reads != "real" and not is_rate_coded(name)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(config.width) if normed else nn.Identity() for _ in range(config.layers)
        )
        self.activations = nn.ModuleList(_activation(config) for _ in range(config.layers))
        self.last = linear(config.width, config.coordinates, reads=reads)
        spiking = name not in SMOOTH and is_spiking(name) and not is_rate_coded(name)
        read_out = MembraneReadout if spiking else MeanReadout
        self.readout = read_out(config.time_steps)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Vectors ``[batch, coordinates]`` at points ``[batch, coordinates]`` (float32) and times
        ``[batch, 2]``."""
        parts = [x, time]
        if self.waves is not None:
            angles = self.waves(x)
            parts += [angles.sin(), angles.cos()]
        h = self.encode(self.first(torch.cat(parts, 1)))
        h = self.activations[0](self.norms[0](h))
        for layer, norm, activation in zip(
            self.hidden, self.norms[1:], self.activations[1:], strict=True
        ):
            h = activation(norm(layer(h)))
        out: Tensor = self.readout(self.last(h))
        return out


def _waves(config: PointNetConfig) -> nn.Linear:
    """The random directions, as a layer that is not trained (random Fourier features, Tancik et al.
    2020, arXiv 2006.10739)."""
    if not config.highest_frequency >= 1:
        raise ValueError(f"highest_frequency={config.highest_frequency}: expected at least 1")
    layer = declare(nn.Linear(config.coordinates, config.frequencies, bias=False), reads="real")
    with torch.no_grad():
        scales = config.highest_frequency ** torch.rand(config.frequencies, 1)
        directions = torch.randn(config.frequencies, config.coordinates)
        layer.weight.copy_(scales * directions / directions.norm(dim=1, keepdim=True))
    return layer.requires_grad_(False)


def _activation(config: PointNetConfig) -> nn.Module:
    if config.activation in SMOOTH:
        return SMOOTH[config.activation]()
    return make_activation(config.activation, config.time_steps, config.threshold)
