"""Activity inside a checkpoint: firing rates by layer, spikes of one layer, the denoising chain,
the training log. Collects numbers; :mod:`bench.look.plots` draws them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.registry import choose, load_module
from sddpm.protocol import System
from sddpm.replacing import atomic_write

LOG = "log"
"""Folder beside a checkpoint that holds its TensorBoard log."""


@dataclass
class LayerSpikes:
    """One layer of neurons over a whole sampling chain."""

    name: str
    neurons: int
    """Per image."""
    spikes: Tensor
    """Number of spikes at each spiking step, ``[time_steps]``."""
    updates: int = 0
    """Neurons x images x evaluations: the most spikes that one spiking step can have."""

    @property
    def rates(self) -> list[float]:
        """Spikes per neuron at each spiking step."""
        rates: list[float] = (self.spikes / self.updates).tolist()
        return rates

    @property
    def rate(self) -> float:
        """Spikes per neuron and spiking step."""
        return float(self.spikes.mean() / self.updates)


@dataclass
class Raster:
    """Spikes of one layer for one image, at some network evaluations."""

    layer: str
    evaluations: int
    """Evaluations of the whole chain."""
    moments: dict[int, Tensor] = field(default_factory=dict)
    """Number of the evaluation, from 1 -> bool ``[time_steps, C, H, W]``."""


class Probe:
    """Context manager that watches the neurons of ``net`` while it runs as it is.

    Args:
        raster: keep the first image's spikes of this layer, at the evaluations ``moments``.

    Raises:
        ValueError: there are no neurons, or no layer of that name.
    """

    def __init__(
        self, net: nn.Module, raster: str | None = None, moments: Sequence[int] = ()
    ) -> None:
        self.net = net
        self.neurons = neurons(net)
        self.layers: dict[str, LayerSpikes] = {}
        self.evaluations = 0
        self.raster: Raster | None = None
        if raster is not None:
            self.raster = Raster(choose("layer", raster, self.neurons), max(moments, default=0))
        self._moments = set(moments)
        self._hooks: list[Any] = []

    def __enter__(self) -> Probe:
        def count(module: nn.Module, inputs: Any) -> None:
            self.evaluations += 1

        self._hooks.append(self.net.register_forward_pre_hook(count))
        for name, module in self.neurons.items():
            self._hooks.append(module.register_forward_hook(self._watch(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @property
    def rate(self) -> float:
        """All spikes / all neurons' spiking steps."""
        spikes = sum(float(layer.spikes.sum()) for layer in self.layers.values())
        return spikes / sum(len(layer.spikes) * layer.updates for layer in self.layers.values())

    def _watch(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            steps = spikes_of(module, output)
            spikes = steps.flatten(1).count_nonzero(1).double().cpu()
            layer = self.layers.get(name)
            if layer is None:
                size = steps[0, 0].numel()
                layer = self.layers[name] = LayerSpikes(name, size, torch.zeros_like(spikes))
            layer.spikes += spikes
            layer.updates += steps[0].numel()
            raster = self.raster
            if raster and raster.layer == name and self.evaluations in self._moments:
                seen = (steps[:, 0] != 0).cpu()
                # Neurons behind a linear layer have no height and width.
                seen = seen if seen.ndim == 4 else seen.flatten(1)[:, :, None, None]
                raster.moments[self.evaluations] = seen

        return hook


def spikes_of(module: nn.Module, output: Tensor) -> Tensor:
    """Spikes of a neuron layer by spiking step, ``[time_steps, batch, ...]``; not 0 is a spike. A
    count of ``n`` is a spike in each of the first ``n`` steps, as :mod:`sddpm.unrolled` sends it.
    """
    if getattr(module, "emits", None) == "counts":
        return torch.stack([output >= count for count in range(1, int(module.levels) + 1)])  # type: ignore[arg-type]
    return output.unflatten(0, (int(getattr(module, "time_steps", 1)), -1))


def neurons(net: nn.Module) -> dict[str, nn.Module]:
    """The modules of ``net`` that emit spikes or events, by name.

    Raises:
        ValueError: there are none.
    """
    found = spiking_modules(net)
    if not found:
        raise ValueError(f"{type(net).__name__} has no spiking neurons, so there are no spikes")
    return found


def spiking_modules(net: nn.Module) -> dict[str, nn.Module]:
    """The same, or none."""
    emitting = ("spikes", "counts")
    return {n: m for n, m in net.named_modules() if getattr(m, "emits", None) in emitting}


def firing_rate(system: System, seeds: Sequence[int], sampling: Mapping[str, Any] | None) -> float:
    """Spikes per neuron and spiking step while ``system`` draws ``seeds``."""
    with Probe(system.generator) as probe:
        system.sample(seeds, plain(sampling))
    return probe.rate


def plain(sampling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The same sampling with the network as it is: a prepared one calls no neuron modules."""
    return None if sampling is None else {**sampling, "engine": "plain"}


def write_rates(layers: Sequence[LayerSpikes], path: Path) -> None:
    """Firing rates as CSV: layer, neurons per image, mean rate, rate at each spiking step."""
    steps = max(len(layer.spikes) for layer in layers)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        heading = [f"firing_rate_s{step}" for step in range(1, steps + 1)]
        writer.writerow(["layer", "neurons", "firing_rate", *heading])
        for layer in layers:
            writer.writerow([layer.name, layer.neurons, layer.rate, *layer.rates])


def training_log(checkpoint: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of the TensorBoard log beside ``checkpoint``: name -> (step, value), in order.
    Empty where there is no log."""
    folder = checkpoint.resolve().parent / LOG
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def temporal_scales(name: str, net: nn.Module) -> dict[str, Tensor]:
    """Learned scale of each spiking step by layer, ``[time_steps]`` each, of the system
    ``name``; empty where it has none (its module then has no ``scales``)."""
    scales = getattr(load_module(name), "scales", None)
    found: dict[str, Tensor] = {} if scales is None else scales(net)
    return found
