"""The ``convert`` command's work: from a parent's checkpoint to one of each number of spiking
time steps, and what the conversion costs. What is done in the folder is not redone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import files
from bench.checkpoints import Checkpoint
from bench.convert.parents import Parent, open_parent
from bench.convert.plots import plot_costs, plot_layers
from bench.convert.quality import (
    EVALUATION,
    Conditions,
    Evaluator,
    read_sampler,
    remember,
    remembered,
)
from bench.convert.request import Request, Times, check_folder, claim_folder, label
from bench.convert.tables import (
    Cost,
    cost_from,
    headings,
    layers_csv,
    rows,
    rows_csv,
    sentence,
    to_markdown,
)
from bench.data.pictures import Images
from bench.energy.meter import Meter
from bench.energy.prices import TABLES, published_mj, strict_mj
from bench.files import read_json, write_json
from bench.machine import Machine
from bench.plan.cells import digest
from bench.quality.extractors import choose_extractor
from bench.registry import choose, load_hook
from sddpm.checkpoint import atomic_write, save_checkpoint
from sddpm.progress import progress_bar
from sddpm.protocol import System, to_float

TABLE, LAYERS, REPORT, PLOT = "conversion.csv", "layers.csv", "conversion.md", "conversion.png"
ROW, SCORED = "comparison.json", "evaluation"
METERED_IMAGES = 8
"""Evaluations whose operations are counted: one of each diffusion step of the held-out images."""


@dataclass(frozen=True)
class Outcome:
    """What there is to show."""

    headings: list[str]
    rows: list[list[str]]
    layer_headings: list[str]
    layer_rows: list[list[str]]
    """Of the last child."""
    sentence: str
    files: list[Path]


def run_convert(request: Request, say: Callable[[str], None]) -> Outcome:
    """Convert, compare, count, evaluate if asked to, write.

    Raises:
        ValueError: a parent that cannot be rate-coded, or a folder of something else.
        FileNotFoundError: no checkpoint, or no images to calibrate on.
    """
    choose("energy table", request.energy_table, TABLES)
    sampling = read_sampler(request.sampler, request.engine)
    check_folder(request)
    files.check_folder("--out", request.out)
    machine = Machine(request.device)
    name, converter = load_hook("convert")
    parent = open_parent(request, machine)
    calibration = _images(request, parent, "train", request.calibration_images)
    test = _images(request, parent, "test", request.held_out)
    try:
        conversion = converter.prepare(
            parent.system, _float(calibration, machine), reference=parent.reference,
            method=request.method, signed=request.signed, percentile=request.percentile,
            seed=request.seed, readout=request.readout, finetune=request.finetune,
            finetune_steps=request.finetune_steps, finetune_rate=request.finetune_rate,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"--ann {request.ann}: {error}") from error
    held_out = conversion.held_out(_float(test, machine))
    if len(test) < request.held_out:
        say(f"held-out images: {len(test)}, all there are")
    evaluator = None
    if request.evaluate:
        evaluator = _evaluator(request, parent, machine, sampling, say)
    claim_folder(request)

    reference, *_ = _convert(request, name, parent, conversion, held_out, machine)
    costs = [reference, *_children(request.out)]
    conditions = evaluator.conditions if evaluator else remembered(request.out)
    if conditions is not None:
        costs = _evaluate(request, costs, parent, conditions, evaluator, machine, say)
    elif (request.out / EVALUATION).is_file():
        say("quality: how it was measured before is not known; --evaluate shows it again")
    return _write(request, parent, costs, conditions, conversion.layer_headings)


def _convert(
    request: Request, name: str, parent: Parent, conversion: Any, held_out: Any, machine: Machine
) -> list[Cost]:
    """The parent's row and one of each child of ``request``; children that are there are read."""

    def metered(system: System) -> tuple[float, float]:
        with Meter(system.generator) as meter:
            for x, _, t in list(held_out.batches(1))[:METERED_IMAGES]:
                system.generator(x, t)
        counts = meter.counts(images=meter.evaluations, batches=meter.evaluations)
        table = TABLES[request.energy_table]
        return published_mj(counts, table), strict_mj(counts, table)

    def make(times: Times, advance: Callable[[int], None]) -> Cost:
        child = conversion.at(times, on_step=lambda loss: advance(1))
        found = conversion.compare(child, held_out, advance)
        cost = Cost(
            found.time_steps, found.relative_error, found.child_loss, found.loss_ratio,
            found.firing_rate, *metered(child),
            schedule=() if isinstance(times, int) else times,
            layers=conversion.layers(found),
        )  # fmt: skip
        _save(request.out / label(times), name, child, parent.checkpoint.facts, request, cost)
        return cost

    # In evaluations of one spiking step: an image costs T, and one of the parent; a step of
    # fine-tuning counts as one image.
    units = len(held_out.t) + conversion.finetune_total
    weights = [1 + (t if isinstance(t, int) else sum(t) // len(t)) for t in request.children]
    costs: list[Cost] = []
    with progress_bar("convert", units * sum(weights)) as bar:
        done = 0
        for times, weight in zip(request.children, weights, strict=True):
            bar.update(task=f"convert {label(times)}")
            row = request.out / label(times) / ROW

            def advance(count: int, each: int = weight) -> None:
                bar.advance(count * each)

            known = row.is_file()
            costs.append(cost_from(read_json(row)) if known else make(times, advance))
            done += units * weight
            bar.update(done=done)
    return [_parent_row(request.out / ROW, parent, costs[0], metered), *costs]


def _parent_row(
    path: Path, parent: Parent, child: Cost, metered: Callable[[System], tuple[float, float]]
) -> Cost:
    """The row of what ``child`` was compared with, read from ``path`` or kept there."""
    if path.is_file():
        return cost_from(read_json(path))
    loss = child.denoising_loss / child.loss_ratio
    cost = Cost(None, 0.0, loss, 1.0, None, *metered(parent.reference))
    write_json(path, asdict(cost))
    return cost


def _save(
    folder: Path, name: str, child: Any, parent: Mapping[str, Any], request: Request, cost: Cost
) -> None:
    """A checkpoint that every other command takes, with its row of the table."""
    facts = {
        "system": name,
        "config": json.loads(json.dumps(asdict(child.config))),
        "shape": parent["shape"],
        "dataset": parent["dataset"],
        "dataset_label": parent.get("dataset_label"),
        "parent_hash": parent.get("hash"),
        "conversion": {
            "calibration_images": request.calibration_images,
            "finetune": request.finetune,
            "finetune_steps": request.finetune_steps,
            "seed": request.seed,
            "relative_error": cost.relative_error,
            "loss_ratio": cost.loss_ratio,
        },
    }
    row = asdict(cost)
    del row["quality"]
    facts = {**facts, "hash": digest(facts)}
    save_checkpoint(folder, child, facts, extra={ROW: json.dumps(row, indent=1)})


def _evaluator(
    request: Request, parent: Parent, machine: Machine, sampling: dict[str, Any],
    say: Callable[[str], None],
) -> Evaluator:  # fmt: skip
    extractor = choose_extractor(request.extractor)
    say(f"extractor {extractor.key}: {extractor.reason}")
    evaluator = Evaluator(
        request.out / SCORED, machine,
        _images(request, parent, "train", request.references), extractor, sampling,
        samples=request.samples, energy_images=request.energy_images, batch=request.batch,
        energy_table=request.energy_table, seed=request.seed,
    )  # fmt: skip
    evaluator.check()
    return evaluator


def _children(out: Path) -> list[Cost]:
    """The rows of all children in the folder, which are this conversion's: those of earlier
    commands too. Constant T first, fewest first."""
    costs = [cost_from(read_json(path)) for path in out.glob(f"T*/{ROW}")]
    return sorted(costs, key=lambda cost: (bool(cost.schedule), cost.time_steps, cost.schedule))


def _evaluate(
    request: Request, costs: Sequence[Cost], parent: Parent, conditions: Conditions,
    evaluator: Evaluator | None, machine: Machine, say: Callable[[str], None],
) -> list[Cost]:  # fmt: skip
    """The rows with the quality of what they stand for; without an evaluator, and for children
    of earlier commands, where it is known under ``conditions``."""
    scored = []
    for cost in costs:
        times = cost.times
        name = "parent" if times is None else label(times)
        if evaluator is None or not (times is None or times in request.children):
            quality = conditions.recall(request.out / SCORED, name)
        elif times is None:
            say("samples of the parent")
            quality = evaluator(name, lambda: parent.reference)
        else:
            say(f"samples of {name}")
            quality = evaluator(name, partial(_child, request.out / name, machine))
        scored.append(replace(cost, quality=quality))
    return scored


def _child(folder: Path, machine: Machine) -> System:
    return Checkpoint.read(folder).load(machine)


def _write(
    request: Request, parent: Parent, costs: Sequence[Cost], conditions: Conditions | None,
    layer_headings: list[str],
) -> Outcome:  # fmt: skip
    """Everything but the checkpoints."""
    out, children = request.out, costs[1:]
    homes = [out / label(cost.times) for cost in children if cost.times]
    pictures = [out / f"layers-{home.name}.png" for home in homes]
    plot_costs(costs, out / PLOT)
    for cost, picture in zip(children, pictures, strict=True):
        if cost.times in request.children or not picture.is_file():
            plot_layers(layer_headings, cost, picture)
    scored = [cost for cost in costs if cost.quality]
    remember(out, conditions if scored else None)
    words = [request.method, *["signed spikes"] * request.signed]
    words += ["read through a window"] if request.readout == "window" else []
    facts = _facts(request, parent)
    earlier = [cost.label for cost in children if cost.times not in request.children]
    if earlier:
        facts.append(f"From earlier commands: T={', '.join(earlier)}.")
    if scored and conditions is not None:
        which = "each" if len(scored) == len(costs) else "each that has a figure"
        facts.append(
            f"Quality: {conditions.samples} samples of {which}, {conditions.solver}, "
            f"against {conditions.references:,} training images; mJ/image is of a "
            "finished image."
        )
    texts = {
        TABLE: rows_csv(costs),
        LAYERS: layers_csv(layer_headings, children),
        REPORT: to_markdown(
            ", ".join(words),
            facts,
            request.command,
            costs,
            layer_headings,
            (PLOT, pictures[-1].name),
        ),
    }
    for file, text in texts.items():
        with atomic_write(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return Outcome(
        headings=headings(costs),
        rows=rows(costs),
        layer_headings=layer_headings,
        layer_rows=[list(row) for row in costs[-1].layers],
        sentence=sentence(costs[0], children),
        files=[*homes, *(out / file for file in texts), out / PLOT, *pictures],
    )


def _facts(request: Request, parent: Parent) -> list[str]:
    """How the figures were made, as lines."""
    facts = parent.checkpoint.facts
    data = facts.get("dataset_label") or facts["dataset"]
    tuned = f"{request.finetune_steps:,} steps of fine-tuning"
    if request.finetune_steps and request.finetune == "blocks":
        tuned += " of each block"
    elif request.finetune_steps:
        tuned += ", end to end"
    return [
        f"Parent: {facts['system']} on {data}, {str(facts.get('hash'))[:8]}.",
        *parent.notes,
        f"Calibrated on {request.calibration_images} training images, compared on "
        f"{request.held_out} held-out ones; {tuned}.",
    ]


def _images(request: Request, parent: Parent, split: str, limit: int) -> Images:
    try:
        return parent.checkpoint.images(split, request.data_root, limit)
    except (FileNotFoundError, ValueError) as error:
        needs = "thresholds are measured and compared on images"
        raise type(error)(f"--data-root: {needs}: {error}") from error


def _float(images: Images, machine: Machine) -> Any:
    return to_float(images.__getitems__(range(len(images)))).to(machine.device)
