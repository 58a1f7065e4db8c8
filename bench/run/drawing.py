"""Images from one checkpoint without a run: code that the commands on a checkpoint share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.checkpoints import Checkpoint
from bench.data.pictures import Images
from bench.machine import DeviceName, Machine
from bench.plan.sampling import choose_sampling
from bench.run.settled import HELD_OUT_IMAGES, describe_thresholds, settle
from bench.run.stages import count_operations
from sddpm.guidance import Guided, guidance_files, read_guidance
from sddpm.progress import progress_bar
from sddpm.protocol import PointShape, System, to_uint8
from sddpm.rng import image_seeds


@dataclass(frozen=True)
class DrawOptions:
    """Options of a command that draws images; :func:`open_to_draw` states what None means."""

    sampler: str | None = None
    """``NAME[:STEPS[:ETA]]``."""
    time_steps: int | None = None
    """Spiking time steps, where not the checkpoint's."""
    threshold: float | None = None
    """Firing threshold of every neuron."""
    gain: float | None = None
    """Factor of the network's output."""
    engine: str | None = None
    """plain, exact or fast."""
    seed: int = 0
    """Seed of the images' noise."""
    data_root: str | Path | None = None
    """Folder of the data set, for samplers that need statistics."""
    device: DeviceName = "auto"
    """auto, cpu or cuda."""
    label: int | None = None
    """Class of all images, for a system that was trained with classes."""


@dataclass(frozen=True)
class Drawer:
    """A checkpoint's system, ready to draw images as a command asked."""

    system: System
    machine: Machine
    seed: int
    sampling: dict[str, Any] | None
    """Options of the system's ``sample``; None for systems that do not denoise."""

    def draw(self, count: int, batch: int, by: Any = None) -> NDArray[np.uint8]:
        """The first ``count`` images of the seed, uint8 ``[count, C, H, W]``.

        Args:
            batch: images drawn at once.
            by: what samples in the system's place, such as a recorder of the denoising.
        """
        shape = getattr(self.system, "shape", None)
        if isinstance(shape, PointShape):
            raise ValueError("the checkpoint makes points of a manifold, no images; run draws them")
        sampler, parts = by or self.system, []
        with progress_bar("sample", count, "images", shown=self.machine.first) as bar:
            for start in range(0, count, batch):
                seeds = image_seeds(self.seed, start, min(start + batch, count))
                parts.append(to_uint8(sampler.sample(seeds, self.sampling)).numpy())
                bar.advance(len(parts[-1]))
        return np.concatenate(parts)

    def count_operations(self, images: int) -> dict[str, Any]:
        """Operations of really drawing the first ``images`` images of the seed, JSON-ready."""
        return count_operations(self.system, self.machine, self.seed, self.sampling, images=images)


def open_to_draw(
    checkpoint: Checkpoint, asked: DrawOptions, say: Callable[[str], None] = lambda line: None
) -> Drawer:
    """Load a checkpoint's system, and resolve the sampling options of a command.

    Threshold and gain are by default the checkpoint's guided ones, else as trained. Statistics that
    a sampler needs are measured once and kept with the checkpoint.

    Args:
        say: receives a line about each choice that the user did not make.

    Raises:
        ValueError: options that the system does not have.
        FileNotFoundError: a sampler needs statistics and the data is not there.
    """
    name, entry = checkpoint.system, checkpoint.entry
    if asked.time_steps is not None and entry.time_axis == "none":
        raise ValueError(f"--time-steps {asked.time_steps}: {name} has no spiking time")
    if asked.threshold is not None and not entry.guidable:
        raise ValueError(f"--threshold {asked.threshold:g}: {name} has no threshold to move")
    denoising = {"sampler": asked.sampler, "engine": asked.engine, "gain": asked.gain}
    for option, value in denoising.items():
        if value is not None and not entry.samplers:
            raise ValueError(f"--{option} {value}: {name} does not denoise, so it has no {option}")
    override = {} if asked.time_steps is None else {"time_steps": asked.time_steps}
    machine = Machine(asked.device)
    system = checkpoint.load(machine, override)
    if asked.label is not None and asked.label >= system.classes:
        legal = f"choose from 0 to {system.classes - 1}" if system.classes else "leave it out"
        raise ValueError(
            f"--class {asked.label}: {name} was trained with {system.classes} classes; {legal}"
        )
    if not entry.samplers:
        return Drawer(system, machine, asked.seed, None)
    choice = choose_sampling(asked.sampler)
    options = choice.model_dump() | {
        "threshold": asked.threshold,
        "engine": asked.engine or "exact",
    }
    if asked.label is not None:
        options["label"] = asked.label
    if asked.gain is not None:
        options["gain"] = asked.gain
    time_steps = asked.time_steps or checkpoint.time_steps
    options.update(_guided(checkpoint, asked, time_steps, say))

    def held_out() -> Images:
        try:
            images = checkpoint.images("test", asked.data_root, HELD_OUT_IMAGES)
        except (FileNotFoundError, ValueError) as error:
            needs = f"sampler {choice.sampler} needs statistics that are measured on images"
            raise type(error)(f"--data-root: {needs}: {error}") from error
        for note in images.notes:
            say(note)
        return images

    settled = settle(options, lambda: system, checkpoint, held_out, say, time_steps=time_steps)
    return Drawer(system, machine, asked.seed, settled)


def _guided(
    checkpoint: Checkpoint, asked: DrawOptions, time_steps: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """The options of a checkpoint's guidance that the command does not name itself."""
    open_ = {"threshold": asked.threshold is None, "gain": asked.gain is None}
    files = guidance_files(checkpoint.folder, checkpoint.time_steps)
    if not files or not any(open_.values()):
        return {}
    path = files.get(time_steps)
    if path is None:
        chosen_at = ", ".join(map(str, files))
        say(f"threshold and gain: as trained; the guided ones are of {chosen_at} time steps")
        return {}
    guided = (read_guidance(path.parent) or Guided()).sampling()
    chosen = {name: value for name, value in guided.items() if open_[name]}
    for name, value in chosen.items():
        text = f"{value:g}" if name == "gain" else describe_thresholds(value)
        say(f"{name}: {text}, guided ({path})")
    return chosen
