"""Estimate of a run on this machine: operations are counted, hours follow from a short measurement.

Each network that the run would train or sample with takes a few training steps and a few
evaluations on random pictures, within some seconds; the rest is multiplication. What stands in
the run's folder already costs nothing. Nothing is written there.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.checkpoints import Checkpoint
from bench.files import read_json
from bench.machine import Machine
from bench.plan.cells import Cell, Data, Training, make_config
from bench.plan.plan import Plan
from bench.registry import find, load_module
from bench.run import stages
from bench.run.states import ENERGY, is_trained, samples_left, stage_states, steps_left
from sddpm.progress import progress_bar
from sddpm.protocol import System
from sddpm.rng import image_seeds
from sddpm.training import TrainStep, set_up

SECONDS = 3.0
"""Aim of each of the measurements of one network: training, evaluation."""
BACKWARD = 2
"""A training step's backward pass, in forward passes."""
LEAST_IMAGES, GROWTH, REPEATS = 2, 4, 5
"""Size of the first timed batch, factor to the next, and number of timings of a full batch."""


@dataclass(frozen=True)
class Speed:
    """Measured times of one network; seconds are of one image."""

    train_seconds: float
    """Seconds of one image in one training step."""
    evaluation_seconds: float
    """Seconds of one image in one network evaluation of the sampler."""
    metered_seconds: float
    """The same with every operation counted."""
    evaluations: int
    """Network evaluations a finished image takes."""
    macs: float
    """Multiply-accumulates of one evaluation of one image."""
    acs: float
    """Accumulates of the same, of a network that is hardly trained if it was not there."""
    dense_macs: float
    """Dense MACs, if no spike were skipped: the work of a processor without event-driven
    hardware."""


@dataclass(frozen=True)
class CellCost:
    """Remaining work of one cell; 0 if it is done, or if another cell counts it."""

    states: Mapping[str, str]
    """States of the stages, from :func:`bench.run.states.stage_states`."""
    macs_per_image: float | None = None
    acs_per_image: float | None = None
    train_macs: float = 0.0
    train_hours: float = 0.0
    sample_macs: float = 0.0
    """Dense, as executed here."""
    sample_hours: float = 0.0
    """Energy's metered images included."""
    reason: str | None = None
    """Reason for missing figures."""


@dataclass(frozen=True)
class Estimate:
    """Remaining work of a run."""

    costs: list[CellCost]
    device: str
    measured_seconds: float
    failed: dict[str, str] = field(default_factory=dict)
    """Cell -> why it could not be measured."""

    @property
    def hours(self) -> float:
        return sum(cost.train_hours + cost.sample_hours for cost in self.costs)

    @property
    def macs(self) -> float:
        return sum(cost.train_macs + cost.sample_macs for cost in self.costs)


def estimate_plan(
    plan: Plan, machine: Machine, *, seconds: float = SECONDS, progress: bool = True
) -> Estimate:
    """Measure the networks of ``plan`` on ``machine`` and compute the remaining work of each cell.

    A training that several cells share is paid by the first of them, its parents included.

    Args:
        seconds: aim of one measurement; a network takes two.
    """
    begun = time.monotonic()
    states = stage_states(plan)
    measured: dict[str, Speed | str] = {}
    paid: set[str] = set()
    costs = []
    with progress_bar("measuring", len(plan.cells), "cells", shown=progress) as bar:
        for cell, state in zip(plan.cells, states, strict=True):
            bar.update(note=cell.label)
            costs.append(_cost(plan, cell, state, machine, seconds, measured, paid))
            bar.advance()
    failed = {cost.states["cell"]: cost.reason for cost in costs if cost.reason}
    return Estimate(costs, machine.name, time.monotonic() - begun, failed)


def _cost(
    plan: Plan,
    cell: Cell,
    state: Mapping[str, str],
    machine: Machine,
    seconds: float,
    measured: dict[str, Speed | str],
    paid: set[str],
) -> CellCost:
    metered = 0 if state["energy"] == "done" else plan.preset.energy_images
    drawn = samples_left(plan, cell)
    if not (metered or drawn or steps_left(plan, cell.training)):
        counted = read_json(plan.cell_folder(cell) / ENERGY)["per_image"]
        return CellCost(state, counted["macs"], counted["acs"])
    speed = _measured(plan, cell.training, cell, machine, seconds, measured)
    if isinstance(speed, str):
        return CellCost(state, reason=speed)
    train_macs = train_hours = 0.0
    for training in _chain(cell.training):
        if training.hash in paid:
            continue
        paid.add(training.hash)
        left = steps_left(plan, training) * training.batch_size
        if not left:
            continue
        own = speed
        if training.hash != cell.training.hash:
            found = _measured(plan, training, None, machine, seconds, measured)
            if isinstance(found, str):
                return CellCost(state, reason=f"{training.name}: {found}")
            own = found
        train_macs += left * own.dense_macs * (1 + BACKWARD)
        train_hours += left * own.train_seconds / 3600
    evaluations = speed.evaluations
    sampled = drawn * speed.evaluation_seconds + metered * speed.metered_seconds
    return CellCost(
        state,
        macs_per_image=speed.macs * evaluations,
        acs_per_image=speed.acs * evaluations,
        train_macs=train_macs,
        train_hours=train_hours,
        sample_macs=(drawn + metered) * evaluations * speed.dense_macs,
        sample_hours=evaluations * sampled / 3600,
    )


def _chain(training: Training) -> list[Training]:
    """A training after its parents."""
    return [*(_chain(training.parent) if training.parent else []), training]


def _measured(
    plan: Plan,
    training: Training,
    cell: Cell | None,
    machine: Machine,
    seconds: float,
    measured: dict[str, Speed | str],
) -> Speed | str:
    """The speed of a cell's network, or of a parent's; or why it cannot be had.

    Cells that differ in seed, sampler's steps or threshold have the same speed.
    """
    sampling = cell.sampling if cell else None
    config = cell.config if cell else training.config
    engine = sampling.get("engine") if sampling else None
    facts = [training.system, dict(training.config), dict(config), training.batch_size,
             training.precision, engine, cell is None, bool(sampling)]  # fmt: skip
    key = json.dumps(facts, sort_keys=True)
    if key not in measured:
        try:
            measured[key] = _measure(plan, training, cell, machine, seconds)
        except (ValueError, KeyError, FileNotFoundError, torch.OutOfMemoryError) as error:
            measured[key] = " ".join(str(error).split())
    known = measured[key]
    if isinstance(known, str) or not sampling:
        return known
    return Speed(**{**vars(known), "evaluations": int(sampling["steps"])})


def _measure(
    plan: Plan, training: Training, cell: Cell | None, machine: Machine, seconds: float
) -> Speed:
    checkpoint = plan.checkpoint(training)
    known = is_trained(plan.training_folder(training))
    config = cell.config if cell else training.config
    system = _initial(training)
    per_train = 0.0 if known else _train_seconds(system, training, machine, seconds)
    if known:
        system = Checkpoint.read(checkpoint).load(machine, config)
    elif dict(config) != dict(training.config):
        trained, system = system, _built(training.system, config, training.data, None)
        system.generator.load_state_dict(trained.generator.state_dict())
    system = system.to(machine.device).eval()
    # The sampler's own arithmetic is small, so one step of the simplest tells its network's cost.
    sampling = None
    if find(training.system).samplers:
        engine = (cell.sampling or {}).get("engine", "exact") if cell else "exact"
        sampling = {"sampler": "ddim", "steps": 1, "eta": 0.0, "engine": engine}
    counted = stages.count_operations(system, machine, 0, sampling, images=1)
    one = counted["per_evaluation"]
    evaluations = counted["per_image"]["evaluations"]

    def draw(images: int) -> None:
        with torch.no_grad():
            system.sample(image_seeds(0, 0, images), sampling).sum().item()

    per_image = seconds_per_image(draw, plan.preset.sample_batch, seconds) if cell else 0.0
    return Speed(
        train_seconds=per_train,
        evaluation_seconds=per_image / evaluations,
        metered_seconds=counted["seconds"] / evaluations,
        evaluations=evaluations,
        macs=one["macs"],
        acs=one["acs"],
        dense_macs=one["macs"] + one["dense_macs_spikes"],
    )


def _initial(training: Training) -> System:
    """The system of ``training`` with initial weights, as its parents' are."""
    parent = _initial(training.parent) if training.parent else None
    torch.manual_seed(training.seed)
    return _built(training.system, training.config, training.data, parent)


def _built(name: str, config: Mapping[str, Any], data: Data, parent: System | None) -> System:
    system: System = load_module(name).build(make_config(name, config), data.shape, parent)
    return system


def _train_seconds(system: System, training: Training, machine: Machine, seconds: float) -> float:
    """Seconds that one image takes in a training step."""
    fabric = machine.fabric(training.precision)
    system.to(fabric.device).train()
    players = set_up(system, fabric)
    number = 0

    def update(images: int) -> None:
        nonlocal number
        pictures = training.data.shape.random(images, fabric.device)
        total = max(1, training.steps)
        labels = torch.zeros(images, dtype=torch.long, device=fabric.device)
        step = TrainStep(
            number % total,
            total,
            fabric,
            players,
            training.seed,
            labels if system.classes else None,
        )
        losses = system.train_step(pictures, step)
        [float(loss) for loss in losses.values()]  # waits for the device
        number += 1

    return seconds_per_image(update, training.batch_size, seconds)


def seconds_per_image(work: Callable[[int], None], most: int, seconds: float) -> float:
    """Seconds an image takes in ``work(images)``, at the largest batch up to ``most`` that can be
    timed in about ``seconds`` (at worst in four times that, or in two calls of the least batch):
    batches grow until they are full or the time is spent.

    The first call of each size is not counted: it may compile, or fill caches.
    """
    images, found = min(LEAST_IMAGES, most), math.nan
    begun = time.monotonic()
    while True:
        times: list[float] = []
        try:
            work(images)
            while not times or (images == most and len(times) < REPEATS):
                start = time.monotonic()
                work(images)
                times.append(time.monotonic() - start)
                if time.monotonic() - begun > seconds:
                    break
        except torch.OutOfMemoryError:
            if math.isnan(found):
                raise
            return found
        found = statistics.median(times) / images
        # The next size takes a first call and a timed one, each at most GROWTH times as long;
        # small batches take nearly as long as larger ones, so that much is allowed for.
        spent = time.monotonic() - begun
        if images == most or spent > seconds or spent + 2 * GROWTH * times[-1] > GROWTH * seconds:
            return found
        images = min(GROWTH * images, most)
