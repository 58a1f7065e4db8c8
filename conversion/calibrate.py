"""Thresholds of a converted network from what its parent's activations do on noised images.

Too low a threshold clips activations, too high a one leaves a few coarse levels: maximum and
percentile are the two data-based choices of rate coding (Rueckauer et al. 2017, as in
SpikingJelly's recipe). ``mse`` instead takes, for the number of spiking steps at hand, the
threshold whose clipped and rounded activation is nearest to the parent's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sddpm.neurons import QuantReLU, ReLU, SpikingNeuron

MOST_VALUES = 1 << 21
"""Activations of a layer and batch that a statistic looks at; of more, an even selection."""
FRACTIONS = tuple(0.05 * k for k in range(1, 25))
"""Thresholds that ``mse`` tries, as parts of the 99.99th percentile."""


def activations(net: nn.Module) -> dict[str, nn.Module]:
    """The activations of ``net`` by name: every layer that owns a ``theta``."""
    kinds = (ReLU, QuantReLU, SpikingNeuron)
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, kinds)}


@contextmanager
def watched(net: nn.Module, see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Inside the block, ``see(name, input, output)`` is called after each activation."""
    handles = [
        layer.register_forward_hook(lambda _m, given, out, name=name: see(name, given[0], out))
        for name, layer in activations(net).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Thresholds:
    """Running statistics of a parent's activations, one threshold a layer.

    Args:
        method: ``max``: the largest activation; ``percentile``: the mean over batches of the
            batch's percentile; ``mse``: as the module says, the mean over batches.
        percentile: in (0, 100], over all activations of a layer, zeros included.
        time_steps: for ``mse``.
    """

    def __init__(self, method: str, percentile: float = 99.9, time_steps: int = 1) -> None:
        if method not in ("max", "percentile", "mse"):
            raise ValueError(f"method={method!r}: expected max, percentile or mse")
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile={percentile}: expected a number above 0, at most 100")
        self.method, self.percentile, self.time_steps = method, percentile, time_steps
        self.values: dict[str, float] = {}
        self.batches = 0

    @torch.no_grad()
    def update(self, parent: nn.Module, noisy: Tensor, t: Tensor) -> None:
        """Take in what ``parent`` does on ``noisy`` (``[batch, C, H, W]``) at steps ``t``.

        Raises:
            ValueError: there are no images.
        """
        if not len(noisy):
            raise ValueError("no calibration images: thresholds are measured on some")
        share = 1 / (self.batches + 1)

        def see(name: str, _given: Tensor, out: Tensor) -> None:
            value, old = self._of(out.float()), self.values.get(name, 0.0)
            new = max(old, value) if self.method == "max" else old + share * (value - old)
            self.values[name] = new

        was_training = parent.training
        parent.eval()
        try:
            with watched(parent, see):
                parent(noisy, t)
        finally:
            parent.train(was_training)
        self.batches += 1

    def _of(self, out: Tensor) -> float:
        if self.method == "max":
            return out.max().item()
        values = out.flatten()
        values = values[:: -(-values.numel() // MOST_VALUES)]
        if self.method == "percentile":
            return percentile_of(values, self.percentile)
        return nearest_threshold(values, self.time_steps)

    def write(self, net: nn.Module) -> None:
        """Set the thresholds of ``net``. A layer that was never active keeps its own."""
        for name, layer in activations(net).items():
            value = self.values.get(name, 0.0)
            if value > 0:
                with torch.no_grad():
                    layer.theta.fill_(value)


def percentile_of(values: Tensor, percentile: float) -> float:
    """The smallest of ``values`` that ``percentile`` percent of them do not exceed; the largest
    where that is 0, since a threshold must be above it."""
    rank = min(values.numel(), max(1, -int(-percentile / 100 * values.numel() // 1)))
    found = values.kthvalue(rank).values.item()
    return found if found > 0 else values.max().item()


def nearest_threshold(values: Tensor, time_steps: int) -> float:
    """The threshold at which ``values``, clipped and rounded to ``time_steps`` levels, change
    least in the mean square."""
    top = percentile_of(values, 99.99)
    if top <= 0:
        return 0.0
    values = values[:: max(1, values.numel() >> 17)]

    def error(theta: float) -> float:
        rounded = (values / theta * time_steps + 0.5).floor().clamp(0, time_steps)
        return (rounded * (theta / time_steps) - values).square().mean().item()

    return min((top * fraction for fraction in FRACTIONS), key=error)


def read_thetas(net: nn.Module) -> Mapping[str, float]:
    """Threshold of every activation by name."""
    return {name: layer.theta.item() for name, layer in activations(net).items()}
