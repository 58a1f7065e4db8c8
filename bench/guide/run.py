"""The ``guide`` command's work: from its options to guidance.json, a report and a plot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.checkpoints import (
    How,
    load_images,
    open_checkpoint,
    read_facts,
)
from bench.files import write_text
from bench.guide.scores import Ledger, Scorer
from bench.guide.search import (
    STEPS,
    Findings,
    Method,
    Search,
    grid_values,
    held_out,
    weights_hash,
    write_guidance,
)
from bench.guide.tables import cells, costs, headings, to_csv, to_markdown
from bench.look.plots import plot_guidance
from bench.machine import DeviceName, Machine, git_commit
from bench.plan.sampling import choose_sampling, solver
from bench.quality.extractors import choose_extractor
from bench.quality.fidelity import MIN_IMAGES
from bench.registry import SYSTEMS, find
from sddpm.samplers import SAMPLERS

ROWS, REPORT, TABLE, PLOT = "guidance-rows.jsonl", "guidance.md", "guidance.csv", "guidance.png"


@dataclass(frozen=True)
class Request:
    """What a search was asked for; see ``sddpm-bench guide --help``."""

    checkpoint: Path
    out: Path
    command: str
    values: tuple[float, ...] = ()
    method: Method = "best"
    samples: int = 1000
    held_out: int = 512
    bootstrap: int = 20
    confirm: bool = True
    references: int = 10000
    sampler: str | None = None
    engine: str | None = None
    extractor: str = "auto"
    batch: int = 100
    seed: int = 0
    data_root: str | None = None
    device: DeviceName = "auto"


@dataclass(frozen=True)
class Outcome:
    """What there is to show."""

    findings: Findings
    headings: list[str]
    cells: list[list[str]]
    """Rows of the table, the confirmations last."""
    costs: list[str]
    sentence: str
    files: list[Path]


def run_guide(request: Request, say: Callable[[str], None]) -> Outcome:
    """Search, write what was found, and say what it is worth.

    Raises:
        ValueError: a system without thresholds, a sampler whose statistics depend on them.
        FileNotFoundError: no checkpoint, or no data to compare with.
    """
    begun, folder = time.monotonic(), request.checkpoint
    name = read_facts(folder)["system"]
    if not find(name).guidable:
        guidable = ", ".join(key for key, entry in SYSTEMS.items() if entry.guidable)
        raise ValueError(
            f"--ckpt {folder}: {name} has no firing threshold that may move while it samples; "
            f"those of {guidable} can be guided"
        )
    if SAMPLERS[choose_sampling(request.sampler).sampler].needs_gamma:
        raise ValueError(
            f"--sampler {request.sampler}: its statistics would have to be measured anew at every "
            "threshold; choose the threshold with another sampler"
        )
    machine = Machine(request.device)
    how = How(sampler=request.sampler, engine=request.engine, data_root=request.data_root)
    system, options = open_checkpoint(folder, machine, how)
    sampling = {**(options or {}), "threshold": None}
    values = grid_values(system, request.values)
    references = load_images(folder, "train", request.data_root, request.references)
    test = load_images(folder, "test", request.data_root, request.held_out)
    if len(references) < MIN_IMAGES:
        raise ValueError(f"--data-root: {len(references)} training images are too few to compare")
    extractor = choose_extractor(request.extractor)
    say(f"extractor {extractor.key}: {extractor.reason}")

    weights = weights_hash(folder)
    ledger = Ledger(request.out / ROWS)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip
    with bar:
        drawing = bar.add_task("images drawn", total=None)
        losses = bar.add_task("held-out losses", total=len(values) + 1 + len(STEPS))
        scorer = Scorer(
            system, machine, references, extractor,
            sampling=sampling, samples=request.samples, seed=request.seed,
            bootstrap=request.bootstrap, batch=request.batch, ledger=ledger, weights=weights,
            on_images=lambda count: bar.advance(drawing, count),
        )  # fmt: skip
        search = Search(
            scorer,
            held_out(test, system, machine, request.held_out, request.seed),
            values,
            request.method,
            confirm=request.confirm,
            ledger=ledger,
            made_from={
                "weights": weights, "held_out": len(test), "images": test.fingerprint,
                "seed": request.seed,
            },
            on_candidate=lambda: bar.advance(losses),
        )  # fmt: skip
        bar.update(drawing, total=search.settings * request.samples)
        findings = search.run()
        for task in bar.tasks:  # settings that were known, or that two methods share
            bar.update(task.id, total=task.completed)

    suffix = extractor.suffix.strip("_")
    mark = f" ({suffix})" if suffix else ""
    distance = ("FID" if extractor.distance == "fid" else "FD") + mark
    names = headings(distance, f"KID{mark}")
    told = solver({**sampling, "sampler_steps": sampling["steps"]})
    facts: dict[str, object] = {
        "command": f"`{request.command}`",
        "checkpoint": f"{name}, weights {weights}",
        "sampler": told,
        "samples": f"{request.samples} a row, seed {request.seed}",
        "references": f"{len(references)} train images of {references.label}",
        "extractor": extractor.key,
        "held-out images": len(test),
        "bootstrap": f"{request.bootstrap} resamples",
        "machine": f"{machine.name}, {time.monotonic() - begun:.0f} s",
        "commit": git_commit(),
    }
    files = _write(request, findings, names, distance, facts)
    shown = [cells(row) for row in findings.rows]
    for row in findings.confirmations:
        method, *rest = cells(row)
        shown.append([f"{method}, again", *rest])
    ways = costs(findings)
    sentence = findings.sentence(distance)
    return Outcome(findings, names, shown, ways if len(ways) > 1 else [], sentence, files)


def _write(
    request: Request, findings: Findings, names: list[str], distance: str, facts: dict[str, object]
) -> list[Path]:
    """Everything that a search leaves; guidance.json last, since sampling reads it."""
    report, table, plot = (request.out / name for name in (REPORT, TABLE, PLOT))
    write_text(report, to_markdown(findings, names, facts))
    write_text(table, to_csv(findings))
    plot_guidance(findings, distance, plot)
    time_steps = read_facts(request.checkpoint)["config"].get("time_steps")
    return [report, table, plot, write_guidance(request.checkpoint, findings, facts, time_steps)]
