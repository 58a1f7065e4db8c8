"""The choice of a feature extractor for sample quality, and the networks of torch-fidelity.

Figures of two extractors cannot be compared, so each has columns of its own: ``fd_efflite0`` is a
Frechet distance but never ``fid``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pkgutil import resolve_name

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.utils import create_feature_extractor

from bench.quality.registry import (
    AUTO,
    EMBEDDED,
    EXTRACTORS,
    INCEPTION,
    Extractor,
    extractor_choices,
)
from bench.quality.weights import cached_weights, with_weights
from bench.registry import choose


def choose_extractor(choice: str = AUTO, weights: Path | None = None) -> Extractor:
    """The extractor for ``choice``, with the reason and the file of its weights filled in.

    ``auto`` takes Inception where its weights are cached or can be fetched, else the embedded
    one. Weights (91 MB for Inception) are fetched at once where they are not cached.

    Args:
        weights: file of the weights, in place of the cached or fetched one.

    Raises:
        ValueError: ``choice`` is none of :func:`bench.quality.registry.extractor_choices`, takes
            no file, or needs a package that is not installed.
        FileNotFoundError: the weights of the chosen extractor cannot be had.
    """
    choose("extractor", choice, extractor_choices())
    entry = EXTRACTORS[INCEPTION.name if choice == AUTO else choice]
    if weights is not None and (choice == AUTO or not entry.url):
        legal = ", ".join(name for name, known in EXTRACTORS.items() if known.url)
        raise ValueError(
            f"--extractor-weights {weights}: name its extractor with --extractor, one of {legal}"
        )
    _check_packages(entry)
    if not entry.url:
        return replace(entry, reason=f"the {choice} extractor was asked for")
    if weights is not None:
        return with_weights(entry, weights)
    try:
        return with_weights(entry)
    except (OSError, ValueError) as error:
        lack = lacking(entry, error)
        if choice != AUTO:
            raise FileNotFoundError(f"{lack}; {remedy(entry)}") from error
        return replace(EMBEDDED, reason=lack)


def is_installed(extractor: Extractor) -> bool:
    """Whether every package that an extractor needs is there."""
    return next(_lacking(extractor), None) is None


def _lacking(extractor: Extractor) -> Iterator[str]:
    for package in extractor.packages:
        try:
            version(package)
        except PackageNotFoundError:
            yield package


def _check_packages(extractor: Extractor) -> None:
    for package in _lacking(extractor):
        raise ValueError(
            f"--extractor {extractor.name}: needs the package {package}; install "
            f"sddpm-bench[{extractor.extra}]"
        )


def lacking(extractor: Extractor, error: Exception) -> str:
    """Words for weights that are not cached and could not be fetched."""
    path = cached_weights(extractor)
    return f"{extractor.name} weights are not at {path} and could not be fetched ({error})"


def remedy(extractor: Extractor) -> str:
    """Words for what to do without the weights of ``extractor``."""
    return (
        f"put {extractor.url} there, give --extractor-weights FILE, or use the embedded extractor"
    )


def build(extractor: Extractor, device: torch.device) -> FeatureExtractorBase:
    """The network, frozen, on ``device``: uint8 ``[n, 3, H, W]`` in, a tuple of float32 out.

    Raises:
        ValueError: the weights are not the ones this extractor is named for.
        FileNotFoundError: the weights are not there.
    """
    network: FeatureExtractorBase = resolve_name(extractor.network)(extractor)
    return network.to(device)


def torch_fidelity_network(extractor: Extractor) -> FeatureExtractorBase:
    """A network of torch-fidelity with the chosen weights, or those in the cache.

    Raises:
        ValueError, FileNotFoundError: as :func:`build`.
    """
    path = extractor.weights or cached_weights(extractor)
    if not path.is_file():
        raise FileNotFoundError(f"{extractor.name} weights are not at {path}; {remedy(extractor)}")
    if path.suffix == ".pth":
        # torch-fidelity loads with pickle, so the same file first passes a load without it.
        torch.load(path, map_location="cpu", weights_only=True)
    network: FeatureExtractorBase = create_feature_extractor(
        extractor.key,
        extractor.layers,
        cuda=False,
        verbose=False,
        feature_extractor_weights_path=str(path),
    )
    return network
