"""Scoring the plain way: timm's network as it is loaded, torch's resizing, the same metrics."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bench.data.datasets import Images
from bench.quality import fidelity
from bench.quality.efficientnet import RELEASES, load_efficientnet_lite
from bench.quality.extractors import build
from bench.quality.registry import EMBEDDED


class PlainScoring:
    """Metrics of samples with BatchNorm unfolded, in the default memory order.

    Args:
        reference: the data; its statistics are made here, as
            :func:`bench.quality.fidelity.score` keeps them from one call to the next.
        cache_dir: where they are kept.
    """

    def __init__(self, reference: Images, cache_dir: Path) -> None:
        device = torch.device("cpu")
        self.known = fidelity.reference_statistics(
            *(reference, build(EMBEDDED, device), EMBEDDED, cache_dir),
            *(fidelity.BATCH_SIZE, device),
        )
        self.network = load_efficientnet_lite(EMBEDDED.key)

    @torch.inference_mode()
    def __call__(self, samples: Tensor) -> dict[str, float]:
        """The metrics of uint8 ``[n, channels, size, size]``, by name."""
        features, logits = [], []
        size = RELEASES[EMBEDDED.key].size
        for batch in samples.split(fidelity.BATCH_SIZE):
            pixels = interpolate(
                batch.expand(-1, 3, -1, -1).float(),
                (size, size),
                mode="bicubic",
                antialias=True,
            )
            pixels = pixels.clamp(0, 255).sub(127).div(128)
            known = self.network.forward_features(pixels)
            features.append(self.network.forward_head(known, pre_logits=True))
            logits.append(self.network.get_classifier()(features[-1]))
        own = fidelity.summarise(torch.cat(features))
        return fidelity.compute(
            *(own, self.known, torch.cat(logits)), fidelity.KID_SUBSET_SIZE, fidelity.KID_SUBSETS
        )
