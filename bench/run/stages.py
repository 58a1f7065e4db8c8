"""Train, sample, energy and score: files in, files out.

Each stage looks for its own result first, so calling it again costs nothing, and writes it
whole or not at all, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.checkpoints import claim, describe, load_system
from bench.data.grids import save_grid
from bench.data.pictures import Images, cache_folder
from bench.energy.meter import Meter
from bench.files import read_json, write_json
from bench.machine import Machine
from bench.plan.cells import Training, make_config
from bench.quality.extractors import Extractor
from bench.quality.fidelity import score
from bench.quality.metrics import is_column
from bench.registry import load_module
from bench.run.shards import MADE_AT, made_at, read_shard, read_shards, shard_path, write_shard
from sddpm.checkpoint import atomic_write, count_parameters
from sddpm.guidance import Thresholds
from sddpm.protocol import ImageShape, System, to_uint8
from sddpm.rng import image_seeds
from sddpm.training import ImageSource, TrainConfig, fit

SAMPLES, SAMPLES_FACTS, GRID, ENERGY = "samples.npy", "samples.json", "grid.png", "energy.json"
SAMPLES_KEYS = ("samples", "seconds", "peak_memory_mib")
ENERGY_KEYS = (
    "images", "per_image", "per_evaluation", "firing_rate", "params_millions", "seconds",
    "peak_memory_mib",
)  # fmt: skip
"""What a record is made from; a file without is damaged."""


# Train.


def train(
    training: Training,
    folder: Path,
    images: Callable[[], ImageSource],
    machine: Machine,
    *,
    parent: Path | None = None,
    progress: bool = True,
    checkpoint_seconds: float = 120.0,
) -> None:
    """Make the checkpoint of ``training`` in ``folder/checkpoint``, or go on with it.

    Args:
        images: gives the training set; not called where the checkpoint is there.
        parent: checkpoint of ``training.parent``.

    Raises:
        ValueError: the configuration cannot be built, or the loss became NaN.
    """
    if is_trained(folder):
        return
    config = TrainConfig(
        steps=training.steps,
        batch_size=training.batch_size,
        seed=training.seed,
        precision=training.precision,
        horizontal_flip=training.data.horizontal_flip,
        checkpoint_seconds=checkpoint_seconds,
    )
    shape = ImageShape(training.data.channels, training.data.image_size)
    built_from = load_system(parent, machine) if parent else None
    torch.manual_seed(training.seed)
    module = load_module(training.system)
    system = module.build(make_config(training.system, training.config), shape, built_from)
    fit(
        system,
        images(),
        config=config,
        folder=folder,
        description=describe(training),
        fabric=machine.fabric(training.precision),
        progress=progress,
    )


def train_chain(training: Training, folder: Path, images: ImageSource, machine: Machine) -> Path:
    """Train ``training`` in a folder that a user named, its parents under ``folder/parents``.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: the folder holds a training with other settings.
    """
    parent = None
    if training.parent is not None:
        home = folder / "parents" / training.parent.name
        parent = train_chain(training.parent, home, images, machine)
    if machine.first:
        claim(folder, training)
    train(training, folder, lambda: images, machine, parent=parent)
    return folder / "checkpoint"


def is_trained(folder: Path) -> bool:
    """Whether the training in ``folder`` is finished."""
    return (folder / "checkpoint").is_dir()


# Sample.


def is_sampled(folder: Path, thresholds: Thresholds | str | None = None) -> bool:
    """Whether the samples in ``folder`` are complete.

    Args:
        thresholds: what they must have been drawn at; None where nothing else can be there.

    Raises:
        ValueError: the file about them is damaged.
    """
    if not ((folder / SAMPLES_FACTS).is_file() and (folder / SAMPLES).is_file()):
        return False
    return made_at(read_json(folder / SAMPLES_FACTS, SAMPLES_KEYS), thresholds)


def note_thresholds(folder: Path, thresholds: Thresholds) -> None:
    """Add the thresholds to files of before they were kept there.

    Raises:
        ValueError: a file is damaged.
    """
    for path in (folder / SAMPLES_FACTS, folder / ENERGY):
        if path.is_file() and MADE_AT not in (facts := read_json(path)):
            write_json(path, {**facts, MADE_AT: thresholds})


def sample(
    system: Callable[[], System],
    folder: Path,
    machine: Machine,
    *,
    count: int,
    seed: int,
    sampling: Mapping[str, Any] | None,
    batch: int,
    progress: bool = True,
) -> dict[str, Any]:
    """Draw ``count`` images into ``folder/samples.npy`` (uint8 ``[count, C, H, W]``).

    They are drawn ``batch`` at a time, each batch kept in ``folder/shards`` until all are
    there. Processes share the batches. What is damaged, or was drawn at other thresholds than
    those of ``sampling``, is drawn again.

    Args:
        system: gives the system; not called where the samples are there.

    Returns:
        The content of ``samples.json``: samples, seconds, peak memory.
    """
    thresholds = _thresholds(sampling)
    if is_sampled(folder, thresholds):
        return read_json(folder / SAMPLES_FACTS)
    starts = range(0, count, batch)
    shards = [shard_path(folder, start, min(start + batch, count)) for start in starts]
    mine = list(zip(starts, shards, strict=True))[machine.rank :: machine.world]
    missing = [(start, path) for start, path in mine if read_shard(path, thresholds) is None]
    if missing:
        model = system()
        sizes = {path: min(batch, count - start) for start, path in mine}
        # The bar shows this process's share.
        bar, advance = _bar("sample", sum(sizes.values()), progress and machine.first)
        with bar:
            advance(sum(sizes.values()) - sum(sizes[path] for _, path in missing))
            for start, path in missing:
                begun = time.monotonic()
                seeds = image_seeds(seed, start, min(start + batch, count))
                drawn = to_uint8(model.sample(seeds, sampling)).numpy()
                seconds = time.monotonic() - begun
                write_shard(path, drawn, seconds, thresholds)
                advance(sizes[path])
    machine.barrier()
    if machine.first:
        _join(shards, folder, machine, thresholds)
    machine.barrier()
    return read_json(folder / SAMPLES_FACTS)


def draw(
    system: System,
    machine: Machine,
    seed: int,
    sampling: Mapping[str, Any] | None,
    *,
    count: int,
    batch: int,
    progress: bool = True,
) -> NDArray[np.uint8]:
    """The first ``count`` images of ``seed``, uint8 ``[count, C, H, W]``, without a file."""
    parts = []
    bar, advance = _bar("sample", count, progress and machine.first)
    with bar:
        for start in range(0, count, batch):
            seeds = image_seeds(seed, start, min(start + batch, count))
            parts.append(to_uint8(system.sample(seeds, sampling)).numpy())
            advance(len(parts[-1]))
    return np.concatenate(parts)


def _thresholds(sampling: Mapping[str, Any] | None) -> Thresholds | None:
    return sampling.get("threshold") if sampling else None


def _join(
    shards: list[Path], folder: Path, machine: Machine, thresholds: Thresholds | None
) -> None:
    images, seconds = read_shards(shards, thresholds)
    # Of other samples that were here, nothing may pass for these samples'.
    for stale in (folder / SAMPLES_FACTS, *folder.glob("scores-*.json")):
        stale.unlink(missing_ok=True)
    write_samples(images, folder / SAMPLES)
    save_grid(images, folder / GRID)
    # Processes sample side by side, so their seconds overlap.
    facts = {
        "samples": len(images),
        "seconds": seconds / machine.world,
        "peak_memory_mib": machine.peak_memory_mib(),
        MADE_AT: thresholds,
    }
    write_json(folder / SAMPLES_FACTS, facts)
    shutil.rmtree(folder / "shards", ignore_errors=True)


def write_samples(images: NDArray[np.uint8], path: Path) -> None:
    """Write images as a ``.npy`` file, atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, images)


def read_samples(path: Path) -> NDArray[np.uint8]:
    """The images of a ``samples.npy``: uint8 ``[n, C, H, W]``, C 1 or 3.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected samples as a .npy file")
    try:
        images = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a complete .npy file ({error})") from error
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"{path}: expected uint8 images [n, channels, height, width]")
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{path}: {images.shape[1]} channels, expected 1 or 3")
    return images


# Energy.


def is_metered(folder: Path, images: int, thresholds: Thresholds | str | None = None) -> bool:
    """Whether the operations in ``folder`` were counted over ``images`` images.

    A count of before memory accesses were counted does not hold: it is made again.

    Args:
        thresholds: what they must have been counted at; None where nothing else can be there.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / ENERGY
    if not path.is_file():
        return False
    stored = read_json(path, ("images", "per_image"))
    counted = stored["images"] == images and "traffic" in stored["per_image"]
    return counted and made_at(stored, thresholds)


def meter_energy(
    system: Callable[[], System],
    folder: Path,
    machine: Machine,
    *,
    images: int,
    seed: int,
    sampling: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Count the operations of really drawing the first ``images`` images, in ``energy.json``.

    Raises:
        ValueError: a layer reads what it does not declare, or a product is undeclared.
    """
    thresholds = _thresholds(sampling)
    if is_metered(folder, images, thresholds):
        return read_json(folder / ENERGY, ENERGY_KEYS)
    facts = count_operations(system(), machine, seed, sampling, images=images)
    facts[MADE_AT] = thresholds
    write_json(folder / ENERGY, facts)
    return facts


def count_operations(
    system: System,
    machine: Machine,
    seed: int,
    sampling: Mapping[str, Any] | None,
    *,
    images: int,
) -> dict[str, Any]:
    """What drawing the first ``images`` images of ``seed`` executes, JSON-ready."""
    begun = time.monotonic()
    with Meter(system.generator) as meter:
        # The network as it is: a prepared one runs other operators than it stands for.
        plain = None if sampling is None else {**sampling, "engine": "plain"}
        system.sample(image_seeds(seed, 0, images), plain)
    counts = meter.counts(images=images)
    return {
        "images": images,
        "per_image": asdict(counts),
        "per_evaluation": asdict(counts.per_evaluation()),
        "firing_rate": meter.firing_rate,
        "firing_rates": meter.firing_rates,
        "params_millions": count_parameters(system.generator) / 1e6,
        "seconds": time.monotonic() - begun,
        "peak_memory_mib": machine.peak_memory_mib(),
    }


# Score.


def score_images(
    images: torch.Tensor,
    references: Images,
    extractor: Extractor,
    machine: Machine,
) -> dict[str, Any]:
    """Metrics of uint8 ``images`` against ``references``, and what they were made from.

    The references' statistics are kept in the user's cache folder.

    Raises:
        ValueError: images of another shape than the references', or too few of either.
    """
    begun = time.monotonic()
    cache = cache_folder() / "references"
    result = score(images, references, extractor=extractor, cache_dir=cache, device=machine.device)
    facts = {name: value for name, value in result.items() if not is_column(name)}
    metrics = {name: value for name, value in result.items() if is_column(name)}
    return {**facts, "metrics": metrics, "seconds": time.monotonic() - begun}


# Files.


def _bar(
    task: str, total: int, shown: bool
) -> tuple[AbstractContextManager[Any], Callable[[int], None]]:
    """A progress bar on standard error, and what moves it."""
    if not shown:
        return nullcontext(), lambda count: None
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} images"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    number = bar.add_task(task, total=total)
    return bar, lambda count: bar.advance(number, count)
