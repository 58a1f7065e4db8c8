"""``sddpm-bench list``: systems, suites, data sets, samplers and extractors, a row each."""

from __future__ import annotations

from collections.abc import Callable

import click

from bench.commands.terminal import print_table


def systems() -> list[list[str]]:
    """Systems that can be trained, one row each."""
    from bench.registry import SYSTEMS

    rows = [["name", "title", "time steps", "parent", "samplers", "paper"]]
    for name, entry in SYSTEMS.items():
        samplers = "yes" if entry.samplers else "-"
        rows.append(
            [name, entry.title, entry.time_axis, entry.parent or "-", samplers, entry.paper]
        )
    return rows


def suites() -> list[list[str]]:
    """The shipped suites."""
    from bench.suites.reading import read_outline, shipped_suites

    rows = [["name", "title", "dataset", "presets"]]
    for name in shipped_suites():
        outline = read_outline(name)
        rows.append([name, outline["title"], outline["dataset"], ", ".join(outline["presets"])])
    return rows


def datasets() -> list[list[str]]:
    """The data sets by name."""
    from bench.data.datasets import DATASETS

    rows = [["name", "channels", "size", "mirrored", "Hub name"]]
    for name, spec in DATASETS.items():
        mirrored = "yes" if spec.horizontal_flip else "no"
        hub = spec.hub or f"- ({spec.origin})"
        channels = f"points: {spec.manifold}" if spec.manifold else str(spec.channels)
        rows.append([name, channels, str(spec.image_size), mirrored, hub])
    rows.append(["folder:PATH", "as found", "64", "no", "- (a folder of images)"])
    return rows


def samplers() -> list[list[str]]:
    """The solvers of systems that denoise."""
    from sddpm.samplers import SAMPLERS

    rows = [["name", "takes eta", "what it is"]]
    for name, entry in SAMPLERS.items():
        rows.append([name, "yes" if entry.takes_eta else "no", entry.about])
    return rows


def extractors() -> list[list[str]]:
    """The networks that compute features for the metrics."""
    from bench.quality.registry import EXTRACTORS

    rows = [["name", "distance", "weights"]]
    for name, entry in EXTRACTORS.items():
        rows.append([name, entry.column("fid"), entry.url or "- (a package brings them)"])
    return rows


def devices() -> list[list[str]]:
    """Processor, threads and kernels that compute here, and why; may compile kernels to tell."""
    from sddpm.hardware import describe

    return [["what", "is", "why"], *map(list, describe())]


LISTS: dict[str, Callable[[], list[list[str]]]] = {
    rows.__name__: rows for rows in (systems, suites, datasets, samplers, extractors, devices)
}


@click.command("list")
@click.argument("what", type=click.Choice(list(LISTS)))
def list_(what: str) -> None:
    """List systems, suites, data sets, samplers or extractors, or what computes on this machine."""
    headings, *rows = LISTS[what]()
    print_table(headings, rows)
