"""Guidance without training: move the neurons' thresholds, or multiply the output, while sampling.

Section 4.3 of arXiv 2306.17046: to first order a shift of the threshold adds
``(d score / d threshold) * shift`` to the score, a correction like classifier-free guidance.
Lower thresholds mean more spikes. The paper chooses the value by hand from a grid of FIDs. Here
the denoising loss on held-out images can choose it at a fraction of the cost: one threshold for
all layers, or one for each layer along the gradient of the loss through the surrogate.

The gain is a factor of the network's raw output. Above 1 it takes off more noise at every step; it
is the reciprocal of the factor of Ning et al. 2023, arXiv 2308.15321, who divide the noise by a
number slightly above 1 against exposure bias.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sddpm.diffusion import Diffusion
from sddpm.neurons import SpikingNeuron, check_threshold, check_time_steps
from sddpm.rng import mix
from sddpm.user_state import state_folder

GUIDANCE = "guidance.json"
"""File beside a checkpoint's weights that holds the thresholds and the gain chosen for it."""

Thresholds = float | dict[str, float]
"""One value for every neuron, or one a layer by the neuron's name in the network."""


def spiking_layers(net: nn.Module) -> dict[str, SpikingNeuron]:
    """The spiking neurons of ``net`` by name, in the order in which they were built."""
    return {name: m for name, m in net.named_modules() if isinstance(m, SpikingNeuron)}


def read_thresholds(net: nn.Module) -> dict[str, float]:
    """The firing threshold of every spiking layer."""
    return {name: layer.theta.item() for name, layer in spiking_layers(net).items()}


def simplify(thresholds: Thresholds) -> Thresholds:
    """One number if every layer has the same threshold, else one for each layer. Values are rounded
    to float32, so that equal settings compare equal."""
    if not isinstance(thresholds, Mapping):
        return round(float(thresholds), 6)
    rounded = {name: round(value, 6) for name, value in thresholds.items()}
    values = set(rounded.values())
    return values.pop() if len(values) == 1 else rounded


def scale(thresholds: Thresholds, factor: float) -> Thresholds:
    """Multiply each threshold by ``factor``; layers with thresholds of their own keep their
    ratios."""
    if isinstance(thresholds, Mapping):
        return {name: factor * value for name, value in thresholds.items()}
    return factor * thresholds


def mean_threshold(thresholds: Thresholds) -> float:
    """The threshold, or the mean over the layers where each has its own."""
    if isinstance(thresholds, Mapping):
        return sum(thresholds.values()) / len(thresholds)
    return thresholds


@contextmanager
def guided(net: nn.Module, thresholds: Thresholds | None) -> Iterator[nn.Module]:
    """Run ``net`` at other thresholds inside the block; None changes nothing.

    Raises:
        ValueError: ``net`` has no spiking neurons, a threshold is not above 0, or a name is not
            one of its layers.
    """
    layers = spiking_layers(net)
    before = {name: layer.theta.clone() for name, layer in layers.items()}
    for name, value in _expand(layers, thresholds).items():
        layers[name].theta.fill_(value)
    try:
        yield net
    finally:
        for name, layer in layers.items():
            layer.theta.copy_(before[name])


def _expand(
    layers: Mapping[str, SpikingNeuron], thresholds: Thresholds | None
) -> Mapping[str, float]:
    if thresholds is None:
        return {}
    if not layers:
        raise ValueError("the network has no spiking neurons: threshold guidance needs some")
    each = thresholds if isinstance(thresholds, Mapping) else dict.fromkeys(layers, thresholds)
    for name, value in each.items():
        if name not in layers:
            raise ValueError(f"no spiking layer {name!r}; there are {', '.join(layers)}")
        check_threshold(value)
    return each


@dataclass(frozen=True)
class HeldOut:
    """Noised held-out images on which thresholds are compared, with common random numbers."""

    noisy: Tensor
    """``x_t``, ``[count, C, H, W]``."""
    noise: Tensor
    """The noise in it."""
    t: Tensor
    """Diffusion steps, ``[count]``."""

    @classmethod
    def draw(cls, images: Tensor, diffusion: Diffusion, levels: int = 8, seed: int = 0) -> HeldOut:
        """Noise ``images`` (float, in [-1, 1]) once each, at ``levels`` diffusion steps in turn,
        spread evenly over the process; fewer images than that have a step each."""
        if not len(images):
            raise ValueError("no held-out images to compare thresholds on")
        steps = diffusion.config.diffusion_steps
        rng = torch.Generator().manual_seed(mix(seed, len(images)))
        noise = torch.randn(images.shape, generator=rng, dtype=torch.float32).to(images.device)
        levels = min(levels, len(images))
        centres = (torch.arange(levels) + 0.5) * steps / levels
        t = centres.long()[torch.arange(len(images)) % levels].to(images.device)
        return cls(diffusion.add_noise(images, noise, t), noise, t)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(noisy, noise, t) in batches."""
        return zip(self.noisy.split(size), self.noise.split(size), self.t.split(size), strict=True)


@torch.no_grad()
def denoising_losses(net: nn.Module, held_out: HeldOut, batch_size: int = 128) -> Tensor:
    """Mean squared noise error of each held-out image, ``[count]``."""
    batches = held_out.batches(batch_size)
    return torch.cat([(net(x, t).float() - e).square().mean((1, 2, 3)) for x, e, t in batches])


@dataclass(frozen=True)
class Choice:
    """A threshold, or one for each layer, and the search that chose it."""

    thresholds: Thresholds
    method: str
    curve: list[dict[str, float]]
    """Per candidate: ``threshold`` (the layers' mean where each has its own; or ``step`` along the
    gradient), ``loss``, and the paired difference from the trained thresholds with its standard
    error."""
    network_evaluations: int
    """Evaluations of one image that the choice cost; a backward pass counts as two."""


def choose_by_loss(
    net: nn.Module,
    held_out: HeldOut,
    candidates: Sequence[Thresholds],
    on_candidate: Callable[[], None] | None = None,
) -> Choice:
    """The candidate with the least held-out denoising loss: a threshold, or one a layer.

    Every candidate meets the same images and noise, so differences are far sharper than the
    losses themselves.
    """
    labels = [{"threshold": mean_threshold(value)} for value in candidates]
    best, curve = _best_of(net, held_out, candidates, labels, on_candidate)
    return Choice(best, "loss", curve, (1 + len(candidates)) * len(held_out.t))


def choose_by_gradient(
    net: nn.Module,
    held_out: HeldOut,
    steps: Sequence[float],
    on_candidate: Callable[[], None] | None = None,
) -> Choice:
    """One threshold a layer: a line search against the loss's gradient in the thresholds.

    The direction is the gradient through the surrogate, scaled so that its largest part is 1;
    a step of 0.01 then moves the most sensitive layer's threshold by 0.01.
    """
    start = read_thresholds(net)
    slope = threshold_gradient(net, held_out)
    largest = max(abs(value) for value in slope.values())
    if largest == 0:
        raise ValueError("the loss does not depend on the thresholds: no direction to follow")
    moved = [
        {k: max(v - step * slope[k] / largest, 1e-3) for k, v in start.items()} for step in steps
    ]
    labels = [{"step": step} for step in steps]
    best, curve = _best_of(net, held_out, moved, labels, on_candidate)
    return Choice(best, "gradient", curve, (1 + 3 + len(steps)) * len(held_out.t))


def _best_of(
    net: nn.Module,
    held_out: HeldOut,
    candidates: Sequence[Thresholds],
    labels: Sequence[dict[str, float]],
    on_candidate: Callable[[], None] | None,
) -> tuple[Thresholds, list[dict[str, float]]]:
    """The candidate with the least loss, and the curve of a :class:`Choice`."""
    trained = denoising_losses(net, held_out)
    curve = []
    for thresholds, label in zip(candidates, labels, strict=True):
        with guided(net, thresholds):
            losses = denoising_losses(net, held_out)
        difference = losses - trained
        count = len(difference)
        error = (difference.std() / count**0.5).item() if count > 1 else 0.0
        paired = {"difference": difference.mean().item(), "standard_error": error}
        curve.append({**label, "loss": losses.mean().item(), **paired})
        if on_candidate:
            on_candidate()
    best = min(range(len(curve)), key=lambda i: curve[i]["loss"])
    return candidates[best], curve


def threshold_gradient(net: nn.Module, held_out: HeldOut, batch_size: int = 64) -> dict[str, float]:
    """``d loss / d theta`` of every spiking layer, through the surrogate gradient."""
    layers = spiking_layers(net)
    if not layers:
        raise ValueError("the network has no spiking neurons: threshold guidance needs some")
    total = dict.fromkeys(layers, 0.0)
    thetas = [layer.theta.requires_grad_() for layer in layers.values()]
    try:
        with torch.enable_grad():
            for x, noise, t in held_out.batches(batch_size):
                loss = (net(x, t).float() - noise).square().mean((1, 2, 3)).sum()
                grads = torch.autograd.grad(loss / len(held_out.t), thetas)
                for name, grad in zip(layers, grads, strict=True):
                    total[name] += float(grad)
    finally:
        for theta in thetas:
            theta.requires_grad_(False)
    return total


def check_gain(gain: float) -> float:
    """Return ``gain`` if it is a finite number above 0; raise ValueError if not."""
    number = isinstance(gain, int | float) and not isinstance(gain, bool)
    if not (number and math.isfinite(gain) and gain > 0):
        raise ValueError(f"gain={gain!r}: expected a finite number above 0")
    return gain


@dataclass(frozen=True)
class Guided:
    """The choice of guidance for a checkpoint; None for what it did not choose."""

    thresholds: Thresholds | None = None
    gain: float | None = None

    def stored(self) -> dict[str, Any]:
        """The same as fields of a guidance file."""
        chosen = {"thresholds": self.thresholds, "gain": self.gain}
        return {name: value for name, value in chosen.items() if value is not None}

    def sampling(self) -> dict[str, Any]:
        """The same as options of :class:`sddpm.samplers.Sampling`."""
        chosen = {"threshold": self.thresholds, "gain": self.gain}
        return {name: value for name, value in chosen.items() if value is not None}


def read_guidance(folder: str | Path) -> Guided | None:
    """The guidance beside a checkpoint; None if there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(folder) / GUIDANCE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        guided = Guided(content.get("thresholds"), content.get("gain"))
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON with 'thresholds' or 'gain' ({error})") from error
    thresholds = guided.thresholds
    try:
        if guided == Guided():
            raise ValueError("expected 'thresholds' or 'gain'")
        if thresholds == {}:
            raise ValueError(f"thresholds={thresholds}: expected a number above 0, or some")
        if thresholds is not None:
            for value in thresholds.values() if isinstance(thresholds, dict) else [thresholds]:
                check_threshold(value)
        if guided.gain is not None:
            check_gain(guided.gain)
        if content.get("time_steps") is not None:
            check_time_steps(content["time_steps"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return guided


def guidance_files(folder: Path, own: int | None) -> dict[Any, Path]:
    """Guidance files by the number of time steps for which they were made.

    One checkpoint may serve several numbers: what was chosen at its configuration's own is beside
    the weights, the others are in a folder each. A file that does not say is of the former. What
    a user chose for a shipped checkpoint (:func:`sddpm.user_state.state_folder`) comes first.

    Args:
        folder: of the checkpoint.
        own: time steps of the checkpoint's configuration.

    Raises:
        ValueError: a file is damaged.
    """
    found: dict[Any, Path] = {}
    roots = dict.fromkeys((state_folder(folder), folder))
    for home in (home for root in roots for home in (root, *sorted(root.glob("T*")))):
        if read_guidance(home) is not None:
            path = home / GUIDANCE
            found.setdefault(json.loads(path.read_text()).get("time_steps", own), path)
    return found


def read_guided(folder: Path, own: int | None, time_steps: int | None) -> Guided:
    """The choice for a checkpoint at ``time_steps``; nothing if there is no file.

    Args:
        folder, own: as for :func:`guidance_files`.

    Raises:
        ValueError: a guidance file is damaged.
    """
    path = guidance_files(folder, own).get(time_steps)
    return (path and read_guidance(path.parent)) or Guided()
