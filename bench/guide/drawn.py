"""Draws images at a setting and scores them: distances, KID, ratios of pixels and firing rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.data.pictures import Images, cache_folder
from bench.guide.match import MATCH_IMAGES
from bench.guide.scores import PIXELS, Setting
from bench.look.activity import firing_rate, spiking_modules
from bench.machine import Machine
from bench.quality.extractors import build
from bench.quality.fidelity import (
    compute,
    compute_pixels,
    extract,
    reference_hash,
    reference_pixels,
    reference_statistics,
    summarise,
)
from bench.quality.pixels import measure
from bench.quality.registry import Extractor
from bench.quality.resampling import resampled_distances
from sddpm.protocol import System, to_uint8
from sddpm.rng import image_seeds

RATE_IMAGES = 4
"""Images behind a firing rate."""


class DrawnScores:
    """Scores of drawn images against one reference.

    Args:
        system: a denoiser.
        sampling: solver options.
        samples: images drawn per setting.
        bootstrap: resamplings behind an interval; 0 for none.
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
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.system, self.machine, self.extractor = system, machine, extractor
        self.sampling, self.samples, self.seed, self.batch = sampling, samples, seed, batch
        self.on_images = on_images
        self.network = build(extractor, machine.device)
        self.reference = reference_statistics(
            references, self.network, extractor, cache_folder() / "references", 64, machine.device
        )
        self._few: dict[str, Tensor] = {}
        self.pixels = reference_pixels(references, cache_folder() / "references", 64)
        rng = torch.Generator().manual_seed(seed)
        self._resamples = [
            torch.randint(samples, (samples,), generator=rng) for _ in range(bootstrap)
        ]
        self.made_from: dict[str, Any] = {
            "sampling": dict(sampling),
            "samples": samples,
            "seed": seed,
            "bootstrap": bootstrap,
            "references": reference_hash(references, extractor),
        }
        """Settings that decide a score besides the system's weights, JSON-ready."""

    def draw(self, setting: Setting, first: int, count: int) -> Tensor:
        """Images, uint8 ``[count, C, H, W]``, from number ``first`` of the seed on."""
        options, parts = self.options(setting), []
        for start in range(first, first + count, self.batch):
            seeds = image_seeds(self.seed, start, min(start + self.batch, first + count))
            parts.append(to_uint8(self.system.sample(seeds, options)))
            self.on_images(len(seeds))
        images = torch.cat(parts)
        if first == 0 and count >= MATCH_IMAGES:
            self._few[setting.key] = images[:MATCH_IMAGES]
        return images

    def match(self, setting: Setting) -> dict[str, float]:
        """Ratios of the first :data:`MATCH_IMAGES` images, which are drawn if they were not yet."""
        if setting.key not in self._few:
            self.draw(setting, 0, MATCH_IMAGES)
        return self.ratios(self._few[setting.key])

    def options(self, setting: Setting) -> dict[str, Any]:
        """Solver options at ``setting``."""
        return {**self.sampling, "threshold": setting.thresholds, "gain": setting.gain}

    def ratios(self, images: Tensor) -> dict[str, float]:
        """Contrast, saturation and noise of ``images``, as far as the data defines them."""
        found = compute_pixels(measure(images.split(64)), self.pixels)
        return {name: found[name] for name in PIXELS if name in found}

    def score(self, setting: Setting, first: int) -> dict[str, Any]:
        """Distances (of all images, then of each resample), KID, ratios of pixels and firing rate.

        Args:
            first: number of the first image among those of the seed.
        """
        images = self.draw(setting, first, self.samples)
        layers = extract(
            lambda start, stop: images[start:stop],
            len(images), self.network, 64, self.machine.device, "features of the samples",
        )  # fmt: skip
        features = layers[self.extractor.feature_layer]
        logits = layers.get(self.extractor.logit_layer)
        metrics = compute(summarise(features), self.reference, logits, with_spread=False)
        return {
            "distances": [metrics["fid"], *self.distances(features, self._resamples)],
            "kid": metrics["kid"],
            "firing_rate": self.firing_rate(setting, first),
            **self.ratios(images),
        }

    def firing_rate(self, setting: Setting, first: int) -> float | None:
        """Spikes per neuron and step of a few images; None where no neuron emits any."""
        if not spiking_modules(self.system.generator):
            return None
        seeds = image_seeds(self.seed, first, first + RATE_IMAGES)
        return firing_rate(self.system, seeds, self.options(setting))

    def distances(self, features: Tensor, resamples: Sequence[Tensor]) -> list[float]:
        """Frechet distance of each resample of ``features`` ``[n, d]``: indices, with repeats."""
        known = self.reference
        return list(resampled_distances(features, known.mean, known.covariance, resamples))
