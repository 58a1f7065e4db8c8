"""Checkpoints as the harness uses them: what they say of themselves, and opening one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.cells import Training, make_config, parse_sampler
from bench.machine import Machine
from bench.registry import SYSTEMS, choose, find, load_module
from bench.suite import SamplingChoice
from sddpm.checkpoint import atomic_write, load_generator, read_config
from sddpm.protocol import ImageShape, System

DEFAULT_SAMPLER = "ddim:50:1"
DEFAULT_STEPS = 50


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


def open_checkpoint(
    checkpoint: Path, machine: Machine, sampler: str | None, time_steps: int | None
) -> tuple[System, dict[str, Any] | None]:
    """A system and the sampling options to call it with, from what a command was given.

    Raises:
        ValueError: options that the system does not have.
    """
    name = read_facts(checkpoint)["system"]
    entry = find(name)
    if time_steps is not None and entry.time_axis == "none":
        raise ValueError(f"--time-steps {time_steps}: {name} has no spiking time")
    if sampler is not None and not entry.samplers:
        raise ValueError(f"--sampler {sampler}: {name} does not denoise, so no sampler applies")
    sampling = None
    if entry.samplers:
        choice = parse_sampler(sampler or DEFAULT_SAMPLER)
        if isinstance(choice, str):
            choice = SamplingChoice(sampler=choice, steps=DEFAULT_STEPS, eta=0.0)
        sampling = choice.model_dump()
    override = {} if time_steps is None else {"time_steps": time_steps}
    return load_system(checkpoint, machine, override), sampling


def claim(folder: Path, training: Training) -> None:
    """Mark ``folder`` as ``training``'s, so that another one is not taken for it.

    Raises:
        ValueError: it is another training's.
    """
    path = folder / "training.json"
    if path.is_file():
        owner = json.loads(path.read_text(encoding="utf-8")).get("hash")
        if owner != training.hash:
            raise ValueError(f"--out {folder}: holds a training with other settings")
        return
    facts = {**describe(training), "steps": training.steps, "seed": training.seed}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
