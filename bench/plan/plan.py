"""Plan of a run, made from its options: the suite, the data, the cells, and the folders of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bench.data.datasets import Points, brief_hash, find_spec, open_data
from bench.data.pictures import Images
from bench.energy.prices import DEFAULT_TABLE, TABLES
from bench.files import read_json
from bench.plan.cells import Cell, Data, Training, digest, expand, find_preset
from bench.registry import choose
from bench.suites.reading import load_suite
from bench.suites.schema import Preset, Suite
from sddpm.training import TrainConfig

DATA = "data.json"


@dataclass(frozen=True)
class Options:
    """Options of a run."""

    suite: str
    """Name of a shipped suite, or path of a YAML file."""
    preset: str = "small"
    """One of the suite's."""
    systems: tuple[str, ...] = ()
    """Systems, in place of the suite's."""
    variants: tuple[str, ...] = ()
    """Variants of the systems, of all that the suite has; ``own`` is a system's own row."""
    time_steps: tuple[int, ...] = ()
    """Spiking time steps, in place of the suite's."""
    samplers: tuple[str, ...] = ()
    """Samplers, in place of the suite's: NAME, NAME:STEPS or NAME:STEPS:ETA."""
    seeds: tuple[int, ...] = (0,)
    """One cell a seed, of training and of sampling."""
    budget: float = 1.0
    """Factor of the length of every training, above 0."""
    precision: str | None = None
    """Precision, in place of every budget's: 32-true, bf16-mixed or auto."""
    data_root: str | None = None
    """Folder with a folder per data set; None: the Hub."""
    out: Path | None = None
    """None: runs/SUITE-PRESET."""
    extractor: str = "auto"
    """auto, or a name of :data:`bench.quality.registry.EXTRACTORS`."""
    extractor_weights: Path | None = None
    """File of the extractor's weights; None: the cached or fetched one."""
    energy_table: str = DEFAULT_TABLE
    """Table of the prices of operations."""
    checkpoint_seconds: float = TrainConfig.checkpoint_seconds
    """Most training, in seconds, that a kill can lose."""
    command: str = ""
    """Command line, for the table's footnote."""


@dataclass(frozen=True)
class Plan:
    """A resolved run: its cells and their folders."""

    options: Options
    suite: Suite
    preset: Preset
    data: Data
    root: Path
    cells: list[Cell] = field(default_factory=list)
    fingerprint: str | None = None
    """:func:`bench.data.datasets.brief_hash` of the training pictures; None: not opened."""
    notes: tuple[str, ...] = ()
    """Lines for a person that state which files of a folder are used and which are not."""

    @property
    def fetches(self) -> bool:
        """Whether the data set comes from the Hub: opening it may be a download, and nobody
        exchanges its pictures under the same name."""
        return self.options.data_root is None and find_spec(self.suite.dataset).hub is not None

    def training_folder(self, training: Training) -> Path:
        return self.root / "trainings" / training.name

    def checkpoint(self, training: Training) -> Path:
        return self.training_folder(training) / "checkpoint"

    def cell_folder(self, cell: Cell) -> Path:
        return self.root / "cells" / cell.name

    @property
    def trainings(self) -> list[Training]:
        """Every training of the cells once, each after its parents."""
        lines = [line for cell in self.cells for line in reversed(list(cell.training.line()))]
        return list({training.hash: training for training in lines}.values())

    def facts(self) -> dict[str, Any]:
        """The resolved configuration, JSON-ready."""
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
                for training in self.trainings
            },
            "cells": [cell.name for cell in self.cells],
        }


def make_plan(options: Options, *, read_data: bool = True) -> Plan:
    """Resolve ``options``; no file is written.

    Args:
        read_data: open the data set where the folder does not know it yet. Without, a data set
            that would have to be fetched stays unopened.

    Raises:
        ValueError, FileNotFoundError: an unknown name, a broken suite, missing data, a folder
            that was made from other pictures.
    """
    suite = load_suite(options.suite)
    preset = find_preset(suite, options.preset)
    if options.budget != 1:
        suite = suite.scaled(options.preset, options.budget)  # type: ignore[arg-type]
        preset = find_preset(suite, options.preset)
    choose("energy table", options.energy_table, TABLES)
    root = options.out or Path("runs") / f"{suite.name}-{options.preset}"
    if root.exists() and not root.is_dir():
        raise ValueError(f"--out {root}: is a file, expected a folder")
    unopened = Plan(options, suite, preset, _known_data(suite), root)
    # Every name is checked before a data set is opened, which may take minutes.
    _expand(unopened)
    data, fingerprint, notes = _data_of(unopened, read_data)
    opened = replace(unopened, data=data, fingerprint=fingerprint, notes=notes)
    return replace(opened, cells=_expand(opened))


def _expand(plan: Plan) -> list[Cell]:
    options = plan.options
    return expand(
        plan.suite,
        options.preset,
        plan.data,
        systems=options.systems,
        variants=options.variants,
        time_steps=options.time_steps,
        samplers=options.samplers,
        seeds=options.seeds,
        precision=options.precision,
    )


def _known_data(suite: Suite) -> Data:
    spec = find_spec(suite.dataset)
    return Data(
        suite.dataset,
        spec.name,
        spec.channels or 3,
        suite.image_size,
        spec.horizontal_flip,
        spec.train_images or 1,  # of a folder, which is opened before its cells are used
        spec.manifold,
    )


def _data_of(plan: Plan, read_data: bool) -> tuple[Data, str | None, tuple[str, ...]]:
    """The data as it was opened or as the run's folder describes it, its fingerprint, and notes on
    its opening.

    Raises:
        ValueError: the folder was made from other pictures of that name.
    """
    known = _remembered(plan.root)
    remembered = None
    if known.get("source") == source_of(plan):
        remembered = Data(**{"train_images": plan.data.train_images, **known["data"]})
    if plan.fetches and (remembered or not read_data):
        return remembered or plan.data, None, ()
    try:
        images = load_split(plan, "train")
    except FileNotFoundError:
        if remembered is None:
            raise
        return remembered, None, ()  # what is done needs no pictures
    data = remembered or replace(
        plan.data,
        label=images.label,
        channels=getattr(images.shape, "channels", 1),
        image_size=images.shape.size,
        horizontal_flip=images.horizontal_flip,
    )
    data = replace(data, train_images=len(images))
    fingerprint = brief_hash(images)
    if known.get("fingerprints", {}).get(_key(data), fingerprint) != fingerprint:
        raise ValueError(
            f"--out {plan.root}: was made from other pictures than {data.dataset} holds now; give "
            f"another folder, bring the former pictures back, or, if you know that they are the "
            f"same, delete {plan.root / DATA}"
        )
    return data, fingerprint, images.notes


def _remembered(root: Path) -> dict[str, Any]:
    """Facts about the data that a run's folder keeps; empty without any.

    Raises:
        ValueError: the file is damaged.
    """
    path = root / DATA
    if not path.is_file():
        return {}
    known = read_json(path, ("source", "data"))
    names = {field.name for field in fields(Data)}
    optional = {"train_images", "manifold"}  # folders of earlier versions do not say these
    if not isinstance(known["data"], dict) or set(known["data"]) | optional != names:
        raise ValueError(f"{path}: data: expected {', '.join(sorted(names))}; delete it to redo it")
    if not isinstance(known.get("fingerprints", {}), dict):
        raise ValueError(f"{path}: fingerprints: expected an object; delete it to redo it")
    return known


def data_facts(plan: Plan) -> dict[str, Any]:
    """Facts about the data for a run's folder, JSON-ready. Fingerprints of other data that was used
    in the folder are kept."""
    fingerprints = dict(_remembered(plan.root).get("fingerprints", {}))
    if plan.fingerprint is not None:
        fingerprints[_key(plan.data)] = plan.fingerprint
    return {"source": source_of(plan), "data": asdict(plan.data), "fingerprints": fingerprints}


def _key(data: Data) -> str:
    return digest(data.facts())[:8]


def source_of(plan: Plan) -> dict[str, Any]:
    """Source of the data. A run's folder keeps the facts about the data for one source."""
    root = plan.options.data_root
    return {
        "dataset": plan.suite.dataset,
        "image_size": plan.suite.image_size,
        "data_root": str(Path(root).expanduser().resolve()) if root else None,
    }


def load_split(plan: Plan, split: str, limit: int | None = None) -> Images | Points:
    """Open one split of the plan's data set, at most ``limit`` images or points of it."""
    return open_data(
        plan.suite.dataset,
        split,
        image_size=plan.suite.image_size,
        data_root=plan.options.data_root,
        limit=limit,
    )
