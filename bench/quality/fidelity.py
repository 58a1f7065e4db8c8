"""Sample quality: Frechet distance, Inception score, KID, precision and recall.

One pass through the extractor serves all of them (features, then statistics, then numbers);
the numbers are torch-fidelity's own functions. What the reference images gave is kept on disk
under a hash of all that produced it.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from bench.data.datasets import Images
from bench.quality.extractors import Extractor, build
from sddpm.checkpoint import atomic_write

MIN_IMAGES = 10
"""Fewest samples or references: the Inception score is a mean over ten splits."""
BATCH_SIZE = 64
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
PRECISION_RAM_IMAGES = 10_000
"""From here on, distances for precision and recall are made in blocks."""
STATISTICS_VERSION = 1
"""Part of the cache's key: raise it when features of the same images would change."""


@dataclass(frozen=True)
class Statistics:
    """What a set of images is to the metrics."""

    features: Tensor
    """float32 ``[n, d]``."""
    mean: Tensor
    """float32 ``[d]``."""
    covariance: Tensor
    """float64 ``[d, d]``."""


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

    Columns are :data:`bench.quality.extractors.METRICS` under ``extractor.column``: Frechet
    distance and KID (from 0, lower is better; KID may fall a little below 0), Inception score
    (from 1, higher is better), precision and recall (0 to 1). KID's subsets hold at most the
    smaller of the two sets; where one subset is both sets entire there is one estimate and no
    ``kid_std``.
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
    metrics = compute(own, known, layers[extractor.logit_layer], kid_subset_size, kid_subsets)
    return {
        **{extractor.column(name): value for name, value in metrics.items()},
        "extractor": extractor.key,
        "samples": len(samples),
        "references": len(reference),
        "reference": reference.label,
        "reference_hash": reference_hash(reference, extractor),
    }


def reference_hash(reference: Images, extractor: Extractor) -> str:
    """16 hex digits of all that makes the reference statistics: the pictures, their number,
    the extractor and its packages' versions. The same on any machine."""
    made_from = {
        "fingerprint": reference.fingerprint,
        "count": len(reference),
        "extractor": extractor.key,
        "layer": extractor.feature_layer,
        "packages": {name: version(name) for name in extractor.packages},
        "statistics": STATISTICS_VERSION,
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def reference_statistics(
    reference: Images,
    network: FeatureExtractorBase,
    extractor: Extractor,
    cache_dir: Path,
    batch_size: int,
    device: torch.device,
) -> Statistics:
    """Statistics of the reference images, from ``cache_dir`` where they are known there."""
    path = cache_dir / f"reference-{reference_hash(reference, extractor)}.safetensors"
    if path.is_file():
        try:
            return Statistics(**load_file(path))
        except (SafetensorError, OSError, TypeError) as error:
            warnings.warn(f"{path} cannot be read and is made anew: {error}", stacklevel=2)
    layers = extract(
        lambda start, stop: reference.__getitems__(range(start, stop)),
        len(reference), network, batch_size, device, f"features of {reference.label}",
    )  # fmt: skip
    statistics = summarise(layers[extractor.feature_layer])
    try:
        with atomic_write(path) as temporary:
            save_file(vars(statistics), temporary)
    except (SafetensorError, OSError) as error:
        # The figures do not need the file; the next run is slower.
        warnings.warn(f"{path} could not be written: {error}", stacklevel=2)
    return statistics


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
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=count)
    # TF32 would move the third digit between two kinds of GPU.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with bar, exact, torch.inference_mode():
        for start in range(0, count, batch_size):
            batch = images(start, min(start + batch_size, count)).to(device)
            if batch.shape[1] == 1:
                batch = batch.expand(-1, 3, -1, -1)
            for name, value in network.convert_features_tuple_to_dict(network(batch)).items():
                parts.setdefault(name, []).append(value.float().cpu())
            bar.advance(task, len(batch))
    return {name: torch.cat(values) for name, values in parts.items()}


def summarise(features: Tensor) -> Statistics:
    """Mean and covariance of float32 features ``[n, d]``, kept beside them."""
    moments = fid_features_to_statistics(features)
    mean, covariance = (torch.from_numpy(moments[key]) for key in ("mu", "sigma"))
    return Statistics(features, mean, covariance)


def compute(
    samples: Statistics,
    reference: Statistics,
    logits: Tensor,
    kid_subset_size: int = KID_SUBSET_SIZE,
    kid_subsets: int = KID_SUBSETS,
) -> dict[str, float]:
    """The metrics under the names of :data:`bench.quality.extractors.METRICS`.

    ``logits`` (``[n, classes]``) are the samples'.

    Raises:
        ValueError: a metric failed or is not finite; the message names it.
    """
    counts = len(samples.features), len(reference.features)
    subset = min(kid_subset_size, *counts)
    if counts == (subset, subset):
        kid_subsets = 1  # every subset would be the same two sets
    in_blocks = max(counts) > PRECISION_RAM_IMAGES

    def frechet() -> Mapping[str, float]:
        return fid_statistics_to_metric(_moments(samples), _moments(reference), False)

    def inception() -> Mapping[str, float]:
        return isc_features_to_metric(logits)

    def kernel() -> Mapping[str, float]:
        return kid_features_to_metric(
            samples.features, reference.features,
            kid_subset_size=subset, kid_subsets=kid_subsets, verbose=False,
        )  # fmt: skip

    def neighbours() -> Mapping[str, float]:
        return prc_features_to_metric(
            samples.features, reference.features, save_cpu_ram=in_blocks, verbose=False
        )

    kid = {"kid": "kernel_inception_distance_mean"}
    if kid_subsets > 1:
        kid["kid_std"] = "kernel_inception_distance_std"
    metrics: dict[str, float] = {}
    for measure, names in (
        (frechet, {"fid": "frechet_inception_distance"}),
        (inception, {"is": "inception_score_mean", "is_std": "inception_score_std"}),
        (kernel, kid),
        (neighbours, {"precision": "precision", "recall": "recall"}),
    ):
        against = f"for {counts[0]} samples against {counts[1]} references"
        try:
            results = measure()
        except (ValueError, RuntimeError) as error:  # numpy's LinAlgError is a ValueError
            raise ValueError(f"metric {', '.join(names)} failed {against}: {error}") from error
        for name, key in names.items():
            if not math.isfinite(results[key]):
                raise ValueError(f"metric {name} came out as {results[key]} {against}")
            metrics[name] = float(results[key])
    return metrics


def _moments(statistics: Statistics) -> dict[str, object]:
    return {"mu": statistics.mean.numpy(), "sigma": statistics.covariance.numpy()}


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
