"""Sample quality and energy per image of a conversion's networks, by the stages of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.data.pictures import Images
from bench.machine import Machine
from bench.plan.cells import digest
from bench.plan.sampling import choose_sampling
from bench.quality.fidelity import MIN_IMAGES, reference_hash
from bench.quality.registry import Extractor
from bench.records.make import make_record, sampling_facts
from bench.records.record import Record
from bench.run import stages, states
from sddpm.protocol import System
from sddpm.samplers import SAMPLERS

SPLIT = "train"
"""Part of the data set that samples are compared with."""


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

    def is_done(self, record: Record) -> bool:
        """Whether the samples of a network are there, metered and scored."""
        folder = self._folder(record)
        return (
            states.is_sampled(folder)
            and states.is_metered(folder, self.energy_images)
            and self._scores(folder) is not None
        )

    def __call__(self, record: Record, system: Callable[[], System]) -> Record:
        """The record of a network with its quality and its energy per image.

        Args:
            system: gives the network; called only where something is missing.
        """
        folder = self._folder(record)
        samples = stages.sample(
            system, folder, self.machine, shape=self.references.shape, count=self.samples,
            seed=self.seed, sampling=self.sampling, batch=self.batch,
        )  # fmt: skip
        energy = stages.meter_energy(
            system, folder, self.machine, images=self.energy_images, seed=self.seed,
            sampling=self.sampling,
        )  # fmt: skip
        facts = {
            **dict(record),
            **sampling_facts(self.sampling),
            "samples": self.samples,
            "config_hash": self._hash(record),
        }
        return make_record(
            facts,
            train_seconds=record.wall_seconds.get("train", 0.0),
            samples=samples,
            energy=energy,
            scores=self._scores(folder)
            or stages.score_samples(
                folder, self._asked, self.references, self.extractor, self.machine
            ),
            energy_table=self.energy_table,
        )

    def _hash(self, record: Record) -> str:
        """Hash of everything that decides the samples of a network."""
        asked = {"sampling": self.sampling, "samples": self.samples, "seed": self.seed}
        return digest({"kind": "conversion", "training": record.training_hash, **asked})

    def _folder(self, record: Record) -> Path:
        return self.home / f"{record.system}-{self._hash(record)[:8]}"

    @property
    def _asked(self) -> dict[str, Any]:
        return {"references": len(self.references), "split": SPLIT}

    @cached_property
    def _reference_hash(self) -> str:
        return reference_hash(self.references, self.extractor)

    def _scores(self, folder: Path) -> dict[str, Any] | None:
        """Scores in ``folder`` that were made against the same references; None without any."""
        return states.known_scores(folder, self.extractor.key, self._asked, self._reference_hash)
