"""Errors of a converted network: child against parent, layer by layer and as a whole.

Per layer, with ``a`` the parent's activation, ``i`` the time-mean of the child's input current
and ``m`` the time-mean of its spikes, the error ``m - a`` is the sum of four parts:

- inherited: ``relu(i) - a``, the error of the layers before;
- clipping: ``clip(i) - relu(i)``, above the threshold (the only part that a higher T does not
  reduce);
- rounding: ``quantised(i) - clip(i)``, to ``T`` levels;
- unevenness: ``m - quantised(i)``, spike timing: charge that came late, or was cancelled.

Each is given as its norm over the norm of ``a``; norms of parts do not add up, vectors do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from conversion.calibrate import activations, read_thetas, watched
from conversion.schedule import ScheduledUNet, alike
from sddpm.guidance import HeldOut
from sddpm.unet import UNet

PARTS = ("inherited", "clipping", "rounding", "unevenness")
SLICES = 256
"""Images times spiking steps that are compared at once."""


@dataclass(frozen=True)
class LayerError:
    """One activation layer; errors are relative to the parent's activation."""

    layer: str
    threshold: float
    """Threshold of the layer; the mean, if each channel has its own."""
    relative_error: float
    inherited: float
    clipping: float
    rounding: float
    unevenness: float
    clipped_share: float
    """Share of neurons whose mean input is above the threshold, in [0, 1]."""
    firing_rate: float
    """Spikes per neuron and spiking step, in [0, 1]."""


@dataclass(frozen=True)
class NetworkComparison:
    """A child against its parent on noised held-out images."""

    time_steps: int
    """Spiking time steps; the mean, if they follow a schedule."""
    images: int
    relative_error: float
    """Norm of the difference of the noise predictions over the norm of the parent's."""
    parent_loss: float
    """Denoising loss: mean squared error of the predicted noise."""
    child_loss: float
    firing_rate: float
    """Over all layers, weighted by their neurons."""
    layers: tuple[LayerError, ...]

    @property
    def loss_ratio(self) -> float:
        """Child's denoising loss over the parent's."""
        return self.child_loss / self.parent_loss


def split_error(
    parent: Tensor, current: Tensor, spikes: Tensor, theta: float | Tensor, time_steps: int
) -> dict[str, Tensor]:
    """The four parts of ``spikes.mean - parent`` by name, each of the parent's shape.

    Args:
        parent: activation, ``[batch, ...]``.
        current: the child's input, ``[time_steps * batch, ...]``.
        spikes: its output, in the same shape.
        theta: one threshold, or one a channel as ``[channels, 1, 1]``.
    """
    mean = current.unflatten(0, (time_steps, -1)).float().mean(0)
    fired = spikes.unflatten(0, (time_steps, -1)).float().mean(0)
    rectified = mean.relu()
    clipped = rectified.clamp(max=theta)
    quantised = (clipped / theta * time_steps + 0.5).floor() * (theta / time_steps)
    return {
        "inherited": rectified - parent,
        "clipping": clipped - rectified,
        "rounding": quantised - clipped,
        "unevenness": fired - quantised,
    }


@torch.no_grad()
def compare(
    parent: UNet,
    child: UNet,
    held_out: HeldOut,
    on_images: Callable[[int], None] = lambda count: None,
) -> NetworkComparison:
    """Run both networks on ``held_out`` and set them against each other.

    Args:
        on_images: told how many images were finished, for a progress bar.

    Raises:
        ValueError: there are no images, or the networks have other layers.
    """
    if not len(held_out.t):
        raise ValueError("no held-out images to compare the networks on")
    own, theirs = activations(child), activations(parent)
    if list(own) != list(theirs):
        odd = sorted(own.keys() ^ theirs.keys())
        raise ValueError(f"the networks have other activation layers: {', '.join(odd[:3])}")
    thetas = read_thetas(child)
    sums = {name: _Sums() for name in own}
    seen: dict[str, Tensor] = {}

    def see_parent(name: str, _given: Tensor, out: Tensor) -> None:
        seen[name] = out.float()

    def see_child(name: str, given: Tensor, out: Tensor) -> None:
        expected = seen.pop(name)
        # How often each image is there says for how long its neurons integrate.
        sums[name].add(expected, given, out, thetas[name], len(out) // len(expected))

    difference = scale = parent_loss = child_loss = 0.0
    was_training = parent.training, child.training
    parent.eval(), child.eval()
    try:
        with watched(parent, see_parent), watched(child, see_child):
            for x, noise, t in _batches(child, held_out):
                expected, predicted = parent(x, t).float(), child(x, t).float()
                difference += (predicted - expected).square().sum().item()
                scale += expected.square().sum().item()
                parent_loss += (expected - noise).square().mean((1, 2, 3)).sum().item()
                child_loss += (predicted - noise).square().mean((1, 2, 3)).sum().item()
                on_images(len(t))
    finally:
        parent.train(was_training[0]), child.train(was_training[1])
    count = len(held_out.t)
    layers = tuple(row.finish(name, thetas[name].mean().item()) for name, row in sums.items())
    return NetworkComparison(
        time_steps=child.config.time_steps,
        images=count,
        relative_error=_root(difference, scale),
        parent_loss=parent_loss / count,
        child_loss=child_loss / count,
        firing_rate=sum(r.spikes for r in sums.values()) / sum(r.size for r in sums.values()),
        layers=layers,
    )


def _batches(child: UNet, held_out: HeldOut) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(noisy, noise, t); in a batch all images have the same spiking time steps."""
    for own in alike(child, held_out.t):
        some = HeldOut(held_out.noisy[own], held_out.noise[own], held_out.t[own])
        steps = child.steps_at(some.t[0]) if isinstance(child, ScheduledUNet) else None
        yield from some.batches(max(1, SLICES // (steps or child.config.time_steps)))


class _Sums:
    """Running sums of squares of one layer."""

    def __init__(self) -> None:
        self.scale = self.error = 0.0
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.above = self.neurons = self.spikes = self.size = 0

    def add(
        self, parent: Tensor, current: Tensor, spikes: Tensor, theta: Tensor, time_steps: int
    ) -> None:
        parts = split_error(parent, current, spikes, theta, time_steps)
        for name, part in parts.items():
            self.parts[name] += part.square().sum().item()
        self.error += torch.stack(list(parts.values())).sum(0).square().sum().item()
        self.scale += parent.square().sum().item()
        self.above += int((parts["clipping"] < 0).sum())
        self.neurons += parent.numel()
        self.spikes += int(spikes.count_nonzero())
        self.size += spikes.numel()

    def finish(self, name: str, theta: float) -> LayerError:
        return LayerError(
            layer=name,
            threshold=theta,
            relative_error=_root(self.error, self.scale),
            **{part: _root(value, self.scale) for part, value in self.parts.items()},
            clipped_share=self.above / self.neurons,
            firing_rate=self.spikes / self.size,
        )


def _root(squares: float, scale: float) -> float:
    return float((squares / scale) ** 0.5) if scale else float(squares > 0)


HEADINGS = [
    "layer", "threshold", "relative error", *PARTS, "clipped share", "firing rate",
]  # fmt: skip


def layer_cells(comparison: NetworkComparison) -> Iterator[list[str]]:
    """A row of text per layer, in the order of :data:`HEADINGS`."""
    for row in comparison.layers:
        errors = (row.relative_error, *(getattr(row, part) for part in PARTS))
        yield [
            row.layer,
            f"{row.threshold:.4g}",
            *(f"{100 * error:.2f} %" for error in errors),
            f"{100 * row.clipped_share:.3f} %",
            f"{row.firing_rate:.4f}",
        ]
