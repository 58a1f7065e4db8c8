"""Suites: the fields of a comparison, validated by pydantic.

A suite names one data set, the systems, their time steps and samplers, and up to five
presets, which fix the budget. :mod:`bench.suites.reading` reads one from YAML. Nothing here
imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bench.registry import SYSTEMS, choose
from bench.suites.nodes import place_of

PresetName = Literal["smoke", "small", "converged", "medium", "paper"]
BASES = {"converged": "small"}
"""Presets that are another one of the same suite but for the fields that they state. A system has
no fields of its own for them: its network and its training are the other preset's."""
FEWEST_IMAGES = 10
"""Images that can be scored, of either kind (:data:`bench.quality.fidelity.MIN_IMAGES`)."""
MOST_SAMPLES = 1_000_000
"""Image seeds that belong to one run's seed (:data:`sddpm.rng.SEEDS_PER_RUN`)."""
LENGTHS = ("train_steps", "train_images", "epochs", "of_parent")
"""Fields of a budget of which it has one. One that is stated replaces another that is inherited."""
MOST_STEPS, MOST_IMAGES, MOST_EPOCHS = 10**9, 10**12, 10**6
"""The longest training, in each unit."""
DEFAULT_BATCH = 32
DEFAULT_PRECISION = "32-true"
"""Precision of a preset whose budgets state none."""
MOST_CHOICES = 1_000
"""Samplings that one list may stand for."""
MOST_TIME_STEPS = 1_024
"""Spiking time steps that a network may have (:data:`sddpm.neurons.MOST_TIME_STEPS`)."""
LEAST_PIXELS = 4
"""Height and width of an image, at least."""
MOST_ENTRIES = 100
"""Systems of a suite, and numbers of time steps."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _system(name: str) -> str:
    return choose("system", name, SYSTEMS)


def _sampler(name: str) -> str:
    # Imported late: only a suite that names samplers needs their table.
    from sddpm.samplers import SAMPLERS

    return choose("sampler", name, SAMPLERS)


def _dataset(name: str) -> str:
    from bench.data.datasets import find_spec

    find_spec(name)
    return name


SystemName = Annotated[str, AfterValidator(_system)]
SamplerName = Annotated[str, AfterValidator(_sampler)]
DatasetName = Annotated[str, AfterValidator(_dataset)]
Systems = Annotated[list[SystemName], Field(min_length=1, max_length=MOST_ENTRIES)]
OWN_ROW = "own"
"""Name of a system's row without a variant, where one is chosen."""


def _variant(name: str) -> str:
    if name == OWN_ROW:
        raise ValueError(f"{OWN_ROW!r} is the system's row without a variant; choose another name")
    return name


VariantName = Annotated[
    str, AfterValidator(_variant), Field(pattern=r"^[^\s/()][^/()]*$", max_length=60)
]
TimeSteps = Annotated[
    list[Annotated[int, Field(ge=1, le=MOST_TIME_STEPS)]],
    Field(min_length=1, max_length=MOST_ENTRIES),
]


class SamplingChoice(_Strict):
    """One sampler at one number of steps."""

    sampler: SamplerName
    steps: int = Field(ge=1, le=100_000, description="network evaluations per image")
    eta: float = Field(0.0, ge=0, le=1, description="DDIM's noise: 0 none, 1 ancestral")
    threshold: Annotated[float, Field(gt=0)] | Literal["guided"] | None = None
    """Firing threshold while sampling, or the one that guidance chooses."""
    gain: Annotated[float, Field(gt=0)] | Literal["guided"] | None = Field(
        None, exclude_if=lambda gain: gain is None
    )
    """Factor of the network's output while sampling, or the one that guidance chose; None and 1:
    as trained. Left out where it is stored or hashed as trained: it came later than the rest."""
    engine: Literal["plain", "exact", "fast"] = "exact"
    """Form of the network while sampling: unchanged (``plain``) or prepared."""

    @field_validator("gain", mode="after")
    @classmethod
    def _as_trained(cls, gain: float | str | None) -> float | str | None:
        return None if gain == 1 else gain

    @model_validator(mode="after")
    def _legal(self) -> SamplingChoice:
        from sddpm.samplers import Sampling

        Sampling(self.sampler, self.steps, self.eta)  # raises for an eta that nothing reads
        return self


def _expand(choices: Any) -> Any:
    """Every combination of a choice's lists: ``{sampler: [ddpm, ddim], steps: [10, 50]}`` is
    four choices."""
    if not isinstance(choices, list):
        return choices

    def values_of(choice: Any) -> list[list[Any]]:
        values = choice.values() if isinstance(choice, dict) else []
        return [value if isinstance(value, list) else [value] for value in values]

    count = sum(math.prod(map(len, values_of(choice))) for choice in choices)
    if count > MOST_CHOICES:
        raise ValueError(f"stands for {count:,} samplings, expected at most {MOST_CHOICES:,}")

    def combinations(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
        combined = product(*values_of(choice))
        return (dict(zip(choice, chosen, strict=True)) for chosen in combined)

    return [
        single
        for choice in choices
        for single in (combinations(choice) if isinstance(choice, dict) else [choice])
    ]


Samplings = Annotated[list[SamplingChoice], BeforeValidator(_expand), Field(min_length=1)]
"""A field given as a list is swept."""


class Budget(_Strict):
    """Length of a system's training. Exactly one of ``train_steps``, ``train_images``, ``epochs``
    and ``of_parent`` is set. A system's own budget takes a missing batch size or precision from the
    preset's budget, or from its parent's if it is a share of that."""

    train_steps: int | None = Field(None, ge=0, le=MOST_STEPS, description="optimiser steps")
    train_images: int | None = Field(
        None, ge=1, le=MOST_IMAGES, description="images seen, repeats counted"
    )
    epochs: float | None = Field(
        None, gt=0, le=MOST_EPOCHS, description="passes over the training set"
    )
    of_parent: float | None = Field(
        None, gt=0, le=1, description="less than this share of the images that its parent sees"
    )
    batch_size: int | None = Field(None, ge=1, le=10**6, description="images of a step")
    precision: Literal["32-true", "bf16-mixed", "auto"] | None = None
    """``auto`` is bf16-mixed where the machine multiplies bfloat16 natively, else 32-true."""

    @model_validator(mode="after")
    def _one_length(self) -> Budget:
        if sum(getattr(self, length) is not None for length in LENGTHS) != 1:
            raise ValueError(f"expected one of {', '.join(LENGTHS[:-1])} and {LENGTHS[-1]}")
        return self

    def scaled(self, factor: float) -> Budget:
        """The budget ``factor`` times as long, in whole steps or images, at least one. A share of
        the parent's stays: its parent is longer already.

        Raises:
            ValueError: that is longer than a budget may be.
        """
        times = _exact(factor)
        lengths: dict[str, float | Fraction | None] = {
            "train_steps": self.train_steps and max(1, round(self.train_steps * times)),
            "train_images": self.train_images and max(1, round(self.train_images * times)),
            "epochs": self.epochs and _exact(self.epochs) * times,
        }
        most_lengths = (MOST_STEPS, MOST_IMAGES, MOST_EPOCHS)
        for (name, length), most in zip(lengths.items(), most_lengths, strict=True):
            if length is not None and length > most:
                raise ValueError(
                    f"--budget {factor:g}: {getattr(self, name):,} {name} would be more than "
                    f"{most:,}, the most of a training"
                )
        epochs = lengths["epochs"]
        return self.model_copy(update={**lengths, "epochs": epochs and float(epochs)})

    def steps(self, batch_size: int, *, train_images: int | None, parent_images: int) -> int:
        """Optimiser steps.

        Batches run on from one epoch into the next, so images and epochs are rounded up once, at
        the end: a last partial batch counts as one. A share of the parent's is the largest number
        of steps whose images are fewer than that share, and at least 1.

        Args:
            batch_size: images of a step.
            train_images: pictures in the training split, for ``epochs``; None: not known.
            parent_images: that the parent sees, for ``of_parent``.

        Raises:
            ValueError: epochs of a data set whose size is not known.
        """
        if self.train_steps is not None:
            return self.train_steps
        if self.of_parent is not None:
            return max(1, math.ceil(_exact(self.of_parent) * parent_images / batch_size) - 1)
        seen: int | Fraction | None = self.train_images
        if self.epochs is not None:
            if train_images is None:
                raise ValueError("epochs of a data set whose number of pictures is not known")
            seen = _exact(self.epochs) * train_images
        assert seen is not None
        return math.ceil(Fraction(seen) / batch_size)


def _exact(number: float) -> Fraction:
    """The decimal fraction that was written: 0.1 is a tenth."""
    return Fraction(repr(number))


class Preset(_Strict):
    """One size of the comparison."""

    budget: Budget
    budgets: dict[SystemName, Budget] = Field(
        default_factory=dict, description="systems that train on another budget than the rest"
    )
    samples: int = Field(
        ge=FEWEST_IMAGES, le=MOST_SAMPLES, description="images drawn and scored per cell"
    )
    sample_batch: int = Field(
        100, ge=1, le=MOST_SAMPLES, description="images drawn at once, and saved at once"
    )
    references: int = Field(
        ge=FEWEST_IMAGES, le=10**9, description="real images they are scored against, at most"
    )
    energy_images: int = Field(
        ge=1, le=MOST_SAMPLES, description="images drawn while operations are counted"
    )
    systems: Systems | None = None
    time_steps: TimeSteps | None = None
    sampling: Samplings | None = None
    system_time_steps: dict[SystemName, TimeSteps] = Field(
        default_factory=dict, description="systems with other time steps than the rest"
    )
    system_sampling: dict[SystemName, Samplings] = Field(
        default_factory=dict, description="systems that are sampled in another way than the rest"
    )
    parents: dict[SystemName, SystemName] = Field(
        default_factory=dict, description="systems that are built from another one than usual"
    )
    config: dict[SystemName, dict[str, Any]] = Field(
        default_factory=dict, description="fields of a system's Config that differ from its preset"
    )
    variants: dict[
        SystemName, Annotated[dict[VariantName, dict[str, Any]], Field(max_length=MOST_ENTRIES)]
    ] = Field(
        default_factory=dict,
        description="further rows of a system: name, and fields of its Config that differ",
    )

    def parent_of(self, system: str) -> str | None:
        """The system whose checkpoint ``system`` is built from; None if it needs none."""
        return self.parents.get(system, SYSTEMS[system].parent)

    def scaled(self, factor: float) -> Preset:
        """The preset with every training ``factor`` times as long. What a conversion reads to be
        calibrated is no training, and stays."""
        own = {
            system: budget if SYSTEMS[system].time_axis == "free" else budget.scaled(factor)
            for system, budget in self.budgets.items()
        }
        return self.model_copy(update={"budget": self.budget.scaled(factor), "budgets": own})

    @model_validator(mode="after")
    def _own_length(self) -> Preset:
        if self.budget.of_parent is not None:
            raise ValueError("budget.of_parent: expected in budgets, where a system is named")
        return self


class Suite(_Strict):
    """A comparison of systems on one data set."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    title: str = Field(max_length=200)
    dataset: DatasetName
    image_size: int = Field(ge=2, le=4096, description="pixels; of points the manifold's size")
    reference_split: Literal["train", "test"] = "train"
    systems: Systems
    time_steps: TimeSteps
    sampling: Samplings = Field(
        default_factory=list, description="needed if one of the systems denoises images"
    )
    presets: dict[PresetName, Preset] = Field(min_length=1)

    _source: tuple[str, yaml.Node | None] = PrivateAttr(default=("suite", None))

    @field_validator("image_size", mode="after")
    @classmethod
    def _large_enough(cls, size: int, info: ValidationInfo) -> int:
        from bench.data.datasets import find_spec

        dataset = info.data.get("dataset")
        if dataset is not None and find_spec(dataset).manifold is None and size < LEAST_PIXELS:
            raise ValueError(f"Input should be greater than or equal to {LEAST_PIXELS}")
        return size

    def scaled(self, preset: PresetName, factor: float) -> Suite:
        """The suite with every training of ``preset`` ``factor`` times as long."""
        scaled = self.presets[preset].scaled(factor)
        return self.model_copy(update={"presets": {**self.presets, preset: scaled}})

    def where(self, *path: str | int) -> str:
        """File, line and field of the value at ``path``, for error messages."""
        file, root = self._source
        place = place_of(root, path, file) if root is not None else file
        return f"{place}: {'.'.join(map(str, path))}"
