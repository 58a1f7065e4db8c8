"""Networks that ``convert`` converts: a checkpoint, a checkpoint whose clips it trains first, or a
twin that it trains on another network's predictions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.checkpoints import Checkpoint, is_foreign
from bench.convert.request import ConvertRequest, claim_folder
from bench.data.datasets import load
from bench.data.pictures import Images
from bench.machine import Machine
from bench.plan.cells import digest, make_config, resolve_config
from bench.registry import load_hook, load_module
from sddpm.precision import fast_precision
from sddpm.protocol import ImageShape, System, to_float
from sddpm.training import TrainConfig, fit, precision_of

BATCH = 32
"""Images of a training step."""


@dataclass(frozen=True)
class Parent:
    """The network that is converted, and its origin."""

    system: System
    reference: System
    """Network that children are compared with: the network of --ann, or its twin."""
    checkpoint: Checkpoint
    """Checkpoint of the reference."""
    notes: list[str]
    """Lines for the report."""


def open_parent(request: ConvertRequest, machine: Machine) -> Parent:
    """The network to convert; it is trained first if the method or ``--distill`` requires it.

    Raises:
        ValueError: it cannot be converted, and why; --distill without images to learn on.
        FileNotFoundError: no network or no images are there.
    """
    ann, notes = request.ann, []
    if request.distill is not None:
        if request.dataset is None:
            raise ValueError("--distill: name the images to learn on with --dataset NAME")
        teacher = Checkpoint.find(ann).load(machine)
        ann = distil(teacher, request.distill, request, machine)
        notes.append(_distance(teacher, ann, request, machine))
    elif is_foreign(ann):
        raise ValueError(
            f"--ann {ann}: is a diffusers network; its GroupNorm divides by a deviation that every "
            "spiking step would measure anew, its SiLU is no clipped rectifier and attention "
            "multiplies activations by each other, so it cannot be rate-coded exactly: --distill "
            "PRESET --dataset NAME trains a ReLU twin on its predictions and converts that"
        )
    checkpoint = Checkpoint.read(ann)
    system = reference = checkpoint.load(machine)
    _, converter = load_hook("convert")
    try:
        training = converter.needs_clips(system, request.method)
    except ValueError as error:
        raise ValueError(f"--ann {request.ann}: {error}") from error
    if training:
        clipped = train_clips(checkpoint, reference, request, machine)
        system = Checkpoint.read(clipped).load(machine)
        notes.append(
            f"Clips and weights were trained first, for {request.clip_steps:,} steps of {BATCH} "
            f"images, for {request.levels} spiking time steps."
        )
    return Parent(system, reference, checkpoint, notes)


def distil(teacher: System, preset: str, request: ConvertRequest, machine: Machine) -> Path:
    """Train a ReLU twin on the predictions of ``teacher`` under ``--out``, or go on with it.

    Args:
        preset: of the twin's widths and step sizes.

    Returns:
        The twin's checkpoint.

    Raises:
        ValueError: an unknown preset or data set, images of another shape than the teacher's.
    """
    name, module = load_hook("twin")
    shape: ImageShape | None = getattr(teacher, "shape", None)
    diffusion: Any = getattr(teacher, "diffusion", None)
    if shape is None or diffusion is None:
        raise ValueError("--distill: the network of --ann predicts no noise to learn from")
    steps_of_noise = diffusion.config.diffusion_steps
    presets = module.PRESETS
    if preset not in presets:
        raise ValueError(f"--distill {preset}: choose one of {', '.join(presets)}")
    overrides = {"diffusion_steps": steps_of_noise}
    config = resolve_config(name, preset, overrides, lambda field: f"--distill {preset}: {field}")
    dataset = str(request.dataset)
    images = load(dataset, "train", image_size=shape.size, data_root=request.data_root)
    if images.shape != shape:
        raise ValueError(
            f"--dataset {dataset}: has {images.shape.channels} channels, the teacher "
            f"{shape.channels}"
        )
    facts = {
        "system": name,
        "config": config,
        "shape": asdict(shape),
        "dataset": dataset,
        "dataset_label": images.label,
        "parent_hash": None,
    }
    return _train(teacher, facts, images, "twin", request.distill_steps, request, machine)


def train_clips(ann: Checkpoint, parent: System, request: ConvertRequest, machine: Machine) -> Path:
    """Train clips and weights of the ReLU twin ``parent`` under ``--out``, or go on with it.

    Args:
        ann: the checkpoint of ``parent``.

    Returns:
        The trained network's checkpoint.
    """
    name, module = load_hook("clips")
    # A window reads about four times as finely as the plain mean of as many steps.
    finer = 4 if request.readout == "window" else 1
    config = module.config_for(parent, levels=finer * request.levels, start_levels=request.levels)
    facts = {
        "system": name,
        "config": json.loads(json.dumps(asdict(config))),
        **{key: ann.facts.get(key) for key in ("shape", "dataset", "dataset_label")},
        "parent_hash": ann.facts.get("hash"),
    }
    images = ann.images("train", request.data_root)
    return _train(parent, facts, images, "clipped", request.clip_steps, request, machine)


def _distance(teacher: System, twin: Path, request: ConvertRequest, machine: Machine) -> str:
    """Distance of a twin's predictions from its teacher's on held-out images, as a sentence."""
    checkpoint = Checkpoint.read(twin)
    system = checkpoint.load(machine)
    images = checkpoint.images("test", request.data_root, request.held_out)
    clean = to_float(images.__getitems__(range(len(images)))).to(machine.device)
    _, converter = load_hook("convert")
    error = converter.prediction_error(teacher, system, clean, request.seed)
    return (
        f"The parent is a ReLU twin of {request.ann.name}, trained for {request.distill_steps:,} "
        f"steps of {BATCH} images on its predictions, from which its own differ by "
        f"{100 * error:.1f} % on {len(images)} held-out images."
    )


def _train(
    parent: System, facts: dict[str, Any], images: Images, home: str, steps: int,
    request: ConvertRequest, machine: Machine,
) -> Path:  # fmt: skip
    torch.manual_seed(request.seed)
    built_from = make_config(facts["system"], facts["config"])
    system: System = load_module(facts["system"]).build(
        built_from, ImageShape(**facts["shape"]), parent
    )
    # Another machine may have begun, whose precision is a part of the training.
    precision = precision_of(request.out / home) or fast_precision()
    config = TrainConfig(
        steps=steps,
        batch_size=BATCH,
        seed=request.seed,
        precision=precision,
        horizontal_flip=images.horizontal_flip,
    )
    facts = {**facts, "hash": digest({**facts, "training": asdict(config)})}
    claim_folder(request)  # from here on there is something to go on with
    return fit(
        system, images, config=config, folder=request.out / home, description=facts,
        fabric=machine.fabric(precision),
    ).checkpoint  # fmt: skip
