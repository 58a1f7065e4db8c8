"""Batches of samples in files (shards), until all samples of a cell are drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.run.settled import DrawnAt
from bench.run.states import MADE_AT, SHARDS, made_at
from sddpm.replacing import atomic_write


def shard_path(folder: Path, start: int, stop: int) -> Path:
    """Path of the images ``[start, stop)`` of the samples in ``folder``."""
    return folder / SHARDS / f"{start:07d}-{stop:07d}.npz"


def write_shard(path: Path, images: NDArray[np.uint8], seconds: float, at: DrawnAt) -> None:
    """Keep ``images`` (uint8 ``[n, C, H, W]``) and how long they took, atomically."""
    facts: Any = {MADE_AT: np.array(json.dumps(at))}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, images=images, seconds=np.float64(seconds), **facts)


def read_shard(path: Path, at: DrawnAt) -> tuple[NDArray[np.uint8], float] | None:
    """Images and seconds of a shard; None if it is absent, damaged or drawn at others."""
    try:
        with np.load(path, allow_pickle=False) as shard:
            facts = {MADE_AT: json.loads(shard[MADE_AT].item())} if MADE_AT in shard else {}
            images, seconds = shard["images"], float(shard["seconds"])
    except Exception:  # one damaged bit can raise nearly anything in zipfile
        return None
    return (images, seconds) if made_at(facts, at) else None


def read_shards(paths: Sequence[Path], at: DrawnAt) -> tuple[NDArray[np.uint8], float]:
    """Images and seconds of all shards together; ValueError that names one that is not whole."""
    parts, total = [], 0.0
    for path in paths:
        shard = read_shard(path, at)
        if shard is None:
            raise ValueError(f"{path}: not a whole batch of samples; the next run draws it again")
        images, seconds = shard
        parts.append(images)
        total += seconds
    return np.concatenate(parts), total
