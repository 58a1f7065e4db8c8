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
def data_root() -> Path:
    """The folder of real data sets, where the machine has one."""
    root = os.environ.get("SDDPM_DATA_ROOT")
    if not root:
        pytest.skip("SDDPM_DATA_ROOT is not set: no real images on this machine")
    return Path(root)
