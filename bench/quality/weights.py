"""Files with the weights of extractors: the user's, those in torch hub's cache, or downloads."""

from __future__ import annotations

import hashlib
import urllib.request
from dataclasses import replace
from pathlib import Path

import torch

from bench.quality.registry import Extractor
from sddpm.progress import progress_bar
from sddpm.replacing import atomic_write

FETCH_TIMEOUT_S = 5.0
"""Seconds for which the host of the weights may stay silent."""


def cached_weights(extractor: Extractor) -> Path:
    """Path of the extractor's weights in torch hub's cache folder."""
    return Path(torch.hub.get_dir(), "checkpoints", extractor.file)


def with_weights(extractor: Extractor, given: Path | None = None) -> Extractor:
    """The extractor with the file of its weights, and the reason for this file.

    The file is ``given``, else the one in torch hub's cache, else one that is fetched to there.

    Raises:
        FileNotFoundError: there is no file ``given``.
        ValueError: it is another file than the published one.
        OSError: the weights are not cached and could not be fetched.
    """
    if given is not None:
        if not given.is_file():
            raise FileNotFoundError(f"--extractor-weights {given}: no such file")
        if not is_published(extractor, given):
            raise ValueError(
                f"--extractor-weights {given}: is not the file that figures of {extractor.name} "
                f"are for; expected {extractor.url}, SHA-256 {extractor.sha256}..."
            )
        return _with_file(extractor, given, f"its weights are {given}")
    path = cached_weights(extractor)
    if is_published(extractor, path):
        return _with_file(extractor, path, f"its weights are cached at {path}")
    fetch(extractor, path)
    return _with_file(extractor, path, f"its weights were fetched to {path}")


def is_published(extractor: Extractor, path: Path) -> bool:
    """Whether ``path`` is a file with the published hash, or any file where none is published."""
    return path.is_file() and sha256(path).startswith(extractor.sha256)


def fetch(extractor: Extractor, path: Path, timeout_s: float = FETCH_TIMEOUT_S) -> None:
    """Download an extractor's weights to ``path``, whole or not at all.

    Raises:
        OSError: the host cannot be reached or stays silent for ``timeout_s``.
        ValueError: what came is another file.
    """
    with urllib.request.urlopen(extractor.url, timeout=timeout_s) as answer:
        total = int(answer.headers.get("Content-Length") or 0) or None
        progress = progress_bar(f"{extractor.name} weights", total, "bytes", passing=True)
        with progress as bar, atomic_write(path) as temporary:
            with temporary.open("wb") as file:
                while block := answer.read(1 << 20):
                    file.write(block)
                    bar.advance(len(block))
            if not is_published(extractor, temporary):
                raise ValueError(f"{extractor.url} answered with another file")


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_file(extractor: Extractor, path: Path, reason: str) -> Extractor:
    own = "" if extractor.pinned else sha256(path)
    return replace(extractor, weights=path, weights_sha256=own, reason=reason)
