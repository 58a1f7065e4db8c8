"""A random order that decides which data are held out, the same on any machine."""

from __future__ import annotations

from sddpm.rng import mix

SAMPLE_SEED = 0
"""Seed of the order in which data are taken for a held-out split, or for a limit."""


def random_order(count: int) -> list[int]:
    """[0, count) in a random order that is the same on any machine and under any version."""
    return sorted(range(count), key=lambda index: mix(SAMPLE_SEED, index))
