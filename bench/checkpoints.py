"""Checkpoints as the harness uses them: what they say of themselves, and opening one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data.datasets import load
from bench.data.pictures import Images
from bench.files import read_json, write_json
from bench.machine import Machine
from bench.plan.cells import Training, make_config
from bench.plan.sampling import choose_sampling
from bench.registry import SYSTEMS, choose, find, load_module
from bench.run.settled import HELD_OUT_IMAGES, guidance_files, settle
from sddpm.checkpoint import load_generator, read_config
from sddpm.guidance import Thresholds, read_guidance
from sddpm.protocol import ImageShape, System


def describe(training: Training) -> dict[str, Any]:
    """What a checkpoint's ``config.json`` says, so that it can be used by itself."""
    return {
        "system": training.system,
        "config": dict(training.config),
        "shape": {"channels": training.data.channels, "size": training.data.image_size},
        "dataset": training.data.dataset,
        "dataset_label": training.data.label,
        "hash": training.hash,
        "parent_hash": training.parent.hash if training.parent else None,
    }


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint folder, checked to hold what :func:`describe` wrote.

    Raises:
        FileNotFoundError: no checkpoint is there.
        ValueError: it is damaged, or was not written by this harness.
    """
    facts = read_config(checkpoint)
    wanted = ("system", "config", "shape", "dataset")
    lacking = [key for key in wanted if key not in facts]
    if lacking:
        raise ValueError(f"{checkpoint}: its config.json does not say {', '.join(lacking)}")
    shape = facts["shape"]
    if not isinstance(shape, dict) or set(shape) != {"channels", "size"}:
        raise ValueError(f"{checkpoint}: config.json: shape {shape!r}: expected channels and size")
    choose(f"system in {checkpoint}:", str(facts["system"]), SYSTEMS)
    return facts


def load_system(
    checkpoint: Path, machine: Machine, config: Mapping[str, Any] | None = None
) -> System:
    """The system of a checkpoint folder, ready to sample.

    Args:
        config: fields of the system's Config that differ from the checkpoint's.

    Raises:
        FileNotFoundError: no checkpoint is there.
        ValueError: it is damaged, or was not written by this harness.
    """
    facts = read_facts(checkpoint)
    name = facts["system"]
    built = make_config(name, {**facts["config"], **(config or {})})
    system: System = load_module(name).build(built, ImageShape(**facts["shape"]))
    load_generator(system, checkpoint)
    return system.to(machine.device).eval()


def train_seconds(checkpoint: Path) -> float:
    """How long a run trained the checkpoint.

    Raises:
        FileNotFoundError, ValueError: no checkpoint is there, or it does not say.
    """
    trainer = read_config(checkpoint).get("trainer")
    seconds = trainer.get("seconds") if isinstance(trainer, dict) else None
    if not isinstance(seconds, int | float):
        raise ValueError(
            f"{checkpoint}: its config.json does not say trainer.seconds; delete the folder to "
            "train it again"
        )
    return float(seconds)


@dataclass(frozen=True)
class How:
    """How a command was asked to draw images; None is what :func:`open_checkpoint` says."""

    sampler: str | None = None
    """``NAME[:STEPS[:ETA]]``."""
    time_steps: int | None = None
    """Spiking time steps, where not the checkpoint's."""
    threshold: float | None = None
    """Firing threshold of every neuron."""
    engine: str | None = None
    """plain, exact or fast."""
    data_root: str | Path | None = None
    """Where the data set is, for samplers that need statistics."""


def open_checkpoint(
    checkpoint: Path, machine: Machine, how: How, say: Callable[[str], None] = lambda line: None
) -> tuple[System, dict[str, Any] | None]:
    """A system and the sampling options to call it with, from what a command was given.

    The threshold is by default the checkpoint's guided one, else the trained one. Statistics
    that a sampler needs are measured once and kept with the checkpoint.

    Args:
        say: receives a line about each choice that the user did not make.

    Raises:
        ValueError: options that the system does not have.
        FileNotFoundError: a sampler needs statistics and the data is not there.
    """
    facts = read_facts(checkpoint)
    name = facts["system"]
    entry = find(name)
    if how.time_steps is not None and entry.time_axis == "none":
        raise ValueError(f"--time-steps {how.time_steps}: {name} has no spiking time")
    if how.threshold is not None and not entry.guidable:
        raise ValueError(f"--threshold {how.threshold:g}: {name} has no threshold to move")
    for option, value in (("--sampler", how.sampler), ("--engine", how.engine)):
        if value is not None and not entry.samplers:
            raise ValueError(
                f"{option} {value}: {name} does not denoise, so it has no {option[2:]}"
            )
    override = {} if how.time_steps is None else {"time_steps": how.time_steps}
    system = load_system(checkpoint, machine, override)
    if not entry.samplers:
        return system, None
    choice = choose_sampling(how.sampler)
    options = choice.model_dump() | {"threshold": how.threshold, "engine": how.engine or "exact"}
    time_steps = {**facts["config"], **override}.get("time_steps")
    if how.threshold is None and (files := guidance_files(checkpoint)):
        path = files.get(time_steps)
        guided = read_guidance(path.parent) if path else None
        if guided is not None:
            options["threshold"] = guided
            say(f"threshold: {describe_thresholds(guided)}, guided ({path})")
        else:
            chosen_at = ", ".join(map(str, files))
            say(f"threshold: as trained; the guided one was chosen at {chosen_at} time steps")

    def held_out() -> Images:
        try:
            return load_images(checkpoint, "test", how.data_root, HELD_OUT_IMAGES)
        except (FileNotFoundError, ValueError) as error:
            needs = f"sampler {choice.sampler} needs statistics that are measured on images"
            raise type(error)(f"--data-root: {needs}: {error}") from error

    settled = settle(options, lambda: system, checkpoint, held_out, say, time_steps=time_steps)
    return system, settled


def describe_thresholds(thresholds: Thresholds) -> str:
    """A threshold for people; where each layer has its own, their range."""
    if not isinstance(thresholds, Mapping):
        return f"{thresholds:.6g}"
    values = sorted(thresholds.values())
    return f"{values[0]:.4g} to {values[-1]:.4g} (one a layer)"


def load_images(
    checkpoint: Path, split: str, data_root: str | Path | None, limit: int | None = None
) -> Images:
    """A split of the data set that a checkpoint was trained on, at its image size.

    Raises:
        ValueError: the checkpoint does not say which.
        FileNotFoundError: the data is not there.
    """
    facts = read_facts(checkpoint)
    if facts["dataset"] is None:
        raise ValueError(
            f"{checkpoint}: its config.json names no data set; import it with --dataset NAME"
        )
    size = facts["shape"]["size"]
    return load(facts["dataset"], split, image_size=size, data_root=data_root, limit=limit)


def claim(folder: Path, training: Training) -> None:
    """Mark ``folder`` as ``training``'s, so that another one is not taken for it.

    Raises:
        ValueError: it is another training's, or what says whose it is is damaged.
    """
    path = folder / "training.json"
    if path.is_file():
        if read_json(path, ("hash",))["hash"] != training.hash:
            raise ValueError(f"--out {folder}: holds a training with other settings")
        return
    facts = {**describe(training), "steps": training.steps, "seed": training.seed}
    write_json(path, facts)
