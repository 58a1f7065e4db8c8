"""The ``convert`` command's work: from a parent's checkpoint to one of each number of spiking
time steps, and tables of what the conversion costs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.cells import digest
from bench.checkpoints import load_images, load_system, read_facts
from bench.energy import DEFAULT_TABLE, TABLES, published_mj, strict_mj
from bench.machine import DeviceName, Machine
from bench.meter import Meter
from bench.pictures import Images
from bench.registry import choose, load_converter
from sddpm.checkpoint import CONFIG, atomic_write, save_checkpoint
from sddpm.protocol import System, to_float

TABLE, LAYERS, REPORT = "conversion.csv", "layers.csv", "conversion.md"
METERED_IMAGES = 2
"""Evaluations whose operations are counted."""


@dataclass(frozen=True)
class Request:
    """What a conversion was asked for; see ``sddpm-bench convert --help``."""

    ann: Path
    out: Path
    command: str = ""
    method: str = "rate-percentile"
    signed: bool = False
    percentile: float = 99.9
    time_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    calibration_images: int = 256
    held_out: int = 32
    finetune_steps: int = 0
    energy_table: str = DEFAULT_TABLE
    seed: int = 0
    data_root: str | None = None
    device: DeviceName = "auto"


@dataclass(frozen=True)
class Outcome:
    """What there is to show."""

    headings: list[str]
    rows: list[list[str]]
    layer_headings: list[str]
    layer_rows: list[list[str]]
    """Of the most spiking time steps."""
    sentence: str
    files: list[Path]


@dataclass(frozen=True)
class Cost:
    """One row of the table; per network evaluation of one image."""

    time_steps: int | None
    """None: the parent."""
    relative_error: float
    denoising_loss: float
    loss_ratio: float
    firing_rate: float | None
    published_mj: float
    strict_mj: float


HEADINGS = [
    "T", "relative error", "denoising loss", "loss / parent's", "firing rate",
    "published mJ/evaluation", "strict mJ/evaluation",
]  # fmt: skip


def run_convert(request: Request, say: Callable[[str], None]) -> Outcome:
    """Convert, compare, count, write.

    Raises:
        ValueError: a parent that cannot be rate-coded, or a folder that is in use.
        FileNotFoundError: no checkpoint, or no images to calibrate on.
    """
    table = choose("energy table", request.energy_table, TABLES)
    out = request.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: is there already; give a new folder")
    facts = _parent_facts(request.ann)
    name, prepare = load_converter()
    machine = Machine(request.device)
    parent = load_system(request.ann, machine)
    calibration = _images(request, "train", request.calibration_images)
    try:
        conversion = prepare(
            parent,
            _float(calibration, machine),
            method=request.method,
            signed=request.signed,
            percentile=request.percentile,
            seed=request.seed,
            finetune_steps=request.finetune_steps,
        )
    except ValueError as error:
        raise ValueError(f"--ann {request.ann}: {error}") from error
    held_out = conversion.held_out(_float(_images(request, "test", request.held_out), machine))

    def metered(system: System) -> tuple[float, float]:
        with Meter(system.generator) as meter:
            for x, _, t in list(held_out.batches(1))[:METERED_IMAGES]:
                system.generator(x, t)
        counts = meter.counts(images=meter.evaluations, batches=meter.evaluations)
        return published_mj(counts, TABLES[table]), strict_mj(counts, TABLES[table])

    costs: list[Cost] = []
    layers: list[list[str]] = []
    layer_headings: list[str] = []
    shown: list[list[str]] = []
    files: list[Path] = []
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip
    with bar:
        # In evaluations of one spiking step: an image costs T, and one of the parent; a step of
        # fine-tuning counts as one image.
        units = len(held_out.t) + request.finetune_steps
        work = sum(units * (steps + 1) for steps in request.time_steps)
        task = bar.add_task("convert", total=work)
        parent_mj = metered(parent)
        for steps in sorted(request.time_steps):
            bar.update(task, description=f"convert T={steps}")

            def advance(units: int, each: int = steps + 1) -> None:
                bar.advance(task, units * each)

            child = conversion.at(steps, on_step=lambda loss, go=advance: go(1))
            found = conversion.compare(child, held_out, advance)
            costs.append(
                Cost(
                    steps, found.relative_error, found.child_loss, found.loss_ratio,
                    found.firing_rate, *metered(child),
                )
            )  # fmt: skip
            layer_headings, shown = conversion.layers(found)
            layers += [[str(steps), *row] for row in shown]
            files.append(out / f"T{steps}")
            _save(files[-1], name, child, facts, request, found)
        first = Cost(None, 0.0, found.parent_loss, 1.0, None, *parent_mj)
    if len(held_out.t) < request.held_out:
        say(f"held-out images: {len(held_out.t)}, all there are")

    rows = [_cells(cost) for cost in (first, *costs)]
    sentence = _sentence(first, costs)
    texts = {
        TABLE: _csv(list(asdict(first)), ([*asdict(c).values()] for c in (first, *costs))),
        LAYERS: _csv(["time_steps", *layer_headings], layers),
        REPORT: _markdown(request, facts, rows, layer_headings, shown, sentence),
    }
    for file, text in texts.items():
        with atomic_write(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
        files.append(out / file)
    return Outcome(HEADINGS, rows, layer_headings, shown, sentence, files)


def _parent_facts(folder: Path) -> dict[str, Any]:
    """What the checkpoint says of itself; a diffusers folder gets its answer here."""
    if (folder / "model_index.json").is_file() or _class_name(folder / CONFIG):
        raise ValueError(
            f"--ann {folder}: is a diffusers network, with GroupNorm, SiLU and attention, which "
            "cannot be rate-coded exactly: train a ReLU twin of this harness and convert that"
        )
    return read_facts(folder)


def _class_name(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("_class_name") if isinstance(content, dict) else None


def _images(request: Request, split: str, limit: int) -> Images:
    try:
        return load_images(request.ann, split, request.data_root, limit)
    except (FileNotFoundError, ValueError) as error:
        needs = "thresholds are measured and compared on images"
        raise type(error)(f"--data-root: {needs}: {error}") from error


def _float(images: Images, machine: Machine) -> Any:
    return to_float(images.__getitems__(range(len(images)))).to(machine.device)


def _save(
    folder: Path, name: str, child: Any, parent: dict[str, Any], request: Request, found: Any
) -> None:
    """A checkpoint that every other command takes."""
    facts = {
        "system": name,
        "config": json.loads(json.dumps(asdict(child.config))),
        "shape": parent["shape"],
        "dataset": parent["dataset"],
        "dataset_label": parent.get("dataset_label"),
        "parent_hash": parent.get("hash"),
        "conversion": {
            "calibration_images": request.calibration_images,
            "finetune_steps": request.finetune_steps,
            "seed": request.seed,
            "relative_error": found.relative_error,
            "loss_ratio": found.loss_ratio,
        },
    }
    save_checkpoint(folder, child, {**facts, "hash": digest(facts)})


def _cells(cost: Cost) -> list[str]:
    spiking = cost.time_steps is not None
    return [
        str(cost.time_steps) if spiking else "ANN",
        f"{100 * cost.relative_error:.2f} %" if spiking else "-",
        f"{cost.denoising_loss:.5f}",
        f"{cost.loss_ratio:.3f}",
        "-" if cost.firing_rate is None else f"{cost.firing_rate:.4f}",
        f"{cost.published_mj:.4g}",
        f"{cost.strict_mj:.4g}",
    ]


def _sentence(parent: Cost, costs: Sequence[Cost]) -> str:
    """From which number of spiking steps on the conversion costs more energy than it saves."""

    def dearer(price: str) -> str:
        over = [c.time_steps for c in costs if getattr(c, price) > getattr(parent, price)]
        return f"at T={min(filter(None, over))}" if over else "at no T here"

    return (
        f"Costs more energy than its ANN {dearer('published_mj')} as published, "
        f"{dearer('strict_mj')} where real inputs are paid as MACs."
    )


def _csv(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(["-" if value is None else value for value in row] for row in rows)
    return text.getvalue()


def _markdown(
    request: Request,
    parent: dict[str, Any],
    rows: list[list[str]],
    layer_headings: list[str],
    layers: list[list[str]],
    sentence: str,
) -> str:
    def table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> str:
        lines = [headings, ["---"] * len(headings), *body]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    data = parent.get("dataset_label") or parent["dataset"]
    return "\n".join(
        [
            f"# {request.method}{', signed spikes' if request.signed else ''}\n",
            f"Parent: {parent['system']} on {data}, {str(parent.get('hash'))[:8]}.",
            f"Calibrated on {request.calibration_images} training images, compared on "
            f"{request.held_out} held-out ones; {request.finetune_steps} steps of fine-tuning.",
            f"\n`{request.command}`\n",
            table(HEADINGS, rows),
            f"\n{sentence}\n",
            f"## Layers at T={max(request.time_steps)}\n",
            "Errors are relative to the parent's activation. Inherited: from the layers before; "
            "clipping: above the threshold; rounding: to T levels; unevenness: spike timing.\n",
            table(layer_headings, layers),
            "",
        ]
    )
