"""Sample quality: every metric of :data:`bench.quality.metrics.METRICS`.

One pass through the extractor serves the metrics of features (features, then statistics, then
numbers); their numbers come from :mod:`bench.quality.formulas`. Another pass over the pixels serves
those of :mod:`bench.quality.pixels`. What the reference images gave is kept on disk under a hash of
all that produced it.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench.data.datasets import Images, Points
from bench.quality.extractors import build
from bench.quality.formulas import KID_SUBSET_SIZE, KID_SUBSETS, ImageSets, Statistics, summarise
from bench.quality.metrics import METRICS, Metric, spread_column
from bench.quality.pixels import PixelStatistics, measure
from bench.quality.registry import Extractor
from sddpm.progress import progress_bar
from sddpm.replacing import atomic_write

MIN_IMAGES = 10
"""Fewest samples or references: the Inception score is a mean over ten splits."""
BATCH_SIZE = 64
STATISTICS_VERSION = 1
"""Part of the cache's key: raise it when features of the same images would change."""
PIXELS_VERSION = 1
"""The same for the statistics of pixels."""

Kept = TypeVar("Kept")


def score(
    samples: Tensor,
    reference: Images,
    *,
    extractor: Extractor,
    cache_dir: str | Path,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device = "cpu",
    kid_subset_size: int = KID_SUBSET_SIZE,
    kid_subsets: int = KID_SUBSETS,
) -> dict[str, float | int | str]:
    """Every quality metric of ``samples`` (uint8 ``[n, channels, size, size]``).

    Columns are the keys of :data:`bench.quality.metrics.METRICS` under ``extractor.column``. Left
    out are a metric that these references do not define, and the Inception score of an extractor
    without classes.
    Beside them stand ``extractor``, ``samples``, ``references`` (counts), ``reference`` (the
    data's label) and ``reference_hash`` (what the reference statistics were made from).

    Raises:
        ValueError: samples that do not fit the reference, fewer than 10 images, or a metric
            that is not finite; the message names it.
    """
    _check(samples, reference)
    device = torch.device(device)
    network = build(extractor, device)
    known = reference_statistics(reference, network, extractor, Path(cache_dir), batch_size, device)
    layers = extract(
        lambda start, stop: samples[start:stop],
        len(samples), network, batch_size, device, "features of the samples",
    )  # fmt: skip
    own = summarise(layers[extractor.feature_layer])
    logits = layers.get(extractor.logit_layer)
    metrics = compute(own, known, logits, kid_subset_size, kid_subsets)
    pixels = reference_pixels(reference, Path(cache_dir), batch_size)
    metrics |= compute_pixels(measure(samples.split(batch_size)), pixels)
    return {
        **{extractor.column(name): value for name, value in metrics.items()},
        "extractor": extractor.key,
        "samples": len(samples),
        "references": len(reference),
        "reference": reference.label,
        "reference_hash": reference_hash(reference, extractor),
    }


def reference_hash(reference: Images | Points, extractor: Extractor) -> str:
    """16 hex digits of all that makes the reference statistics: the pictures, their number,
    the extractor, its packages' versions, and its weights where its name does not tell them. The
    same on any machine."""
    made_from = {
        "fingerprint": reference.fingerprint,
        "count": len(reference),
        "extractor": extractor.key,
        "layer": extractor.feature_layer,
        "packages": {name: version(name) for name in extractor.packages},
        "statistics": STATISTICS_VERSION,
        **({} if extractor.pinned else {"weights": extractor.weights_sha256}),
    }
    return _hash(made_from)


def reference_statistics(
    reference: Images,
    network: FeatureExtractorBase,
    extractor: Extractor,
    cache_dir: Path,
    batch_size: int,
    device: torch.device,
) -> Statistics:
    """Statistics of the reference images, from ``cache_dir`` where they are known there."""

    def make() -> Statistics:
        layers = extract(
            lambda start, stop: reference.__getitems__(range(start, stop)),
            len(reference), network, batch_size, device, f"features of {reference.label}",
        )  # fmt: skip
        return summarise(layers[extractor.feature_layer])

    path = cache_dir / f"reference-{reference_hash(reference, extractor)}.safetensors"
    return _kept(path, Statistics, make)


def reference_pixels(reference: Images, cache_dir: Path, batch_size: int) -> PixelStatistics:
    """Statistics of the reference images' pixels, from ``cache_dir`` where they are known there."""

    def batches() -> Iterator[Tensor]:
        count, what = len(reference), f"pixels of {reference.label}"
        with progress_bar(what, count, "images", passing=True) as bar:
            for start in range(0, count, batch_size):
                batch = reference.__getitems__(range(start, min(start + batch_size, count)))
                yield batch
                bar.advance(len(batch))

    made_from = {
        "fingerprint": reference.fingerprint,
        "count": len(reference),
        "pixels": PIXELS_VERSION,
    }
    path = cache_dir / f"pixels-{_hash(made_from)}.safetensors"
    return _kept(path, PixelStatistics, lambda: measure(batches()))


def _kept(path: Path, kind: Callable[..., Kept], make: Callable[[], Kept]) -> Kept:
    """Tensors of a ``kind`` that ``path`` holds, made and kept there if it does not."""
    if path.is_file():
        try:
            return kind(**load_file(path))
        except (SafetensorError, OSError, TypeError) as error:
            warnings.warn(f"{path} cannot be read and is made anew: {error}", stacklevel=3)
    statistics = make()
    try:
        with atomic_write(path) as temporary:
            save_file(vars(statistics), temporary)
    except (SafetensorError, OSError) as error:
        # The figures do not need the file; the next run is slower.
        warnings.warn(f"{path} could not be written: {error}", stacklevel=3)
    return statistics


def _hash(made_from: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def extract(
    images: Callable[[int, int], Tensor],
    count: int,
    network: FeatureExtractorBase,
    batch_size: int,
    device: torch.device,
    what: str,
) -> dict[str, Tensor]:
    """Layer name -> float32 ``[count, d]`` on the CPU, all layers in one pass.

    ``images(start, stop)`` gives uint8 ``[stop - start, 1 or 3, H, W]``; grey is repeated.
    """
    parts: dict[str, list[Tensor]] = {}
    progress = progress_bar(what, count, "images", passing=True)
    # TF32 would move the third digit between two kinds of GPU.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with progress as bar, exact, torch.inference_mode():
        for start in range(0, count, batch_size):
            batch = images(start, min(start + batch_size, count)).to(device)
            if batch.shape[1] == 1:
                batch = batch.expand(-1, 3, -1, -1)
            for name, value in network.convert_features_tuple_to_dict(network(batch)).items():
                parts.setdefault(name, []).append(value.float().cpu())
            bar.advance(len(batch))
    return {name: torch.cat(values) for name, values in parts.items()}


def compute(
    samples: Statistics,
    reference: Statistics,
    logits: Tensor | None,
    kid_subset_size: int = KID_SUBSET_SIZE,
    kid_subsets: int = KID_SUBSETS,
    with_spread: bool = True,
) -> dict[str, float]:
    """Every metric of :data:`bench.quality.metrics.METRICS` that reads features and has a formula,
    by its key, and its spread as ``KEY_std`` where it has one.

    ``logits`` (``[n, classes]``) are the samples'; None leaves out metrics that read classes.
    Without ``with_spread`` the Frechet distance has none, which saves seconds.

    Raises:
        ValueError: a metric failed or is not finite; the message names it.
    """
    sets = ImageSets(samples, reference, logits, kid_subset_size, kid_subsets, with_spread)
    against = "for {} samples against {} references".format(*sets.counts)
    chosen = [
        metric
        for metric in METRICS.values()
        if metric.reads == "features" and not (metric.reads_classes and logits is None)
    ]
    return evaluate(chosen, (sets,), against)


def compute_pixels(samples: PixelStatistics, reference: PixelStatistics) -> dict[str, float]:
    """Every metric that reads pixels, by its key; without those that are not defined for these
    references, such as the contrast against pictures of one grey.

    Raises:
        ValueError: as :func:`compute`.
    """
    chosen = [metric for metric in METRICS.values() if metric.reads == "pixels"]
    return evaluate(chosen, (samples, reference), "for the samples' pixels")


def evaluate(metrics: Iterable[Metric], sets: tuple[Any, ...], against: str) -> dict[str, float]:
    """Figures of ``metrics`` that have a formula, by key, and their spreads.

    Args:
        sets: arguments of every formula.
        against: words for the sets, for a message.

    Raises:
        ValueError: a metric failed or is not finite; the message names it.
    """
    found: dict[str, float] = {}
    for metric in metrics:
        if metric.formula is None:
            continue
        try:
            estimate = metric.load()(*sets)
        except (ValueError, RuntimeError) as error:  # numpy's LinAlgError is a ValueError
            raise ValueError(f"metric {metric.key} failed {against}: {error}") from error
        if estimate is None:
            continue
        for name, value in (
            (metric.key, estimate.value),
            (spread_column(metric.key), estimate.spread),
        ):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"metric {name} came out as {value} {against}")
            if value is not None:
                found[name] = float(value)
    return found


def _check(samples: Tensor, reference: Images) -> None:
    shape = reference.shape
    wanted = [shape.channels, shape.size, shape.size]
    if samples.dtype != torch.uint8 or samples.dim() != 4 or list(samples.shape[1:]) != wanted:
        raise ValueError(
            f"samples are {samples.dtype} {list(samples.shape)}; "
            f"{reference.label} wants uint8 [n, {', '.join(map(str, wanted))}]"
        )
    for what, count in (("samples", len(samples)), ("references", len(reference))):
        if count < MIN_IMAGES:
            raise ValueError(f"{count} {what} are too few to score; at least {MIN_IMAGES}")
