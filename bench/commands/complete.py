"""Offers of the shell at the tab key: names of suites, presets, systems, samplers, data sets and
shipped checkpoints. Imports no torch, except for samplers.
"""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def suites(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped suites, or files where none begins so."""
    from bench.suites.reading import shipped_suites

    return _or_files(_beginning(shipped_suites(), incomplete), incomplete)


def presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets of the suite that was named before; none where that cannot be read."""
    from bench.suites.reading import read_outline

    try:
        return _beginning(read_outline(ctx.params["suite"])["presets"], incomplete)
    except (KeyError, ValueError, OSError, TypeError):
        return []


def systems(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Systems; after a comma a further one."""
    from bench.registry import SYSTEMS

    return _listed(SYSTEMS, incomplete)


def samplers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Samplers; after a comma a further one."""
    from sddpm.samplers import SAMPLERS

    return _listed(SAMPLERS, incomplete)


def datasets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Data sets by name."""
    from bench.data.datasets import DATASETS

    return _beginning(DATASETS, incomplete)


def checkpoints(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Shipped checkpoints, or folders where none begins so."""
    from sddpm.checkpoint import shipped_checkpoints

    return _or_files(_beginning(shipped_checkpoints(), incomplete), incomplete, "dir")


def _beginning(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _listed(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    before, comma, last = incomplete.rpartition(",")
    return _beginning([before + comma + name for name in names], before + comma + last)


def _or_files(found: list[CompletionItem], incomplete: str, kind: str = "file") -> list:
    return found or [CompletionItem(incomplete, type=kind)]
