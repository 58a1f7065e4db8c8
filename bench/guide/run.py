"""The work of the ``guide`` command: from its options to guidance.json, a report and a plot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.checkpoints import Checkpoint
from bench.files import write_text
from bench.guide.drawn import DrawnScores
from bench.guide.findings import Findings
from bench.guide.match import GAINS, MATCH_IMAGES
from bench.guide.plots import plot_gains, plot_guidance
from bench.guide.scores import Ledger, Scorer, Setting, trained_thresholds
from bench.guide.search import (
    STEPS,
    Method,
    Search,
    grid_values,
    held_out,
    weights_hash,
    write_guidance,
)
from bench.guide.tables import cells, costs, headings, to_csv, to_markdown
from bench.machine import DeviceName, git_commit
from bench.plan.sampling import choose_sampling, solver
from bench.quality.extractors import choose_extractor
from bench.quality.fidelity import MIN_IMAGES
from bench.registry import SYSTEMS, SystemEntry
from bench.run.drawing import DrawOptions, open_to_draw
from sddpm.guidance import GUIDANCE, Thresholds
from sddpm.progress import progress_bar
from sddpm.protocol import System
from sddpm.samplers import SAMPLERS
from sddpm.user_state import state_folder

ROWS, REPORT, TABLE = "guidance-rows.jsonl", "guidance.md", "guidance.csv"
PLOT, GAIN_PLOT = "guidance.png", "guidance_gain.png"


@dataclass(frozen=True)
class GuideOptions:
    """Options of a search; see ``sddpm-bench guide --help``."""

    checkpoint: Checkpoint
    out: Path
    command: str
    values: tuple[float, ...] = ()
    """Thresholds to try; none: the default ones, or none at all if ``gains`` are given."""
    gains: tuple[float, ...] = ()
    """Gains to try; none: the default ones, or none at all if ``values`` are given."""
    method: Method = "best"
    samples: int = 1000
    held_out: int = 512
    bootstrap: int = 20
    confirm: bool = True
    keep: bool = False
    references: int = 10000
    sampler: str | None = None
    engine: str | None = None
    extractor: str = "auto"
    extractor_weights: Path | None = None
    batch: int = 100
    seed: int = 0
    data_root: str | None = None
    device: DeviceName = "auto"


@dataclass(frozen=True)
class GuideResult:
    """Results of a search for the terminal."""

    findings: Findings
    headings: list[str]
    cells: list[list[str]]
    """Rows of the table, the confirmations last."""
    costs: list[str]
    sentence: str
    files: list[Path]


def run_guide(request: GuideOptions, say: Callable[[str], None]) -> GuideResult:
    """Search, write the results, and state whether the choice is better than the trained setting.

    Raises:
        ValueError: a system without thresholds or without a gain, a sampler whose statistics depend
            on them.
        FileNotFoundError: no checkpoint, or no data to compare with.
    """
    begun, checkpoint, folder = time.monotonic(), request.checkpoint, request.checkpoint.folder
    name = checkpoint.system
    _check(request)
    asked = DrawOptions(
        request.sampler, engine=request.engine, data_root=request.data_root, device=request.device
    )
    drawing = open_to_draw(checkpoint, asked)
    system, machine = drawing.system, drawing.machine
    sampling = {**(drawing.sampling or {}), "threshold": None}
    sampling.pop("gain", None)
    values, gains = _grids(request, system)
    references = checkpoint.images("train", request.data_root, request.references)
    for note in references.notes:
        say(note)
    test = checkpoint.images("test", request.data_root, request.held_out)
    if len(references) < MIN_IMAGES:
        raise ValueError(f"--data-root: {len(references)} training images are too few to compare")
    extractor = choose_extractor(request.extractor, request.extractor_weights)
    say(f"extractor {extractor.key}: {extractor.reason}")

    weights = weights_hash(folder)
    ledger = Ledger(request.out / ROWS)
    images = progress_bar("images drawn", None, "images")
    losses = progress_bar("held-out losses", len(values) + 1 + len(STEPS), "candidates")
    with images as drawn, losses as measured:
        scores = DrawnScores(
            system, machine, references, extractor,
            sampling=sampling, samples=request.samples, seed=request.seed,
            bootstrap=request.bootstrap, batch=request.batch, on_images=drawn.advance,
        )  # fmt: skip
        scorer = Scorer(
            system, scores.score, steps=sampling["steps"], samples=request.samples,
            made_from={"weights": weights, **scores.made_from}, ledger=ledger,
        )  # fmt: skip
        search = Search(
            scorer,
            held_out(test, system, machine, request.held_out, request.seed),
            values,
            request.method,
            gains=gains,
            ratios=lambda gain: scores.match(Setting(trained_thresholds(system), gain)),
            confirm=request.confirm,
            keep=request.keep,
            ledger=ledger,
            made_from={
                "weights": weights,
                "held_out": len(test),
                "images": test.fingerprint,
                "seed": request.seed,
            },
            on_candidate=measured.advance,
        )
        matched = (1 + len(search.gains)) * MATCH_IMAGES if "match" in search.kinds else 0
        drawn.update(total=search.settings * request.samples + matched)
        findings = search.run()
        for bar in (drawn, measured):  # settings that were known, or that two methods share
            bar.finish()

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
        **({"held-out images": len(test)} if values or request.method == "gradient" else {}),
        **({"match": f"{MATCH_IMAGES} samples a gain"} if "match" in search.kinds else {}),
        "bootstrap": f"{request.bootstrap} resamples",
        "machine": f"{machine.name}, {ledger.earlier_seconds + time.monotonic() - begun:.0f} s",
        "commit": git_commit(),
    }
    files = _write(request, findings, names, distance, facts)
    home = state_folder(folder)
    if findings.undecided and not request.keep and (home / GUIDANCE).is_file():
        say(f"{home / GUIDANCE}: is of an earlier search, and stays")
    shown = [cells(row, findings.trained) for row in findings.rows]
    for row in findings.confirmations:
        method, *rest = cells(row, findings.confirmations[0])
        shown.append([f"{method}, again", *rest])
    ways = costs(findings)
    sentence = findings.sentence(distance)
    return GuideResult(findings, names, shown, ways if len(ways) > 1 else [], sentence, files)


def _write(
    request: GuideOptions,
    findings: Findings,
    names: list[str],
    distance: str,
    facts: dict[str, object],
) -> list[Path]:
    """Everything that a search leaves; guidance.json last, since sampling reads it, and not for
    a null result unless it is to be kept."""
    report, table = request.out / REPORT, request.out / TABLE
    write_text(report, to_markdown(findings, names, facts))
    write_text(table, to_csv(findings))
    files = [report, table]
    for tried, plot, name in (
        (findings.thresholds_tried, plot_guidance, PLOT),
        (findings.gains_tried, plot_gains, GAIN_PLOT),
    ):
        if tried:
            plot(findings, distance, request.out / name)
            files.append(request.out / name)
    if findings.undecided and not findings.keep:
        return files
    checkpoint = request.checkpoint
    home = state_folder(checkpoint.folder)
    return [*files, write_guidance(home, findings, facts, checkpoint.time_steps)]


def _check(request: GuideOptions) -> None:
    """Raise ValueError if the system or its sampler cannot be guided as ``request`` says."""
    checkpoint, entry = request.checkpoint, request.checkpoint.entry
    name = checkpoint.system
    if not entry.samplers:
        raise ValueError(
            f"--ckpt {checkpoint.folder}: {name} does not denoise, so it has no firing threshold "
            f"and no gain that may move; those of {_named(lambda e: e.samplers)} can be guided"
        )
    by_threshold = request.values or request.method in ("loss", "gradient")
    if by_threshold and not entry.guidable:
        option = f"--method {request.method}" if not request.values else "--values"
        raise ValueError(
            f"{option}: {name} has no firing threshold that may move while it samples, only a "
            f"gain; those of {_named(lambda e: e.guidable)} may"
        )
    if SAMPLERS[choose_sampling(request.sampler).sampler].needs_gamma:
        raise ValueError(
            f"--sampler {request.sampler}: its statistics would have to be measured anew at every "
            "threshold and gain; choose them with another sampler"
        )


def _named(kind: Callable[[SystemEntry], bool]) -> str:
    return ", ".join(key for key, entry in SYSTEMS.items() if kind(entry))


def _grids(request: GuideOptions, system: System) -> tuple[list[Thresholds], tuple[float, ...]]:
    """The thresholds and the gains to try."""
    method, given = request.method, bool(request.values or request.gains)
    values: list[Thresholds] = []
    if method != "match" and (request.values or not given):
        values = grid_values(system, request.values)
    gains = request.gains
    if method in ("grid", "best", "match") and not given:
        gains = GAINS
    return values, gains
