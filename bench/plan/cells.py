"""Cells of a suite: systems x time steps x samplers x seeds, each with its hash.

A hash covers everything that decides a stage's result, so a result under its hash can always be
reused. Device, thread count and batching of the sampling are not in it, because they change a
result by rounding only. Guided thresholds are not in it either, because they are known only after
training. They are stored with the results, which are made again if the thresholds changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.plan.sampling import replace_samplings, sampling_label
from bench.registry import SYSTEMS, DataKind, choose, find, load_module
from bench.suites.reading import in_words
from bench.suites.schema import (
    BASES,
    DEFAULT_BATCH,
    DEFAULT_PRECISION,
    OWN_ROW,
    Budget,
    Preset,
    Suite,
)
from sddpm.configuration import complete, storable
from sddpm.precision import fast_precision
from sddpm.protocol import ImageShape, PointShape, Shape

MOST_CELLS = 10_000
"""Cells of a run: more are a slip of the pen, and their hashes alone take minutes."""


@dataclass(frozen=True)
class Data:
    """The images that a cell is trained on and compared with."""

    dataset: str
    """Name to load them by."""
    label: str
    """Name in reports, which states differences of the files from the original data set."""
    channels: int
    """1 or 3; 1 for points."""
    image_size: int
    """Height and width, in pixels; the manifold's size for points."""
    horizontal_flip: bool
    """Whether training mirrors half of the pictures."""
    train_images: int | None = None
    """Pictures in the training split, which budgets in epochs need; None: not known. No hash
    holds it, since the steps that follow from it do."""
    manifold: str | None = None
    """Manifold on which the data are points; None for images."""

    @property
    def shape(self) -> Shape:
        """Shape of one of them."""
        if self.manifold is not None:
            return PointShape(self.manifold, self.image_size)
        return ImageShape(self.channels, self.image_size)

    @property
    def kind(self) -> DataKind:
        """Kind of the data, as the registry names it."""
        return "images" if self.manifold is None else "points"

    def facts(self) -> dict[str, Any]:
        """Facts that identify the data in a hash."""
        facts = asdict(self)
        del facts["train_images"]
        if self.manifold is None:
            del facts["manifold"]
        return facts


@dataclass(frozen=True)
class Training:
    """One checkpoint to make."""

    system: str
    time_steps: int | None
    """Spiking time steps that it is trained with; None where the checkpoint has no such axis."""
    config: Mapping[str, Any]
    """The system's Config as :func:`resolve_config` gives it."""
    data: Data
    steps: int
    batch_size: int
    precision: str
    seed: int
    parent: Training | None = None

    @property
    def hash(self) -> str:
        facts = asdict(self)
        facts["parent"] = self.parent.hash if self.parent else None
        facts["data"] = self.data.facts()
        return digest({"kind": "training", **facts})

    def line(self) -> Iterator[Training]:
        """It and its parents' trainings, itself first."""
        training: Training | None = self
        while training is not None:
            yield training
            training = training.parent

    @property
    def name(self) -> str:
        """Folder under ``trainings/``."""
        return "-".join([_base(self.system, self.time_steps), self.hash[:8]])


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    training: Training
    time_steps: int | None
    """Spiking time steps that it samples with; None for systems without spiking time."""
    config: Mapping[str, Any]
    """Configuration for sampling: the training's, at this cell's time steps."""
    sampling: Mapping[str, Any] | None
    """Sampler, steps and eta; None for systems that have no sampler."""
    samples: int
    variant: str = ""
    """Name of the suite's variant of the system; "" for the system's own row. No hash holds it,
    since the configuration does."""

    @property
    def system(self) -> str:
        return self.training.system

    @property
    def seed(self) -> int:
        return self.training.seed

    @property
    def hash(self) -> str:
        return digest(
            {
                "kind": "cell",
                "training": self.training.hash,
                "config": self.config,
                "sampling": self.sampling,
                "samples": self.samples,
            }
        )

    @property
    def label(self) -> str:
        """Name for people: system, time steps, sampler, seed."""
        parts = [_base(self.system, self.time_steps), *sampling_label(self.sampling)]
        variant = f" ({self.variant})" if self.variant else ""
        return "-".join(parts) + variant + (f" seed {self.seed}" if self.seed else "")

    @property
    def name(self) -> str:
        """Folder under ``cells/``."""
        parts = [_base(self.system, self.time_steps), *sampling_label(self.sampling)]
        return "-".join([*parts, self.hash[:8]])


def expand(
    suite: Suite,
    preset_name: str,
    data: Data,
    *,
    systems: Sequence[str] = (),
    variants: Sequence[str] = (),
    time_steps: Sequence[int] = (),
    samplers: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    precision: str | None = None,
) -> list[Cell]:
    """The cells of ``suite``, in its order. Empty options mean the suite's values.

    Args:
        systems: registered names; need not be among the suite's.
        variants: those of the suite that are wanted; :data:`bench.suites.schema.OWN_ROW` is a
            system's own row.
        time_steps: in place of the suite's.
        samplers: ``NAME``, ``NAME:STEPS`` or ``NAME:STEPS:ETA``; a bare name keeps the suite's
            entries of that name.
        precision: in place of every budget's.

    Raises:
        ValueError: an unknown name, or a configuration that the system's Config refuses.
    """
    preset = find_preset(suite, preset_name)
    systems = [choose("system", name, SYSTEMS) for name in systems] or list(
        preset.systems or suite.systems
    )
    shared_steps = preset.time_steps or suite.time_steps
    shared_choices = preset.sampling or suite.sampling
    grid = {
        system: (
            list(time_steps) or preset.system_time_steps.get(system, shared_steps),
            replace_samplings(samplers, preset.system_sampling.get(system, shared_choices)),
        )
        for system in systems
    }
    named = {system: ["", *preset.variants.get(system, {})] for system in systems}
    legal = dict.fromkeys([OWN_ROW, *(name for names in named.values() for name in names if name)])
    wanted = {choose("variant", name, legal) for name in variants}
    rows = {
        system: [name for name in names if (name or OWN_ROW) in wanted or not variants]
        for system, names in named.items()
    }
    most = len(seeds) * sum(
        len(rows[system]) * len(counts) * len(choices) for system, (counts, choices) in grid.items()
    )
    if most > MOST_CELLS:
        raise ValueError(
            f"suite {suite.name}, preset {preset_name}: seeds x systems x variants x time steps "
            f"x samplers are {most:,} cells, expected at most {MOST_CELLS:,}"
        )
    cells = []
    for seed in seeds:
        for system, (counts, choices) in grid.items():
            entry = find(system)
            if entry.samplers and not choices:
                raise ValueError(f"{suite.where('sampling')}: required by system {system!r}")
            steps = counts if entry.time_axis != "none" else [None]
            for variant, count in product(rows[system], steps):
                trained_with = count if entry.time_axis == "trained" else None
                training = plan_training(
                    suite, preset_name, data, system,
                    variant=variant, time_steps=trained_with, seed=seed, precision=precision,
                )  # fmt: skip
                config = (
                    training.config if count is None else {**training.config, "time_steps": count}
                )
                for choice in choices if entry.samplers else [None]:
                    if choice and choice.threshold is not None and not entry.guidable:
                        continue  # no threshold that may move
                    sampling = choice.model_dump() if choice else None
                    cells.append(Cell(training, count, config, sampling, preset.samples, variant))
    found: dict[str, Cell] = {}
    for cell in cells:
        same = found.setdefault(cell.hash, cell)
        if same.variant != cell.variant:
            place = suite.where("presets", preset_name, "variants", cell.system, cell.variant)
            row = f"variant {same.variant!r}" if same.variant else "the system's own row"
            raise ValueError(f"{place}: has the same settings as {row}; leave one out")
    return list(found.values())


def plan_training(
    suite: Suite,
    preset_name: str,
    data: Data,
    system: str,
    *,
    variant: str = "",
    time_steps: int | None = None,
    seed: int = 0,
    precision: str | None = None,
) -> Training:
    """The training of ``system``, or of one of its variants, under a preset, with its parents'
    trainings before it; ``precision`` replaces that of every budget. A variant is built from the
    parent's variant of that name, if the parent has one."""
    entry, preset = find(system), find_preset(suite, preset_name)
    if entry.time_axis == "trained" and time_steps is None:
        raise ValueError(f"system {system!r} is trained at a number of time steps: name one")
    if entry.data != data.kind:
        raise ValueError(f"system {system!r} makes {entry.data}; {data.dataset} holds {data.kind}")
    parent = None
    parent_name = preset.parent_of(system)
    if parent_name is not None:
        axis = find(parent_name).time_axis
        parent_steps = time_steps if axis == "trained" else None
        parent = plan_training(
            suite, preset_name, data, parent_name,
            variant=variant if variant in preset.variants.get(parent_name, {}) else "",
            time_steps=parent_steps, seed=seed, precision=precision,
        )  # fmt: skip
    own = preset.variants[system][variant] if variant else {}
    overrides = {**preset.config.get(system, {}), **own}
    if time_steps is not None:
        overrides["time_steps"] = time_steps

    def where(field: str) -> str:
        path = ("variants", system, variant) if field in own else ("config", system)
        return suite.where("presets", preset_name, *path, field)

    budget = preset.budgets.get(system, preset.budget)
    # What a budget leaves open is the preset's; a share of the parent's leaves it to the parent's.
    shared: Budget | Training = preset.budget
    if budget.of_parent is not None and parent is not None:
        shared = parent
    batch_size = budget.batch_size or shared.batch_size or DEFAULT_BATCH
    precision = precision or budget.precision or shared.precision or DEFAULT_PRECISION
    try:
        steps = budget.steps(
            batch_size,
            train_images=data.train_images,
            parent_images=parent.steps * parent.batch_size if parent else 0,
        )
    except ValueError as error:
        at = ("budgets", system) if system in preset.budgets else ("budget",)
        raise ValueError(f"{suite.where('presets', preset_name, *at)}: {error}") from error
    return Training(
        system=system,
        time_steps=time_steps,
        config=resolve_config(system, preset_name, overrides, where),
        data=data,
        steps=steps,
        batch_size=batch_size,
        precision=fast_precision() if precision == "auto" else precision,
        seed=seed,
        parent=parent,
    )


def find_preset(suite: Suite, name: str) -> Preset:
    """The preset ``name`` of ``suite``; ValueError with the legal names if it has none."""
    return suite.presets[choose("preset", name, suite.presets)]  # type: ignore[index]


def resolve_config(
    system: str, preset_name: str, overrides: Mapping[str, Any], where: Callable[[str], str]
) -> dict[str, Any]:
    """The fields of a system's Config: its defaults, its preset's, then ``overrides``; without
    those that say what was so before there was such a field (:mod:`sddpm.configuration`), so
    that a new field leaves the hashes of what it does not change.

    Raises:
        ValueError: an unknown field or a value of the wrong type; ``where`` of the field begins
            the message.
    """
    module = load_module(system)
    legal = [field.name for field in fields(module.Config)]
    for name in overrides:
        try:
            choose("field", name, legal)
        except ValueError as error:
            raise ValueError(f"{where(name)}: {error}") from error
    own = module.PRESETS.get(BASES.get(preset_name, preset_name), {})
    given = {**own, **overrides}
    try:
        config = TypeAdapter(module.Config).validate_python(given)
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0]) if problem["loc"] else "config"
        message = f"{in_words(problem)}, not {problem['input']!r}"
        raise ValueError(f"{where(field)}: {message}") from error
    # Through JSON, so that a configuration equals the one read back from a checkpoint.
    resolved: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return storable(module.Config, resolved)


def make_config(system: str, values: Mapping[str, Any]) -> Any:
    """A system's Config from JSON values, as a checkpoint holds them, of any age."""
    kind = load_module(system).Config
    try:
        return TypeAdapter(kind).validate_python(complete(kind, values))
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise ValueError(f"configuration of {system}: {field}: {problem['msg']}") from error


def digest(facts: Any) -> str:
    """SHA-256 of ``facts`` as canonical JSON, in hexadecimal."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _base(system: str, time_steps: int | None) -> str:
    return system if time_steps is None else f"{system}-T{time_steps}"
