"""Tables of a conversion: for a terminal, as CSV and as Markdown. Imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.quality.metrics import columns_of, heading, shown

DASH = "-"


@dataclass(frozen=True)
class Quality:
    """Samples of one network, scored, and what an image costs."""

    samples: int
    metrics: Mapping[str, float]
    """By the extractor's columns, Frechet distance first."""
    sampling_firing_rate: float | None
    """Over the sampling chain; None for the parent."""
    published_mj_per_image: float
    strict_mj_per_image: float


@dataclass(frozen=True)
class Cost:
    """One row of the table; energies per network evaluation of one image."""

    time_steps: int | None
    """None: the parent. Where a schedule is followed, its mean."""
    relative_error: float
    denoising_loss: float
    loss_ratio: float
    firing_rate: float | None
    published_mj: float
    strict_mj: float
    schedule: tuple[int, ...] = ()
    """Spiking time steps in equal parts of the denoising, from noise to image."""
    layers: Sequence[Sequence[str]] = field(default=(), repr=False)
    """The table of single layers, without the headings."""
    quality: Quality | None = None

    @property
    def times(self) -> int | tuple[int, ...] | None:
        """The number of spiking time steps, or the schedule; None: the parent."""
        return self.schedule or self.time_steps

    @property
    def label(self) -> str:
        """The number of spiking time steps, or the schedule, for people."""
        if self.schedule:
            return "/".join(map(str, self.schedule))
        return "ANN" if self.time_steps is None else str(self.time_steps)


def cost_from(content: Mapping[str, Any]) -> Cost:
    """A row without quality from its JSON form."""
    return Cost(**{**content, "schedule": tuple(content.get("schedule", ()))})


HEADINGS = [
    "T", "relative error", "denoising loss", "loss / parent's", "firing rate",
    "published mJ/evaluation", "strict mJ/evaluation",
]  # fmt: skip


def headings(costs: Sequence[Cost]) -> list[str]:
    """Column names of :func:`cells`."""
    scored = next((cost.quality for cost in costs if cost.quality), None)
    if scored is None:
        return HEADINGS
    return [
        *HEADINGS, *(heading(name) for name in columns_of(scored.metrics)),
        "published mJ/image", "strict mJ/image",
    ]  # fmt: skip


def cells(cost: Cost) -> list[str]:
    """A row for people."""
    spiking = cost.time_steps is not None
    row = [
        cost.label,
        f"{100 * cost.relative_error:.2f} %" if spiking else DASH,
        f"{cost.denoising_loss:.5f}",
        f"{cost.loss_ratio:.3f}",
        DASH if cost.firing_rate is None else f"{cost.firing_rate:.4f}",
        f"{cost.published_mj:.4g}",
        f"{cost.strict_mj:.4g}",
    ]
    if cost.quality is None:
        return row
    metrics = cost.quality.metrics
    return [
        *row,
        *(shown(name, metrics[name]) for name in columns_of(metrics)),
        f"{cost.quality.published_mj_per_image:.4g}",
        f"{cost.quality.strict_mj_per_image:.4g}",
    ]


def rows(costs: Sequence[Cost]) -> list[list[str]]:
    """The table for people; a row whose samples were not scored ends in dashes."""
    width = len(headings(costs))
    return [row + [DASH] * (width - len(row)) for row in map(cells, costs)]


def breakeven(parent: Cost, costs: Iterable[Cost], price: str) -> tuple[int | None, int | None]:
    """The most spiking time steps at which a constant T costs no more energy than the parent, and
    the fewest of those above at which it costs more; None where there are none.

    Args:
        price: ``published_mj`` or ``strict_mj``.
    """
    constant = [cost for cost in costs if cost.time_steps is not None and not cost.schedule]
    dear = [c.time_steps for c in constant if getattr(c, price) > getattr(parent, price)]
    cheap = [c.time_steps for c in constant if getattr(c, price) <= getattr(parent, price)]
    return max(filter(None, cheap), default=None), min(filter(None, dear), default=None)


def sentence(parent: Cost, costs: Sequence[Cost]) -> str:
    """From which number of spiking time steps on a conversion costs more energy than it saves."""

    def dearer(price: str) -> str:
        below, above = breakeven(parent, costs, price)
        if above is None:
            return "at no T here"
        return f"at T={above}" + ("" if below is None else f" (not yet at T={below})")

    return (
        f"Costs more energy than its ANN {dearer('published_mj')} as published, "
        f"{dearer('strict_mj')} where real inputs are paid as MACs."
    )


def rows_csv(costs: Sequence[Cost]) -> str:
    """The table in full precision."""
    lines = []
    for cost in costs:
        row = asdict(cost)
        del row["layers"], row["quality"]
        row["schedule"] = "/".join(map(str, cost.schedule)) or None
        if cost.quality is not None:
            scored = asdict(cost.quality)
            row |= {**scored.pop("metrics"), **scored}
        lines.append(row)
    names = list(dict.fromkeys(name for row in lines for name in row))
    return to_csv(names, ([row.get(name) for name in names] for row in lines))


def layers_csv(layer_headings: Sequence[str], costs: Iterable[Cost]) -> str:
    """The layers of every T, one below the other."""
    rows = ([cost.label, *row] for cost in costs for row in cost.layers)
    return to_csv(["time_steps", *layer_headings], rows)


def to_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV, a missing figure as a dash."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([DASH if value is None else value for value in row] for row in rows)
    return text.getvalue()


def to_markdown(
    title: str, facts: Sequence[str], command: str, costs: Sequence[Cost],
    layer_headings: Sequence[str], plots: Sequence[str],
) -> str:  # fmt: skip
    """The report.

    Args:
        facts: lines on how the figures were made.
        costs: the parent's row first.
        plots: file names beside the report.
    """

    def table(names: Sequence[str], body: Sequence[Sequence[str]]) -> str:
        lines = [names, ["---"] * len(names), *body]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    last = costs[-1]
    return "\n".join(
        [
            f"# {title}\n",
            *facts,
            f"\n`{command}`\n",
            table(headings(costs), rows(costs)),
            f"\n{sentence(costs[0], costs[1:])}\n",
            *(f"![]({plot})" for plot in plots),
            f"\n## Layers at T={last.label}\n",
            "Errors are relative to the parent's activation. Inherited: from the layers before; "
            "clipping: above the threshold; rounding: to T levels; unevenness: spike timing. All "
            "are of plain means over time.\n",
            table(layer_headings, last.layers),
            "",
        ]
    )
