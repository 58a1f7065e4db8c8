"""Tables of a conversion, made from its records: for a terminal, as CSV and as Markdown.

Imports no torch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from bench.quality.metrics import columns_of, heading, shown
from bench.records.conversions import ConversionCurve, ConvertedNetwork
from bench.tables.text import DASH, csv_table, markdown_table
from bench.visible import visible

HEADINGS = [
    "T", "relative error", "denoising loss", "loss / parent's", "firing rate",
    "published mJ/evaluation", "strict mJ/evaluation",
]  # fmt: skip
Layers = Mapping[str, Sequence[Sequence[str]]]
"""Label of a network -> its table of single layers, rows without the headings."""


def headings(curve: ConversionCurve) -> list[str]:
    """Column names of :func:`rows`."""
    if not curve.scored:
        return HEADINGS
    return [*HEADINGS, *map(heading, _metrics(curve)), "published mJ/image", "strict mJ/image"]


def rows(curve: ConversionCurve) -> list[list[str]]:
    """The table for people; a row without scored samples ends in dashes."""
    width, metrics = len(headings(curve)), _metrics(curve)
    cells = (_cells(network, metrics) for network in curve.networks)
    return [row + [DASH] * (width - len(row)) for row in cells]


def _metrics(curve: ConversionCurve) -> list[str]:
    """Columns of the metrics that any network has; one of an older version has fewer."""
    return columns_of({name for network in curve.scored for name in network.metrics})


def _cells(network: ConvertedNetwork, columns: Sequence[str]) -> list[str]:
    facts, metrics = network.facts, network.metrics
    row = [
        network.label,
        DASH if network.times is None else f"{100 * facts.relative_error:.2f} %",
        f"{facts.denoising_loss:.5f}",
        f"{facts.loss_ratio:.3f}",
        DASH if facts.firing_rate is None else f"{facts.firing_rate:.4f}",
        *(f"{facts.evaluation_mj[name]:.4g}" for name in ("published", "strict")),
    ]
    if not network.scored:
        return row
    return [
        *row,
        *(shown(name, metrics[name]) if name in metrics else DASH for name in columns),
        *(f"{network.image_mj(name):.4g}" for name in ("published", "strict")),
    ]


def breakeven(curve: ConversionCurve, accounting: str) -> tuple[int | None, int | None]:
    """The most spiking time steps at which a constant T costs no more energy than the parent, and
    the fewest of those above at which it costs more; None where there are none."""

    def mj(network: ConvertedNetwork) -> float:
        return network.facts.evaluation_mj[accounting]

    constant = [child for child in curve.children if not child.schedule]
    dear = [child.time_steps for child in constant if mj(child) > mj(curve.parent)]
    cheap = [child.time_steps for child in constant if mj(child) <= mj(curve.parent)]
    return max(filter(None, cheap), default=None), min(filter(None, dear), default=None)


def sentence(curve: ConversionCurve) -> str:
    """Sentence that states from which number of time steps a conversion needs more energy than its
    parent."""

    def dearer(accounting: str) -> str:
        below, above = breakeven(curve, accounting)
        if above is None:
            return "at no T here"
        return f"at T={above}" + ("" if below is None else f" (not yet at T={below})")

    return (
        f"Costs more energy than its ANN {dearer('published')} as published, "
        f"{dearer('strict')} where real inputs are paid as MACs."
    )


def rows_csv(curve: ConversionCurve) -> str:
    """The table in full precision."""
    lines = []
    for network in curve.networks:
        facts, record = network.facts, network.record
        line = {
            "time_steps": network.time_steps,
            "relative_error": facts.relative_error,
            "denoising_loss": facts.denoising_loss,
            "loss_ratio": facts.loss_ratio,
            "firing_rate": facts.firing_rate,
            "published_mj": facts.evaluation_mj["published"],
            "strict_mj": facts.evaluation_mj["strict"],
            "schedule": "/".join(map(str, network.schedule)) or None,
        }
        if network.scored:
            line |= {
                **network.metrics,
                "samples": record.samples,
                "sampling_firing_rate": record.firing_rate,
                "published_mj_per_image": network.image_mj("published"),
                "strict_mj_per_image": network.image_mj("strict"),
            }
        lines.append(line)
    names = list(dict.fromkeys(name for line in lines for name in line))
    return csv_table(names, ([line.get(name) for name in names] for line in lines))


def layers_csv(layer_headings: Sequence[str], layers: Layers) -> str:
    """The layers of every child, one below the other."""
    lines = ([label, *row] for label, rows in layers.items() for row in rows)
    return csv_table(["time_steps", *layer_headings], lines)


def read_layers(text: str) -> dict[str, list[list[str]]]:
    """Read the text that :func:`layers_csv` wrote: label of a child -> its rows."""
    layers: dict[str, list[list[str]]] = {}
    for label, *row in list(csv.reader(io.StringIO(text, newline="")))[1:]:
        layers.setdefault(label, []).append(row)
    return layers


def to_markdown(
    curve: ConversionCurve, layer_headings: Sequence[str], layers: Layers, plots: Sequence[str]
) -> str:
    """The report: how the figures were made, the table, the plots, the last child's layers.

    Args:
        plots: file names beside the report.
    """
    last = curve.children[-1].label
    text = "\n".join(
        [
            f"# {_title(curve)}\n",
            *_facts(curve),
            f"\n`{curve.command}`\n",
            markdown_table(headings(curve), rows(curve)),
            f"\n{sentence(curve)}\n",
            *(f"![]({plot})" for plot in plots),
            f"\n## Layers at T={last}\n",
            "Errors are relative to the parent's activation. Inherited: from the layers before; "
            "clipping: above the threshold; rounding: to T levels; unevenness: spike timing. All "
            "are of plain means over time.\n",
            markdown_table(layer_headings, layers[last]),
            "",
        ]
    )
    return visible(text, keep="\n")


def _title(curve: ConversionCurve) -> str:
    words = [curve.config["method"]]
    words += ["signed spikes"] if curve.config.get("signed") else []
    words += ["read through a window"] if curve.config.get("readout") == "window" else []
    return ", ".join(words)


def _facts(curve: ConversionCurve) -> list[str]:
    """Settings with which the figures were made, as lines."""
    parent, facts = curve.parent.record, curve.parent.facts
    tuned = f"{facts.finetune_steps:,} steps of fine-tuning"
    if facts.finetune_steps:
        tuned += " of each block" if facts.finetune == "blocks" else ", end to end"
    lines = [
        f"Parent: {parent.system} on {parent.dataset}, {parent.training_hash[:8]}.",
        *facts.notes,
        f"Calibrated on {facts.calibration_images} training images, compared on "
        f"{facts.held_out_images} held-out ones; {tuned}.",
    ]
    earlier = [c.label for c in curve.children if c.record.command != parent.command]
    if earlier:
        lines.append(f"From earlier commands: T={', '.join(earlier)}.")
    if curve.scored:
        which = "each" if len(curve.scored) == len(curve.networks) else "each that has a figure"
        lines.append(
            f"Quality: {parent.samples} samples of {which}, {curve.parent.solver}, against "
            f"{parent.reference_images:,} training images; mJ/image is of a finished image."
        )
    return lines
