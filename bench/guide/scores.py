"""Scores thresholds of one checkpoint with common random numbers, and keeps what is scored.

Every threshold draws the same images' noise and is scored on the same resampled images, so
the confidence interval of a difference is far narrower than that of either distance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bench.data.pictures import Images, cache_folder
from bench.files import write_text
from bench.look.activity import firing_rate
from bench.machine import Machine
from bench.quality.extractors import Extractor, build
from bench.quality.fidelity import (
    compute,
    extract,
    reference_hash,
    reference_statistics,
    summarise,
)
from sddpm.guidance import Thresholds, read_thresholds, simplify
from sddpm.protocol import System, to_uint8
from sddpm.rng import image_seeds

RATE_IMAGES = 4
"""Images behind a firing rate."""
NORMAL_95 = 1.959964
"""Half of a 95 % interval, in standard errors."""
RESULTS_VERSION = 1
"""Part of a kept result's key: raise it when the same inputs would give another result."""


@dataclass(frozen=True)
class ScoredThresholds:
    """One setting of the thresholds, scored."""

    method: str
    """``trained``, ``grid``, ``loss`` or ``gradient``."""
    thresholds: Thresholds
    distance: float
    """Frechet distance."""
    difference: float
    """Its difference from the trained thresholds'."""
    low: float | None
    high: float | None
    """95 % interval of the difference, from its standard error by paired bootstrap over the
    images; None where nothing was resampled."""
    kid: float
    firing_rate: float
    loss_difference: float | None
    """Held-out denoising loss minus the trained thresholds'; None where it was not measured."""
    loss_error: float | None
    """Its standard error."""
    evaluations: int
    """Network evaluations of one image that finding this setting costs."""
    confirmation: bool = False
    """Drawn from other noise than what the choice was made with."""

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        """Which side of 0 the interval lies on."""
        if self.low is not None and self.high is not None:
            if self.high < 0:
                return "better"
            if self.low > 0:
                return "worse"
        return "undecided"


class Ledger:
    """Results of earlier calls in one file, a JSON line each, by a hash of what made them.

    Args:
        path: the file; None keeps them in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, Any] = {}
        if path is None or not path.is_file():
            return
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                entry = json.loads(line.decode("utf-8"))
                key, _ = entry["key"], entry["result"]  # both must be there
                self._known[key] = entry
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: not a kept result; delete the file to redo it"
                ) from error

    def recall(self, made_from: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The result (JSON) of ``made_from``, made and kept if it is not known."""
        facts = {**made_from, "results": RESULTS_VERSION}
        text = json.dumps(facts, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if key not in self._known:
            result = json.loads(json.dumps(make()))
            self._known[key] = {"key": key, "made_from": facts, "result": result}
            if self.path is not None:
                lines = (json.dumps(entry) + "\n" for entry in self._known.values())
                write_text(self.path, "".join(lines))
        return self._known[key]["result"]


class Scorer:
    """Scores thresholds of one system against one reference.

    Args:
        system: a denoiser with spiking neurons.
        sampling: solver options.
        samples: images drawn per setting.
        bootstrap: resamplings behind an interval; 0 for none.
        ledger: keeps what is scored.
        weights: hash of the system's weights and configuration, for the ledger.
        on_images: called with the number of images drawn.
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
        ledger: Ledger | None = None,
        weights: str = "",
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.system, self.machine, self.extractor = system, machine, extractor
        self.sampling, self.samples, self.seed, self.batch = sampling, samples, seed, batch
        self.on_images, self._ledger = on_images, ledger or Ledger(None)
        self.network = build(extractor, machine.device)
        self.reference = reference_statistics(
            references, self.network, extractor, cache_folder() / "references", 64, machine.device
        )
        self._covariance = self.reference.covariance.double()
        rng = torch.Generator().manual_seed(seed)
        self._resamples = [
            torch.randint(samples, (samples,), generator=rng) for _ in range(bootstrap)
        ]
        self._made_from = {
            "weights": weights,
            "sampling": dict(sampling),
            "samples": samples,
            "seed": seed,
            "bootstrap": bootstrap,
            "references": reference_hash(references, extractor),
        }

    def row(
        self,
        method: str,
        thresholds: Thresholds | None,
        evaluations: int,
        *,
        loss: Mapping[str, float] | None = None,
        confirmation: bool = False,
    ) -> ScoredThresholds:
        """Draw and score ``samples`` images at ``thresholds``; None is as trained.

        Args:
            loss: the held-out ``difference`` and ``standard_error``.
            confirmation: draw the next ``samples`` images of the seed instead of the first.
        """
        trained = simplify(read_thresholds(self.system.generator))
        setting = trained if thresholds is None else simplify(thresholds)
        base = self._scored(trained, confirmation)
        own = self._scored(setting, confirmation)
        pairs = zip(own["distances"], base["distances"], strict=True)
        difference, *resampled = [a - b for a, b in pairs]
        error = float(torch.tensor(resampled).std()) if len(resampled) > 1 else None
        return ScoredThresholds(
            method=method,
            thresholds=setting,
            distance=own["distances"][0],
            difference=difference,
            low=None if error is None else difference - NORMAL_95 * error,
            high=None if error is None else difference + NORMAL_95 * error,
            kid=own["kid"],
            firing_rate=own["firing_rate"],
            loss_difference=None if loss is None else loss["difference"],
            loss_error=None if loss is None else loss["standard_error"],
            evaluations=evaluations,
            confirmation=confirmation,
        )

    def _scored(self, thresholds: Thresholds, confirmation: bool) -> dict[str, Any]:
        """Distances (of all images, then of each resample), KID and firing rate."""
        first = self.samples if confirmation else 0
        made_from = {**self._made_from, "first": first, "thresholds": thresholds}
        result: dict[str, Any] = self._ledger.recall(
            made_from, lambda: self._score(thresholds, first)
        )
        return result

    def _score(self, thresholds: Thresholds, first: int) -> dict[str, Any]:
        options = {**self.sampling, "threshold": thresholds}
        parts = []
        for start in range(first, first + self.samples, self.batch):
            seeds = image_seeds(self.seed, start, min(start + self.batch, first + self.samples))
            parts.append(to_uint8(self.system.sample(seeds, options)))
            self.on_images(len(seeds))
        images = torch.cat(parts)
        layers = extract(
            lambda start, stop: images[start:stop],
            len(images), self.network, 64, self.machine.device, "features of the samples",
        )  # fmt: skip
        features = layers[self.extractor.feature_layer]
        metrics = compute(summarise(features), self.reference, layers[self.extractor.logit_layer])
        rate_seeds = image_seeds(self.seed, first, first + RATE_IMAGES)
        return {
            "distances": [metrics["fid"], *self.distances(features, self._resamples)],
            "kid": metrics["kid"],
            "firing_rate": firing_rate(self.system, rate_seeds, options),
        }

    def distances(self, features: Tensor, resamples: Sequence[Tensor]) -> list[float]:
        """Frechet distance of each resample of ``features`` ``[n, d]``: indices, with repeats.

        tr sqrt(A B) is the sum of the roots of AB's eigenvalues. With A = X'X / (n - 1) they
        are those of X B X' / (n - 1), whose rows are images: one product with B serves every
        resample, and images that a resample holds twice enter once, weighted.
        """
        features = features.double()
        gram = features @ self._covariance @ features.T if resamples else None
        found = []
        for index in resamples:
            assert gram is not None
            rows, counts = index.unique(return_counts=True)
            x, weight = features[rows], counts.double()
            n = float(weight.sum())
            mean = weight @ x / n
            g = gram[rows][:, rows]
            # Centre with the weighted mean on either side.
            g = g - (weight @ g / n)[None]
            g = g - (g @ weight / n)[:, None]
            root = weight.sqrt()
            g = root[:, None] * g * root[None] / (n - 1)
            cross = torch.linalg.eigvalsh((g + g.T) / 2).clamp(min=0).sqrt().sum()
            trace = (weight @ (x - mean).square().sum(1)) / (n - 1)
            shift = (mean - self.reference.mean.double()).square().sum()
            found.append(float(shift + trace + self._covariance.trace() - 2 * cross))
        return found
