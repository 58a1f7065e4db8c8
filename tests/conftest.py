"""Shared fixtures: generated images and the optional real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.images import GeneratedImages


@pytest.fixture
def blobs() -> GeneratedImages:
    return GeneratedImages()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and no data but what the package brings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SDDPM_DATA_ROOT", raising=False)


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets, where the machine has one."""
    root = os.environ.get("SDDPM_DATA_ROOT")
    if not root:
        pytest.skip("SDDPM_DATA_ROOT is not set: no real images on this machine")
    return Path(root)
