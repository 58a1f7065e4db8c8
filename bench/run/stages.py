"""The stages train, sample, energy and score; each reads files and writes files.

Each stage first looks for its own result, so a second call does no work. It writes the result
completely or not at all, so a killed run continues where it stopped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.checkpoints import Checkpoint, claim, describe
from bench.data.pictures import Images
from bench.data.points import Points
from bench.energy.meter import Meter
from bench.files import read_json, write_json
from bench.machine import Machine
from bench.plan.cells import Training, make_config
from bench.quality.metrics import is_column
from bench.quality.registry import Extractor
from bench.registry import load_module
from bench.run.kinds import Figures, kind_of, no_figures
from bench.run.samples import read_shard, read_shards, shard_path, write_shard
from bench.run.settled import DrawnAt, drawn_at
from bench.run.states import (
    ENERGY,
    ENERGY_KEYS,
    MADE_AT,
    SAMPLES,
    SAMPLES_FACTS,
    SHARDS,
    is_metered,
    is_sampled,
    is_trained,
    scores_path,
)
from sddpm.checkpoint import count_parameters
from sddpm.progress import progress_bar
from sddpm.protocol import Shape, System
from sddpm.rng import image_seeds
from sddpm.training import ImageSource, TrainConfig, fit

# Train.


def train(
    training: Training,
    folder: Path,
    images: Callable[[], ImageSource],
    machine: Machine,
    *,
    parent: Path | None = None,
    progress: bool = True,
    checkpoint_seconds: float = TrainConfig.checkpoint_seconds,
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
    built_from = Checkpoint.read(parent).load(machine) if parent else None
    torch.manual_seed(training.seed)
    module = load_module(training.system)
    system = module.build(
        make_config(training.system, training.config), training.data.shape, built_from
    )
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


# Sample.


def sample(
    system: Callable[[], System],
    folder: Path,
    machine: Machine,
    *,
    shape: Shape,
    count: int,
    seed: int,
    sampling: Mapping[str, Any] | None,
    batch: int,
    progress: bool = True,
) -> dict[str, Any]:
    """Draw ``count`` images into ``folder/samples.npy`` (uint8 ``[count, C, H, W]``), or points
    (float64 ``[count, coordinates]``).

    They are drawn ``batch`` at a time, each batch kept in ``folder/shards`` until all are
    there. Processes share the batches. What is damaged, or was drawn at other thresholds or another
    gain than those of ``sampling``, is drawn again.

    Args:
        system: gives the system; not called where the samples are there.

    Returns:
        The content of ``samples.json``: samples, seconds, peak memory.
    """
    at = drawn_at(sampling)
    if is_sampled(folder, at):
        if machine.first:  # a run may have been killed after it joined the batches
            shutil.rmtree(folder / SHARDS, ignore_errors=True)
        return read_json(folder / SAMPLES_FACTS)
    starts = range(0, count, batch)
    shards = [shard_path(folder, start, min(start + batch, count)) for start in starts]
    mine = list(zip(starts, shards, strict=True))[machine.rank :: machine.world]
    missing = [(start, path) for start, path in mine if read_shard(path, at) is None]
    if missing:
        model = system()
        sizes = {path: min(batch, count - start) for start, path in mine}
        # The bar shows this process's share.
        total = sum(sizes.values())
        done = total - sum(sizes[path] for _, path in missing)
        shown = progress and machine.first
        noun = kind_of(shape).noun
        with progress_bar("sample", total, noun, done=done, shown=shown) as bar:
            for start, path in missing:
                begun = time.monotonic()
                seeds = image_seeds(seed, start, min(start + batch, count))
                drawn = shape.finished(model.sample(seeds, sampling)).numpy()
                seconds = time.monotonic() - begun
                write_shard(path, drawn, seconds, at)
                bar.advance(sizes[path])
    machine.barrier()
    if machine.first:
        _join(shards, folder, shape, machine, at)
    machine.barrier()
    return read_json(folder / SAMPLES_FACTS)


def _join(
    shards: list[Path],
    folder: Path,
    shape: Shape,
    machine: Machine,
    at: DrawnAt,
) -> None:
    images, seconds = read_shards(shards, at)
    # Of other samples that were here, nothing may pass for these samples'.
    for stale in (folder / SAMPLES_FACTS, *folder.glob("scores-*.json")):
        stale.unlink(missing_ok=True)
    kind = kind_of(shape)
    kind.write(images, folder / SAMPLES)
    kind.show(images, shape, folder / kind.picture)
    # Processes sample side by side, so their seconds overlap.
    facts = {
        "samples": len(images),
        "seconds": seconds / machine.world,
        "peak_memory_mib": machine.peak_memory_mib(),
        MADE_AT: at,
    }
    write_json(folder / SAMPLES_FACTS, facts)
    shutil.rmtree(folder / SHARDS, ignore_errors=True)


# Energy.


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
    at = drawn_at(sampling)
    if is_metered(folder, images, at):
        return read_json(folder / ENERGY, ENERGY_KEYS)
    facts = count_operations(system(), machine, seed, sampling, images=images)
    facts[MADE_AT] = at
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
    """Operations of drawing the first ``images`` images of ``seed``, JSON-ready."""
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


def score_samples(
    folder: Path,
    asked: Mapping[str, Any],
    references: Images | Points,
    extractor: Extractor,
    machine: Machine,
    figures: Figures = no_figures,
) -> dict[str, Any]:
    """Score the samples in ``folder`` again, into the file that :func:`known_scores` reads.

    Args:
        asked: how many references of which split were asked for.
        figures: gives the figures that only the system can tell.

    Raises:
        ValueError: as :func:`score_images`.
    """
    samples = torch.from_numpy(kind_of(references.shape).read(folder / SAMPLES))
    scores = {"asked": asked, **score_images(samples, references, extractor, machine, figures)}
    write_json(scores_path(folder, extractor.key), scores)
    return scores


def score_images(
    images: torch.Tensor,
    references: Images | Points,
    extractor: Extractor,
    machine: Machine,
    figures: Figures = no_figures,
) -> dict[str, Any]:
    """Metrics of uint8 ``images``, or of float64 points, against ``references``, and the settings
    that made them.

    The statistics of references that are images are kept in the user's cache folder.

    Raises:
        ValueError: samples of another shape than the references', or too few of either.
    """
    begun = time.monotonic()
    result = kind_of(references.shape).score(images, references, extractor, machine, figures)
    facts = {name: value for name, value in result.items() if not is_column(name)}
    metrics = {name: value for name, value in result.items() if is_column(name)}
    return {**facts, "metrics": metrics, "seconds": time.monotonic() - begun}
