"""Offers of the shell at the tab key: names of suites, presets, systems, samplers, data sets and
shipped checkpoints. Imports no torch, except for samplers.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

import click
from click.shell_completion import CompletionItem

Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _offer(target: str, *, listed: bool = False, otherwise: str | None = None) -> Offer:
    """An offer of the names in ``target``, which is imported at the tab key.

    Args:
        target: ``module:name`` of a mapping, or of a function that gives one.
        listed: after a comma, a further name is offered.
        otherwise: Click's kind of path, offered where no name begins so.
    """

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        found = resolve_name(target)
        before, comma, last = incomplete.rpartition(",") if listed else ("", "", incomplete)
        names = (name for name in (found() if callable(found) else found) if name.startswith(last))
        items = [CompletionItem(before + comma + name) for name in names]
        return items or ([CompletionItem(incomplete, type=otherwise)] if otherwise else [])

    return complete


suites = _offer("bench.suites.reading:shipped_suites", otherwise="file")
systems = _offer("bench.registry:SYSTEMS", listed=True)
samplers = _offer("sddpm.samplers:SAMPLERS", listed=True)
datasets = _offer("bench.data.datasets:DATASETS")
checkpoints = _offer("sddpm.checkpoint:shipped_checkpoints", otherwise="dir")


def presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets of the suite that was named before; none where that cannot be read."""
    from bench.suites.reading import read_outline

    try:
        names = read_outline(ctx.params["suite"])["presets"]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]
    except (KeyError, ValueError, OSError, TypeError):
        return []
