"""Sample quality and energy per image of what ``convert`` makes, kept so that nothing is drawn
twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bench.convert.tables import Quality
from bench.data.pictures import Images
from bench.files import read_json, write_json
from bench.machine import Machine
from bench.plan.cells import digest
from bench.plan.sampling import choose_sampling, solver
from bench.quality.extractors import Extractor
from bench.quality.fidelity import MIN_IMAGES, reference_hash
from bench.records.make import PRICES, counts_of, price_both
from bench.run import stages, states
from bench.run.samples import read_samples
from sddpm.protocol import System
from sddpm.samplers import SAMPLERS


def read_sampler(text: str | None, engine: str | None = None) -> dict[str, Any]:
    """The options of ``--sampler`` and ``--engine``.

    Raises:
        ValueError: an unknown sampler, or one whose statistics depend on the network.
    """
    choice = choose_sampling(text)
    if SAMPLERS[choice.sampler].needs_gamma:
        raise ValueError(
            f"--sampler {text}: its statistics would have to be measured anew for every T; "
            "compare with another sampler"
        )
    return choice.model_dump() | {"threshold": None, "engine": engine or "exact"}


EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Conditions:
    """How networks were drawn, metered and scored; what agrees here stands in one table."""

    sampling: Mapping[str, Any]
    samples: int
    seed: int
    energy_images: int
    energy_table: str
    extractor: str
    """Its key."""
    references: int
    """Training images."""
    reference_hash: str

    @property
    def solver(self) -> str:
        """How images were drawn, for people."""
        return str(solver({**self.sampling, "sampler_steps": self.sampling["steps"]}))

    def folder(self, home: Path, name: str) -> Path:
        """Where under ``home`` the samples of the network ``name`` are."""
        asked = {"sampling": self.sampling, "samples": self.samples, "seed": self.seed}
        return home / f"{name}-{digest(asked)[:8]}"

    def recall(self, home: Path, name: str) -> Quality | None:
        """Quality of the network ``name`` where it was evaluated so, else None."""
        folder = self.folder(home, name)
        scores = self.scores(folder)
        known = states.is_sampled(folder) and states.is_metered(folder, self.energy_images)
        if scores is None or not known:
            return None
        energy = read_json(folder / states.ENERGY)
        counts = {part: counts_of(energy[part]) for part in ("per_evaluation", "per_image")}
        mj = {
            f"{price}_mj_per_image": price_both(counts, self.energy_table, of).per_image_mj
            for price, of in PRICES.items()
        }
        return Quality(
            samples=read_json(folder / states.SAMPLES_FACTS)["samples"],
            metrics=scores["metrics"],
            sampling_firing_rate=energy["firing_rate"],
            **{name: mj[name] for name in ("published_mj_per_image", "strict_mj_per_image")},
        )

    def scores(self, folder: Path) -> dict[str, Any] | None:
        """What is known against these very references."""
        path = states.scores_path(folder, self.extractor)
        known = read_json(path) if path.is_file() else {}
        return known if known.get("reference_hash") == self.reference_hash else None


def remember(out: Path, conditions: Conditions | None) -> None:
    """Keep under what conditions the table in ``out`` has figures of quality; None: it has
    none."""
    if conditions is None:
        (out / EVALUATION).unlink(missing_ok=True)
        return
    told = {"solver": conditions.solver, "samples": conditions.samples}
    write_json(out / EVALUATION, {**told, "conditions": asdict(conditions)})


def remembered(out: Path) -> Conditions | None:
    """What :func:`remember` kept; None where nothing was, or by a version that kept less."""
    path = out / EVALUATION
    try:
        return Conditions(**read_json(path)["conditions"]) if path.is_file() else None
    except (KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Evaluator:
    """Draws, meters and scores; every network from the same noise, against the same images."""

    home: Path
    """Receives a folder for each network and way of sampling."""
    machine: Machine
    references: Images
    extractor: Extractor
    sampling: dict[str, Any]
    samples: int
    energy_images: int
    batch: int
    energy_table: str
    seed: int

    def check(self) -> None:
        """Raise ValueError if there are too few images to score."""
        for what, count in (("--samples", self.samples), ("--references", len(self.references))):
            if count < MIN_IMAGES:
                raise ValueError(
                    f"{what} {count}: at least {MIN_IMAGES} images are needed to score"
                )

    @cached_property
    def conditions(self) -> Conditions:
        """What all that it evaluates has in common."""
        return Conditions(
            self.sampling, self.samples, self.seed, self.energy_images, self.energy_table,
            self.extractor.key, len(self.references),
            reference_hash(self.references, self.extractor),
        )  # fmt: skip

    def __call__(self, name: str, system: Callable[[], System]) -> Quality:
        """Quality of the network ``name``; ``system`` is called only where something is missing."""
        folder = self.conditions.folder(self.home, name)
        stages.sample(
            system, folder, self.machine, count=self.samples, seed=self.seed,
            sampling=self.sampling, batch=self.batch,
        )  # fmt: skip
        stages.meter_energy(
            system, folder, self.machine, images=self.energy_images, seed=self.seed,
            sampling=self.sampling,
        )  # fmt: skip
        if self.conditions.scores(folder) is None:
            images = torch.from_numpy(read_samples(folder / states.SAMPLES))
            scores = stages.score_images(images, self.references, self.extractor, self.machine)
            write_json(states.scores_path(folder, self.extractor.key), scores)
        quality = self.conditions.recall(self.home, name)
        assert quality is not None
        return quality
