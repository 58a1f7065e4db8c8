"""The work of the ``show`` command: the activity inside a checkpoint, as plots and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.checkpoints import Checkpoint
from bench.look.activity import Probe, neurons, plain, temporal_scales, training_log, write_rates
from bench.look.plots import plot_raster, plot_rates, plot_scales, plot_strip, plot_training
from bench.look.trace import Recorder
from sddpm.protocol import System
from sddpm.rng import image_seeds


@dataclass
class Seen:
    """Plots that were drawn, and reasons for those that were not."""

    headings: list[str] = field(default_factory=list)
    rates: list[list[str]] = field(default_factory=list)
    """Firing rates: a row a layer, the network last."""
    files: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Reasons for missing plots."""


def draw_everything(
    checkpoint: Checkpoint,
    system: System,
    sampling: Mapping[str, Any] | None,
    out: Path,
    seed: int,
    images: int,
    layer: str | None,
    kind: str,
) -> Seen:
    """Draw ``images`` images and plot the activity of the network on the way, into ``out``.

    Args:
        layer: of the raster; None is the first one.
        kind: png, pdf or svg.

    Raises:
        ValueError: no layer of that name, or a layer was named and there are no neurons.
    """
    name = checkpoint.system
    seen = Seen()
    recorder = None if sampling is None else Recorder(system, images)  # type: ignore[arg-type]
    drawer = recorder or system
    seeds = image_seeds(seed, 0, images)

    def file(title: str) -> Path:
        path = out / f"{title}.{kind}"
        seen.files.append(path)
        return path

    try:
        names = list(neurons(system.generator))
    except ValueError as error:
        if layer is not None:
            raise ValueError(f"--layer {layer}: {error}") from error
        seen.left_out.append(f"firing rates and raster: {error}")
        if recorder is not None:
            recorder.sample(seeds, plain(sampling))
    else:
        chosen = layer or names[0]
        steps = sampling["steps"] if sampling else 1
        moments = sorted({1, (steps + 1) // 2, steps})
        with Probe(system.generator, chosen, moments) as probe:
            drawer.sample(seeds, plain(sampling))
        layers = list(probe.layers.values())
        seen.headings = ["layer", "neurons", "firing rate"]
        count = max(len(layer.spikes) for layer in layers)
        seen.headings += [f"s = {step}" for step in range(1, count + 1)] if count <= 8 else []
        for row in layers:
            each = [f"{rate:.4f}" for rate in row.rates] if count <= 8 else []
            seen.rates.append([row.name, f"{row.neurons:,}", f"{row.rate:.4f}", *each])
        rest = [""] * (len(seen.headings) - 3)
        total = sum(row.neurons for row in layers)
        seen.rates.append(["network", f"{total:,}", f"{probe.rate:.4f}", *rest])
        table = out / "firing_rates.csv"
        write_rates(layers, table)
        seen.files.append(table)
        plot_rates(layers, file("firing_rates"))
        if probe.raster and probe.raster.moments:
            plot_raster(probe.raster, file("raster"))

    if recorder is not None:
        plot_strip(recorder.frames, file("denoising"))
    else:
        seen.left_out.append(f"denoising strip: {name} does not denoise")
    log = training_log(checkpoint.folder)
    if log:
        # A denoiser's last layer says what it predicts.
        output = getattr(system.generator, "output", None)
        kinds = {"epsilon": "the noise", "v_prediction": "v"}
        predicted = kinds.get(str(getattr(output, "prediction", None)))
        plot_training(log, file("training"), predicted)
    else:
        seen.left_out.append("training curve: there is no TensorBoard log beside the checkpoint")
    scales = temporal_scales(name, system.generator)
    if scales:
        plot_scales(scales, file("temporal_scales"))
    return seen
