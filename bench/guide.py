"""Threshold guidance of a checkpoint: a grid scored with common random numbers, and the
choices that cost less than a grid, compared with it.

Every threshold draws the same images' noise and is scored on the same resampled images, so
the confidence interval of a difference is far narrower than that of either distance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.datasets import Images
from bench.extractors import Extractor, build
from bench.fidelity import compute, extract, reference_statistics, summarise
from bench.machine import Machine
from bench.meter import Meter
from bench.pictures import cache_folder
from sddpm.checkpoint import atomic_write
from sddpm.guidance import (
    GUIDANCE,
    Choice,
    HeldOut,
    Thresholds,
    choose_by_gradient,
    choose_by_loss,
    read_thresholds,
)
from sddpm.protocol import System, to_float, to_uint8
from sddpm.rng import image_seeds

VALUES = (0.97, 0.98, 0.99, 0.995, 0.998, 1.0, 1.002, 1.005, 1.01, 1.02, 1.03)
"""Default grid, as multiples of the trained threshold; the paper's is 0.997 to 1.003."""
STEPS = (-0.04, -0.02, -0.01, -0.005, 0.005, 0.01, 0.02, 0.04)
"""Steps of the line search along the loss's gradient; negative ones check the direction."""
RATE_IMAGES = 4


@dataclass(frozen=True)
class Row:
    """One setting of the thresholds, scored."""

    method: str
    """``grid``, ``loss`` or ``gradient``."""
    thresholds: Thresholds
    distance: float
    """Frechet distance."""
    difference: float
    """Its difference from the trained thresholds'."""
    low: float
    high: float
    """95 % interval of the difference: paired bootstrap over the images."""
    kid: float
    firing_rate: float | None
    evaluations: int
    """Network evaluations of one image that finding this setting costs."""


class Scorer:
    """Scores thresholds of one system against one reference.

    Args:
        system: a denoiser with spiking neurons.
        sampling: solver options.
        samples: images drawn per setting.
        bootstrap: resamplings behind an interval; 0 for none.
    """

    def __init__(
        self,
        system: System,
        machine: Machine,
        references: Images,
        extractor: Extractor,
        *,
        sampling: Mapping[str, Any],
        samples: int,
        seed: int = 0,
        bootstrap: int = 20,
        batch: int = 100,
    ) -> None:
        self.system, self.machine, self.extractor = system, machine, extractor
        self.sampling, self.samples, self.seed, self.batch = sampling, samples, seed, batch
        self.network = build(extractor, machine.device)
        self.reference = reference_statistics(
            references, self.network, extractor, cache_folder() / "references", 64, machine.device
        )
        self._root = _square_root(self.reference.covariance)
        rng = torch.Generator().manual_seed(seed)
        self._resamples = [
            torch.randint(samples, (samples,), generator=rng) for _ in range(bootstrap)
        ]
        self._trained: list[float] | None = None

    def row(self, method: str, thresholds: Thresholds | None, evaluations: int) -> Row:
        """Draw and score ``samples`` images at ``thresholds``; None is as trained.

        The first row made is the one that the others are compared with.
        """
        options = {**self.sampling, "threshold": thresholds}
        parts = []
        for start in range(0, self.samples, self.batch):
            seeds = image_seeds(self.seed, start, min(start + self.batch, self.samples))
            parts.append(to_uint8(self.system.sample(seeds, options)))
        images = torch.cat(parts)
        layers = extract(
            lambda start, stop: images[start:stop],
            len(images), self.network, 64, self.machine.device, "features of the samples",
        )  # fmt: skip
        features = layers[self.extractor.feature_layer]
        metrics = compute(summarise(features), self.reference, layers[self.extractor.logit_layer])
        resampled = [self.distance(features[index]) for index in self._resamples]
        values = [metrics["fid"], *resampled]
        if self._trained is None:
            self._trained = values
        differences = [a - b for a, b in zip(values, self._trained, strict=True)]
        spread = torch.tensor(differences[1:] or [0.0])
        generator = self.system.generator
        with Meter(generator) as meter:
            rate_seeds = image_seeds(self.seed, 0, RATE_IMAGES)
            self.system.sample(rate_seeds, {**options, "engine": "plain"})
        return Row(
            method=method,
            thresholds=thresholds if thresholds is not None else read_thresholds(generator),
            distance=metrics["fid"],
            difference=differences[0],
            low=float(spread.quantile(0.025)),
            high=float(spread.quantile(0.975)),
            kid=metrics["kid"],
            firing_rate=meter.firing_rate,
            evaluations=evaluations,
        )

    def distance(self, features: Tensor) -> float:
        """Frechet distance of ``features`` ``[n, d]``, by eigenvalues of a symmetric matrix:
        tr sqrt(A B) = sum of the roots of the eigenvalues of sqrt(B) A sqrt(B)."""
        features = features.double()
        mean, covariance = features.mean(0), features.T.cov()
        product = self._root @ covariance @ self._root
        cross = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
        shift = (mean - self.reference.mean.double()).square().sum()
        traces = covariance.trace() + self.reference.covariance.trace()
        return float(shift + traces - 2 * cross)


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def held_out(images: Images, system: Any, machine: Machine, count: int, seed: int) -> HeldOut:
    """``count`` images of a split that was not trained on, noised for the loss-based choices."""
    pictures = to_float(images.__getitems__(list(range(min(count, len(images))))))
    return HeldOut.draw(pictures.to(machine.device), system.diffusion, seed=seed)


def by_loss(
    system: System, noised: HeldOut, values: Sequence[float], on_step: Callable[[], None]
) -> tuple[Choice, Choice]:
    """The two choices that draw no image: one threshold for all, and one a layer."""
    generator = system.generator.eval()
    return (
        choose_by_loss(generator, noised, values, on_step),
        choose_by_gradient(generator, noised, STEPS, on_step),
    )


def best(rows: Sequence[Row]) -> Row:
    """The row with the least distance."""
    return min(rows, key=lambda row: row.distance)


def write_guidance(
    checkpoint: Path, chosen: Thresholds, method: str, facts: Mapping[str, Any]
) -> Path:
    """Write the chosen thresholds beside the weights, where sampling finds them."""
    path = checkpoint / GUIDANCE
    content = {"thresholds": chosen, "method": method, **facts}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def as_facts(rows: Sequence[Row], choices: Sequence[Choice]) -> dict[str, Any]:
    """What a guidance file says of how its thresholds were found."""
    return {
        "rows": [asdict(row) for row in rows],
        "curves": {choice.method: choice.curve for choice in choices},
    }
