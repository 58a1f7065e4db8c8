"""Thresholds of a converted network from what its parent's activations do on noised images.

Too low a threshold clips activations, too high a one leaves a few coarse levels: maximum and
percentile are the two data-based choices of rate coding (Rueckauer et al. 2017, as in
SpikingJelly's recipe). The least squared error instead takes, for the number of spiking steps at
hand, the threshold whose clipped and rounded activation is nearest to the parent's, for a layer or
for every channel by itself. Local threshold balancing (Bu et al. 2024, arXiv 2409.03368, as in
SpikingJelly 2) adds to a channel's threshold twice the mean of what exceeds it, while the network
runs on activations that it has clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from sddpm.neurons import QuantReLU, RateIF, ReLU, SpikingNeuron

MOST_VALUES = 1 << 21
"""Activations of a layer and batch that a statistic looks at; of more, an even selection."""
FRACTIONS = tuple(0.05 * k for k in range(1, 25))
"""Thresholds that ``mse`` tries, as parts of the 99.99th percentile."""
LEAST = 1e-6
"""Smallest threshold of local threshold balancing."""

See = Callable[[str, Tensor, Tensor], "Tensor | None"]


def activations(net: nn.Module) -> dict[str, nn.Module]:
    """The activations of ``net`` by name: every layer that owns a ``theta``."""
    kinds = (ReLU, QuantReLU, SpikingNeuron)
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, kinds)}


@contextmanager
def watched(net: nn.Module, see: See) -> Iterator[None]:
    """Call ``see(name, input, output)`` after each activation inside the block. A result other than
    None replaces the output."""
    handles = [
        layer.register_forward_hook(lambda _m, given, out, name=name: see(name, given[0], out))
        for name, layer in activations(net).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ThresholdStatistic:
    """A running statistic of a parent's activations: a threshold a layer, or one a channel.

    A subclass says in :meth:`measure` what one batch gives; by default the threshold is the mean
    over batches.

    Args:
        time_steps: spiking steps of the network to come, for statistics that depend on them.
        percentile: in (0, 100], for :class:`Percentile`.
    """

    per_channel: ClassVar[bool] = False
    """Whether every channel has its own threshold."""

    def __init__(self, time_steps: int = 1, percentile: float = 99.9) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile={percentile}: expected a number above 0, at most 100")
        self.time_steps, self.percentile = time_steps, percentile
        self.values: dict[str, Tensor] = {}
        """Statistic of each layer: a number, or ``[channels]``."""
        self.batches = 0

    @torch.no_grad()
    def update(self, parent: nn.Module, noisy: Tensor, t: Tensor) -> None:
        """Measure the activations of ``parent`` on ``noisy`` (``[batch, C, H, W]``) at steps ``t``.

        Raises:
            ValueError: there are no images.
        """
        if not len(noisy):
            raise ValueError("no calibration images: thresholds are measured on some")
        was_training = parent.training
        parent.eval()
        try:
            with watched(parent, self.see):
                parent(noisy, t)
        finally:
            parent.train(was_training)
        self.batches += 1

    def see(self, name: str, given: Tensor, out: Tensor) -> Tensor | None:
        """Measure the activation ``out`` of the layer ``name``. A result other than None replaces
        it in the parent."""
        value, old = self.measure(out.float()), self.values.get(name)
        self.values[name] = value if old is None else self.combine(old, value)
        return None

    def measure(self, out: Tensor) -> Tensor:
        """The threshold of one batch's activations ``[batch, channels, H, W]``: a number, or
        ``[channels]``."""
        raise NotImplementedError

    def combine(self, old: Tensor, value: Tensor) -> Tensor:
        """The threshold of all batches so far and one more."""
        return old.lerp(value, 1 / (self.batches + 1))

    def write(self, net: nn.Module) -> None:
        """Set the thresholds of ``net``. A layer that was never active keeps its own; a channel
        that was never active has the mean of its layer's others."""
        for name, layer in activations(net).items():
            value = self.values.get(name)
            if value is None:
                continue
            active = value[value > 2 * LEAST]
            if not active.numel():
                continue
            with torch.no_grad():
                layer.theta.fill_(active.mean())
                if value.ndim:
                    each = torch.where(value > 2 * LEAST, value, active.mean())
                    scale = channel_scale(layer)
                    assert scale is not None, f"{name} has one threshold for all channels"
                    scale.copy_((each / layer.theta)[:, None, None])


class Largest(ThresholdStatistic):
    """The largest activation of a layer over all batches."""

    def measure(self, out: Tensor) -> Tensor:
        return out.max()

    def combine(self, old: Tensor, value: Tensor) -> Tensor:
        return torch.maximum(old, value)


class Percentile(ThresholdStatistic):
    """The percentile of a layer's activations, zeros included."""

    def measure(self, out: Tensor) -> Tensor:
        return percentile_of(_selection(out), self.percentile)


class LeastSquares(ThresholdStatistic):
    """The threshold at which a layer's activations change least when clipped and rounded."""

    def measure(self, out: Tensor) -> Tensor:
        return nearest_threshold(_selection(out), self.time_steps)


class ChannelLeastSquares(ThresholdStatistic):
    """:class:`LeastSquares` of every channel by itself."""

    per_channel = True

    def measure(self, out: Tensor) -> Tensor:
        return nearest_threshold(out.transpose(0, 1).flatten(1), self.time_steps)


class LocalBalancing(ThresholdStatistic):
    """Local threshold balancing: one update for each batch; the clipped activation is passed on."""

    per_channel = True

    def see(self, name: str, given: Tensor, out: Tensor) -> Tensor:
        old = self.values.get(name)
        theta = balance(out.new_zeros(out.shape[1]) if old is None else old, out)
        self.values[name] = theta
        return out.minimum(theta[:, None, None])


def _selection(out: Tensor) -> Tensor:
    """The activations as one dimension; of very many an even selection."""
    values = out.flatten()
    return values[:: -(-values.numel() // MOST_VALUES)]


def balance(theta: Tensor, out: Tensor) -> Tensor:
    """Thresholds ``[channels]`` after activations ``[batch, channels, H, W]`` were seen: each grows
    by twice the mean of the excess over it."""
    over = (out - theta[:, None, None]).clamp(min=0)
    return (theta + 2 * over.mean((0, 2, 3))).clamp(min=LEAST)


def percentile_of(values: Tensor, percentile: float) -> Tensor:
    """The smallest of ``values`` (along the last dimension) that ``percentile`` percent of them do
    not exceed; the largest where that is 0, since a threshold must be above it."""
    count = values.shape[-1]
    rank = min(count, max(1, -int(-percentile / 100 * count // 1)))
    found = values.kthvalue(rank).values
    return torch.where(found > 0, found, values.amax(-1))


def nearest_threshold(values: Tensor, time_steps: int) -> Tensor:
    """The threshold at which ``values`` (along the last dimension), clipped and rounded to
    ``time_steps`` levels, change least in the mean square; 0 where none is above 0."""
    top = percentile_of(values, 99.99)
    values = values[..., :: max(1, values.shape[-1] >> 17)]
    best, least = torch.zeros_like(top), torch.full_like(top, float("inf"))
    for fraction in FRACTIONS:
        theta = (top * fraction).clamp(min=torch.finfo(top.dtype).tiny)
        unit = theta[..., None] / time_steps
        rounded = (values / unit + 0.5).floor().clamp(0, time_steps)
        error = (rounded * unit - values).square().mean(-1)
        better = (error < least) & (top > 0)
        best, least = torch.where(better, theta, best), torch.where(better, error, least)
    return best


def channel_scale(layer: nn.Module) -> Tensor | None:
    """The factor of each channel's threshold, ``[channels, 1, 1]``; None where all have one."""
    return layer.channel_scale() if isinstance(layer, RateIF) else None


def read_thetas(net: nn.Module) -> Mapping[str, Tensor]:
    """Threshold of every activation by name: a number, or ``[channels, 1, 1]``."""
    thetas = {}
    for name, layer in activations(net).items():
        scale = channel_scale(layer)
        theta = layer.theta.detach()
        thetas[name] = theta if scale is None else theta * scale
    return thetas
