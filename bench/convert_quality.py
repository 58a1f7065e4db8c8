"""Sample quality and energy per image of what ``convert`` makes, kept so that nothing is drawn
twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import stages
from bench.cells import digest, parse_sampler
from bench.checkpoints import DEFAULT_SAMPLER, DEFAULT_STEPS
from bench.convert_tables import Quality
from bench.extractors import Extractor
from bench.fidelity import MIN_IMAGES, reference_hash
from bench.machine import Machine
from bench.measured import PRICES, counts_of, price_both
from bench.pictures import Images
from bench.suite import SamplingChoice
from sddpm.protocol import System
from sddpm.samplers import SAMPLERS


def read_sampler(text: str | None, engine: str | None = None) -> dict[str, Any]:
    """The options of ``--sampler`` and ``--engine``.

    Raises:
        ValueError: an unknown sampler, or one whose statistics depend on the network.
    """
    choice = parse_sampler(text or DEFAULT_SAMPLER)
    if isinstance(choice, str):
        choice = SamplingChoice(sampler=choice, steps=DEFAULT_STEPS, eta=0.0)
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

    def __call__(self, name: str, system: Callable[[], System]) -> Quality:
        """Quality of the network ``name``; ``system`` is called only where something is missing."""
        asked = {"sampling": self.sampling, "samples": self.samples, "seed": self.seed}
        folder = self.home / f"{name}-{digest(asked)[:8]}"
        drawn = stages.sample(
            system, folder, self.machine, count=self.samples, seed=self.seed,
            sampling=self.sampling, batch=self.batch,
        )  # fmt: skip
        energy = stages.meter_energy(
            system, folder, self.machine, images=self.energy_images, seed=self.seed,
            sampling=self.sampling,
        )  # fmt: skip
        counts = {part: counts_of(energy[part]) for part in ("per_evaluation", "per_image")}
        mj = {
            f"{price}_mj_per_image": price_both(counts, self.energy_table, of).per_image_mj
            for price, of in PRICES.items()
        }
        return Quality(
            samples=drawn["samples"],
            metrics=self._scores(folder)["metrics"],
            sampling_firing_rate=energy["firing_rate"],
            **{name: mj[name] for name in ("published_mj_per_image", "strict_mj_per_image")},
        )

    def _scores(self, folder: Path) -> dict[str, Any]:
        path = folder / f"scores-{self.extractor.key}.json"
        if path.is_file():
            known = stages.read_json(path)
            if known["reference_hash"] == reference_hash(self.references, self.extractor):
                return known
        images = torch.from_numpy(stages.read_samples(folder / stages.SAMPLES))
        scores = stages.score_images(images, self.references, self.extractor, self.machine)
        stages.write_json(path, scores)
        return scores
