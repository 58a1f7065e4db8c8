"""The ``convert`` command's work: from a parent's checkpoint to one of each number of spiking
time steps, and what the conversion costs. What is done in the folder is not redone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import islice
from math import lcm
from pathlib import Path
from typing import Any

from bench import files
from bench.checkpoints import Checkpoint
from bench.convert.folder import ConversionFolder
from bench.convert.parents import Parent, open_parent
from bench.convert.quality import Evaluator, read_sampler
from bench.convert.request import ConvertRequest, check_folder, claim_folder, folder_name
from bench.convert.tables import headings, rows, sentence
from bench.data.pictures import Images
from bench.energy.accountings import ACCOUNTINGS, price_all
from bench.energy.meter import Meter
from bench.energy.prices import TABLES
from bench.machine import Machine, git_commit, versions
from bench.plan.cells import digest
from bench.quality.extractors import choose_extractor
from bench.records.conversions import Times, times_of
from bench.records.record import ConversionFacts, Record
from bench.registry import choose, find, load_hook
from sddpm.checkpoint import save_checkpoint
from sddpm.progress import progress_bar
from sddpm.protocol import System, to_float

SAMPLED = "cells"
DIFFUSION_STEPS = 8
"""Diffusion steps of the held-out images, of which one evaluation each is metered; more where the
parts of a schedule would share these unevenly."""
PRECISION = "32-true"
"""Children are calibrated and fine-tuned in it."""


@dataclass(frozen=True)
class ConversionSummary:
    """Results of a conversion for the terminal."""

    headings: list[str]
    rows: list[list[str]]
    layer_headings: list[str]
    layer_rows: list[list[str]]
    """Rows of the layer table of the last child."""
    sentence: str
    files: list[Path]


def run_convert(request: ConvertRequest, say: Callable[[str], None]) -> ConversionSummary:
    """Convert, compare, count, evaluate if asked to, write.

    Raises:
        ValueError: a parent that cannot be rate-coded, or a folder of something else.
        FileNotFoundError: no checkpoint, or no images to calibrate on.
    """
    choose("energy table", request.energy_table, TABLES)
    sampling = read_sampler(request.sampler, request.engine)
    files.check_folder("--out", request.out)
    check_folder(request)
    machine = Machine(request.device)
    name, module = load_hook("convert")
    parent = open_parent(request, machine)
    calibration = _images(request, parent, "train", request.calibration_images)
    for note in calibration.notes:
        say(note)
    test = _images(request, parent, "test", request.held_out)
    try:
        converter = module.prepare(
            parent.system, _float(calibration, machine), reference=parent.reference,
            method=request.method, signed=request.signed, percentile=request.percentile,
            seed=request.seed, readout=request.readout, finetune=request.finetune,
            finetune_steps=request.finetune_steps, finetune_rate=request.finetune_rate,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"--ann {request.ann}: {error}") from error
    parts = [len(times) for times in request.children if not isinstance(times, int)]
    held_out = converter.held_out(_float(test, machine), lcm(DIFFUSION_STEPS, *parts))
    if len(test) < request.held_out:
        say(f"held-out images: {len(test)}, all there are")
    evaluator = _evaluator(request, parent, machine, sampling, say) if request.evaluate else None
    claim_folder(request)

    folder = ConversionFolder(request.out, converter.layer_headings)
    calibrated = len(calibration)
    ConversionRun(request, name, parent, converter, calibrated, held_out, machine, folder).make()
    if evaluator is not None:
        _evaluate(request, folder, parent, evaluator, machine, say)
    written = folder.write(request.children)
    curve = folder.curve()
    return ConversionSummary(
        headings=headings(curve),
        rows=rows(curve),
        layer_headings=converter.layer_headings,
        layer_rows=folder.layers[curve.children[-1].label],
        sentence=sentence(curve),
        files=written,
    )


@dataclass(frozen=True)
class ConversionRun:
    """The making of the networks that a request names, a checkpoint and a record each."""

    request: ConvertRequest
    name: str
    """Registered name of the system that children are."""
    parent: Parent
    converter: Any
    """Result of the system's ``prepare``."""
    calibrated: int
    """Images that thresholds were measured on."""
    held_out: Any
    """Noised images that networks are compared on."""
    machine: Machine
    folder: ConversionFolder

    def make(self) -> None:
        """Make the missing networks. Existing ones are read, and only the command's name in them
        changes."""
        # In evaluations of one spiking step: an image costs T, and one of the parent; a step of
        # fine-tuning counts as one image.
        units = len(self.held_out.t) + self.converter.finetune_total
        children = self.request.children
        weights = [1 + (t if isinstance(t, int) else sum(t) // len(t)) for t in children]
        made: dict[Times, Record] = {}
        with progress_bar("convert", units * sum(weights)) as bar:
            done = 0
            for times, weight in zip(children, weights, strict=True):
                bar.update(task=f"convert {folder_name(times)}")

                def advance(count: int, each: int = weight) -> None:
                    bar.advance(count * each)

                made[times] = self._known(times) or self._child(times, advance)
                done += units * weight
                bar.update(done=done)
        if self._known(None) is None:
            self.folder.keep(self._parent(made[children[0]]))

    def _known(self, times: Times | None) -> Record | None:
        """The record of a network that is there, as this command's."""
        record = self.folder.find(times)
        if record is not None:
            record = record.model_copy(update={"command": self.request.command})
            self.folder.keep(record)
        return record

    def _child(self, times: Times, advance: Callable[[int], None]) -> Record:
        """Convert at ``times``; its checkpoint, its record and its layers are kept."""
        begun = time.monotonic()
        child = self.converter.at(times, on_step=lambda loss: advance(1))
        found = self.converter.compare(child, self.held_out, advance)
        facts = self._facts(
            relative_error=found.relative_error,
            denoising_loss=found.child_loss,
            loss_ratio=found.loss_ratio,
            firing_rate=found.firing_rate,
            evaluation_mj=self._metered(child),
        )
        config = json.loads(json.dumps(asdict(child.config)))
        found_hash = self._save(self.request.out / folder_name(times), child, config, facts)
        record = Record(
            **self._made_by,
            system=self.name,
            title=find(self.name).title,
            time_steps=found.time_steps,
            config=config,
            config_hash=found_hash,
            training_hash=found_hash,
            train_steps=self.converter.finetune_total,
            batch_size=self.converter.finetune_batch,
            train_images=self.converter.finetune_total * self.converter.finetune_batch,
            precision=PRECISION,
            wall_seconds={"train": time.monotonic() - begun},
            conversion=facts,
        )
        self.folder.keep(record, self.converter.layers(found))
        return record

    def _parent(self, child: Record) -> Record:
        """The record of the network that ``child`` was compared with."""
        about = self.parent.checkpoint.facts
        training, trainer = about.get("training", {}), about.get("trainer", {})
        steps, batch = training.get("steps", 0), training.get("batch_size", 1)
        assert child.conversion is not None
        loss = child.conversion.denoising_loss / child.conversion.loss_ratio
        # A training that no suite planned has no hash of its settings.
        found = about.get("hash") or digest(dict(about))
        return Record(
            **self._made_by,
            system=about["system"],
            title=find(about["system"]).title,
            config=about["config"],
            config_hash=found,
            training_hash=found,
            train_steps=steps,
            batch_size=batch,
            train_images=steps * batch,
            precision=training.get("precision", "unknown"),
            wall_seconds={"train": trainer["seconds"]} if "seconds" in trainer else {},
            conversion=self._facts(
                relative_error=0.0,
                denoising_loss=loss,
                loss_ratio=1.0,
                evaluation_mj=self._metered(self.parent.reference),
                notes=tuple(self.parent.notes),
            ),
        )

    @cached_property
    def _made_by(self) -> dict[str, Any]:
        """Fields that are the same in the record of every network."""
        about, request = self.parent.checkpoint.facts, self.request
        return {
            "suite": "convert",
            "preset": request.method,
            "command": request.command,
            "seed": request.seed,
            "dataset": about.get("dataset_label") or about["dataset"],
            "image_size": about["shape"]["size"],
            "samples": 0,
            "device": self.machine.name,
            "cores": self.machine.cores,
            "versions": versions(),
            "git_commit": git_commit(),
        }

    def _facts(self, **measured: Any) -> ConversionFacts:
        request = self.request
        return ConversionFacts(
            id=digest(request.identity()),
            calibration_images=self.calibrated,
            held_out_images=len(self.held_out.t),
            finetune=request.finetune,
            finetune_steps=request.finetune_steps,
            **measured,
        )

    def _metered(self, system: System) -> dict[str, float]:
        """Millijoules of one network evaluation, by the accountings that are ranked."""
        with Meter(system.generator) as meter:
            for x, _, t in islice(self.held_out.batches(1), len(self.held_out.t.unique())):
                system.generator(x, t)
        counts = meter.counts(images=meter.evaluations, batches=meter.evaluations)
        priced = price_all(counts, TABLES[self.request.energy_table])
        return {key: mj for key, mj in priced.items() if ACCOUNTINGS[key].ranked}

    def _save(self, path: Path, child: Any, config: dict[str, Any], facts: ConversionFacts) -> str:
        """Write a checkpoint that every other command takes.

        Returns:
            Its hash.
        """
        parent = self.parent.checkpoint.facts
        about = {
            "system": self.name,
            "config": config,
            "shape": parent["shape"],
            "dataset": parent["dataset"],
            "dataset_label": parent.get("dataset_label"),
            "parent_hash": parent.get("hash"),
            "conversion": {
                "calibration_images": facts.calibration_images,
                "finetune": facts.finetune,
                "finetune_steps": facts.finetune_steps,
                "seed": self.request.seed,
                "relative_error": facts.relative_error,
                "loss_ratio": facts.loss_ratio,
            },
        }
        found = digest(about)
        save_checkpoint(path, child, {**about, "hash": found})
        return found


def _evaluator(
    request: ConvertRequest,
    parent: Parent,
    machine: Machine,
    sampling: dict[str, Any],
    say: Callable[[str], None],
) -> Evaluator:
    extractor = choose_extractor(request.extractor, request.extractor_weights)
    say(f"extractor {extractor.key}: {extractor.reason}")
    evaluator = Evaluator(
        request.out / SAMPLED, machine,
        _images(request, parent, "train", request.references), extractor, sampling,
        samples=request.samples, energy_images=request.energy_images, batch=request.batch,
        energy_table=request.energy_table, seed=request.seed,
    )  # fmt: skip
    evaluator.check()
    return evaluator


def _evaluate(
    request: ConvertRequest, folder: ConversionFolder, parent: Parent, evaluator: Evaluator,
    machine: Machine, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Add the quality of the networks that ``request`` names to their records, and of others
    where it was measured before in the same way."""
    for record in folder.records:
        times = times_of(record)
        if times is None:
            say("samples of the parent")
            folder.keep(evaluator(record, lambda: parent.reference))
        elif times in request.children or evaluator.is_done(record):
            name = folder_name(times)
            say(f"samples of {name}")
            folder.keep(evaluator(record, partial(_child, request.out / name, machine)))


def _child(folder: Path, machine: Machine) -> System:
    return Checkpoint.read(folder).load(machine)


def _images(request: ConvertRequest, parent: Parent, split: str, limit: int) -> Images:
    try:
        return parent.checkpoint.images(split, request.data_root, limit)
    except (FileNotFoundError, ValueError) as error:
        needs = "thresholds are measured and compared on images"
        raise type(error)(f"--data-root: {needs}: {error}") from error


def _float(images: Images, machine: Machine) -> Any:
    return to_float(images.__getitems__(range(len(images)))).to(machine.device)
