"""Resolving a run: its suite, its data, its cells, and what of them is done already."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import stages
from bench.cells import Cell, Data, Training, expand, find_preset
from bench.datasets import find_spec, load
from bench.energy import DEFAULT_TABLE, TABLES
from bench.pictures import Images
from bench.registry import choose
from bench.suite import Preset, Suite, load_suite

DATA = "data.json"


@dataclass(frozen=True)
class Options:
    """What a run was asked for."""

    suite: str
    """Name of a shipped suite, or path of a YAML file."""
    preset: str = "small"
    """One of the suite's."""
    systems: tuple[str, ...] = ()
    """In place of the suite's."""
    time_steps: tuple[int, ...] = ()
    """In place of the suite's."""
    samplers: tuple[str, ...] = ()
    """In place of the suite's: NAME, NAME:STEPS or NAME:STEPS:ETA."""
    seeds: tuple[int, ...] = (0,)
    """One cell a seed, of training and of sampling."""
    precision: str | None = None
    """In place of every budget's: 32-true, bf16-mixed or auto."""
    data_root: str | None = None
    """Folder with a folder per data set; None: the Hub."""
    out: Path | None = None
    """None: runs/SUITE-PRESET."""
    extractor: str = "auto"
    """auto, inception or embedded."""
    energy_table: str = DEFAULT_TABLE
    """Whose prices of operations the energies are sums of."""
    command: str = ""
    """For the table's footnote."""


@dataclass(frozen=True)
class Plan:
    """A run, resolved: what would be made, and where."""

    options: Options
    suite: Suite
    preset: Preset
    data: Data
    root: Path
    cells: list[Cell] = field(default_factory=list)

    def training_folder(self, training: Training) -> Path:
        return self.root / "trainings" / training.name

    def checkpoint(self, training: Training) -> Path:
        return self.training_folder(training) / "checkpoint"

    def cell_folder(self, cell: Cell) -> Path:
        return self.root / "cells" / cell.name

    def facts(self) -> dict[str, Any]:
        """The resolved configuration, JSON-ready."""
        trainings = {cell.training.hash: cell.training for cell in self.cells}
        return {
            "suite": self.suite.name,
            "preset": self.options.preset,
            "data": asdict(self.data),
            "seeds": list(self.options.seeds),
            "samples": self.preset.samples,
            "references": f"{self.preset.references} {self.suite.reference_split}",
            "energy_table": self.options.energy_table,
            "command": self.options.command,
            "trainings": {
                training.name: {
                    "steps": training.steps,
                    "batch_size": training.batch_size,
                    "precision": training.precision,
                    "seed": training.seed,
                    "config": dict(training.config),
                }
                for training in trainings.values()
            },
            "cells": [cell.name for cell in self.cells],
        }


def make_plan(options: Options, *, read_data: bool = True) -> Plan:
    """Resolve ``options``; nothing is written.

    Args:
        read_data: open the data set where the folder does not know it yet. Without, a data set
            that would have to be fetched stays unopened.

    Raises:
        ValueError, FileNotFoundError: an unknown name, a broken suite, missing data.
    """
    suite = load_suite(options.suite)
    preset = find_preset(suite, options.preset)
    choose("energy table", options.energy_table, TABLES)
    root = options.out or Path("runs") / f"{suite.name}-{options.preset}"
    if root.exists() and not root.is_dir():
        raise ValueError(f"--out {root}: is a file, expected a folder")
    unopened = Plan(options, suite, preset, _known_data(suite), root)
    # Every name is checked before a data set is opened, which may take minutes.
    _expand(unopened)
    data = _data_of(unopened, read_data)
    opened = Plan(options, suite, preset, data, root)
    return Plan(options, suite, preset, data, root, _expand(opened))


def _expand(plan: Plan) -> list[Cell]:
    options = plan.options
    return expand(
        plan.suite,
        options.preset,
        plan.data,
        systems=options.systems,
        time_steps=options.time_steps,
        samplers=options.samplers,
        seeds=options.seeds,
        precision=options.precision,
    )


def _known_data(suite: Suite) -> Data:
    spec = find_spec(suite.dataset)
    return Data(
        suite.dataset, spec.name, spec.channels or 3, suite.image_size, spec.horizontal_flip
    )


def _data_of(plan: Plan, read_data: bool) -> Data:
    """The data as it is found, or as the run's folder remembers it."""
    path = plan.root / DATA
    if path.is_file():
        known = stages.read_json(path)
        if known["source"] == source_of(plan):
            return Data(**known["data"])
    if not read_data and plan.options.data_root is None and find_spec(plan.suite.dataset).hub:
        return plan.data
    images = load_split(plan, "train")
    return Data(
        dataset=plan.suite.dataset,
        label=images.label,
        channels=images.shape.channels,
        image_size=images.shape.size,
        horizontal_flip=images.horizontal_flip,
    )


def source_of(plan: Plan) -> dict[str, Any]:
    """Where the data comes from: a run's folder remembers the data for one source."""
    root = plan.options.data_root
    return {
        "dataset": plan.suite.dataset,
        "image_size": plan.suite.image_size,
        "data_root": str(Path(root).expanduser().resolve()) if root else None,
    }


def load_split(plan: Plan, split: str, limit: int | None = None) -> Images:
    """Open one split of the plan's data set, at most ``limit`` images of it."""
    return load(
        plan.suite.dataset,
        split,
        image_size=plan.suite.image_size,
        data_root=plan.options.data_root,
        limit=limit,
    )


def stage_states(plan: Plan) -> list[dict[str, str]]:
    """Per cell, each stage as ``done``, ``missing`` or ``blocked by PARENT``."""
    rows = []
    for cell in plan.cells:
        parent, folder = cell.training.parent, plan.cell_folder(cell)
        trained = _state(stages.is_trained(plan.training_folder(cell.training)))
        if parent and trained != "done" and not stages.is_trained(plan.training_folder(parent)):
            trained = f"blocked by {parent.name}"
        scored = [_extractor_of(path) for path in sorted(folder.glob("scores-*.json"))]
        rows.append(
            {
                "cell": cell.label,
                "hash": cell.hash[:8],
                "train": trained,
                "sample": _state(stages.is_sampled(folder)),
                "energy": _state(stages.is_metered(folder, plan.preset.energy_images)),
                "score": f"done ({', '.join(scored)})" if scored else "missing",
            }
        )
    return rows


def _state(done: bool) -> str:
    return "done" if done else "missing"


def _extractor_of(path: Path) -> str:
    return path.name.removeprefix("scores-").removesuffix(".json")
