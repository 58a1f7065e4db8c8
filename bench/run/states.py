"""State of a run: the files that each stage of a cell leaves, and whether they are valid."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.files import read_json, write_json
from bench.plan.cells import Cell, Training
from bench.plan.plan import Plan
from bench.run.settled import GUIDED, DrawnAt, drawn_at
from sddpm.guidance import Thresholds, read_guided

SAMPLES, SAMPLES_FACTS, ENERGY = "samples.npy", "samples.json", "energy.json"
SHARDS = "shards"
"""Folder of the batches of samples, until all are there."""
SAMPLES_KEYS = ("samples", "seconds", "peak_memory_mib")
ENERGY_KEYS = (
    "images", "per_image", "per_evaluation", "firing_rate", "params_millions", "seconds",
    "peak_memory_mib",
)  # fmt: skip
SCORES_KEYS = ("asked", "references", "reference_hash", "extractor", "metrics", "seconds")
"""Keys that a record is made from; a file that lacks one is damaged."""
MADE_AT = "thresholds"
"""Key of what :func:`bench.run.settled.drawn_at` names, at which samples were drawn or operations
counted. Older files know thresholds only."""


def made_at(facts: Mapping[str, Any], wanted: DrawnAt) -> bool:
    """Whether ``facts`` belong to ``wanted``, as far as they state any; None accepts all."""
    return wanted is None or facts.get(MADE_AT, wanted) == wanted


def is_trained(folder: Path) -> bool:
    """Whether the training in ``folder`` is finished."""
    return (folder / "checkpoint").is_dir()


def is_sampled(folder: Path, at: DrawnAt = None) -> bool:
    """Whether the samples in ``folder`` are complete.

    Args:
        at: what they must have been drawn at; None where nothing else can be there.

    Raises:
        ValueError: the file about them is damaged.
    """
    if not ((folder / SAMPLES_FACTS).is_file() and (folder / SAMPLES).is_file()):
        return False
    return made_at(read_json(folder / SAMPLES_FACTS, SAMPLES_KEYS), at)


def is_metered(folder: Path, images: int, at: DrawnAt = None) -> bool:
    """Whether the operations in ``folder`` were counted over ``images`` images.

    A count made before memory accesses were counted does not hold, nor one whose first convolution
    reads spikes: it is made again.

    Args:
        at: what they must have been counted at; None where nothing else can be there.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / ENERGY
    if not path.is_file():
        return False
    stored = read_json(path, ("images", "per_image"))
    counts = stored["per_image"]
    if stored["images"] != images or not {"traffic", "macs_first_conv"} <= set(counts):
        return False
    real = sum(row["ops"] for row in counts["traffic"] if row["reads"] == "real" and row["taps"])
    return counts["macs_first_conv"] <= real * (1 + 1e-9) and made_at(stored, at)


def scores_path(folder: Path, extractor: str) -> Path:
    """Path of the scores of the samples in ``folder`` by the extractor of that key."""
    return folder / f"scores-{extractor}.json"


def known_scores(
    folder: Path, extractor: str, asked: Mapping[str, Any], references: str | None
) -> dict[str, Any] | None:
    """The scores of the samples in ``folder``, if they are there and against these references.

    Args:
        extractor: its key.
        asked: how many references of which split were asked for.
        references: their hash; None where it cannot be known, and is not compared.

    Raises:
        ValueError: the file is damaged.
    """
    path = scores_path(folder, extractor)
    if not path.is_file():
        return None
    scores = read_json(path, SCORES_KEYS)
    same = references in (None, scores["reference_hash"])
    return scores if same and scores["asked"] == asked else None


def scored_by(folder: Path) -> list[str]:
    """Keys of the extractors that scored the samples in ``folder``."""
    names = (path.name for path in sorted(folder.glob("scores-*.json")))
    return [name.removeprefix("scores-").removesuffix(".json") for name in names]


def note_thresholds(folder: Path, thresholds: Thresholds) -> None:
    """Add the thresholds to files of before they were kept there.

    Raises:
        ValueError: a file is damaged.
    """
    for path in (folder / SAMPLES_FACTS, folder / ENERGY):
        if path.is_file() and MADE_AT not in (facts := read_json(path)):
            write_json(path, {**facts, MADE_AT: thresholds})


def wanted_at(plan: Plan, cell: Cell) -> DrawnAt:
    """The settings that the samples of a guided ``cell`` must have been drawn at.

    Returns:
        None for a cell that is not guided; ``guided`` where a value is still to be chosen.

    Raises:
        ValueError: the checkpoint's guidance file is damaged.
    """
    asked = cell.sampling or {}
    open_ = [name for name in ("threshold", "gain") if asked.get(name) == GUIDED]
    if not open_:
        return None
    own, steps = cell.training.config.get("time_steps"), cell.config.get("time_steps")
    chosen = read_guided(plan.checkpoint(cell.training), own, steps).sampling()
    return drawn_at({**asked, **{name: chosen.get(name, GUIDED) for name in open_}})


def steps_left(plan: Plan, training: Training) -> int:
    """Updates that a training still needs, from its newest saved step on."""
    folder = plan.training_folder(training)
    if is_trained(folder):
        return 0
    saved = [path.name for path in folder.glob("steps/step-*")]
    done = [int(name.removeprefix("step-")) for name in saved if re.fullmatch(r"step-\d+", name)]
    return max(0, training.steps - max(done, default=0))


def samples_left(plan: Plan, cell: Cell) -> int:
    """Images of a cell that are neither among its samples nor in a finished batch."""
    folder = plan.cell_folder(cell)
    if is_sampled(folder, wanted_at(plan, cell)):
        return 0
    shards = [path.stem.split("-") for path in folder.glob(f"{SHARDS}/*.npz")]
    return max(0, cell.samples - sum(int(stop) - int(start) for start, stop in shards))


def stage_states(plan: Plan) -> list[dict[str, str]]:
    """Per cell, each stage as ``done``, ``missing``, ``damaged`` or ``blocked by PARENT``."""
    return [_states(plan, cell) for cell in plan.cells]


def _states(plan: Plan, cell: Cell) -> dict[str, str]:
    parent, folder = cell.training.parent, plan.cell_folder(cell)
    images = plan.preset.energy_images
    trained = _state(lambda: is_trained(plan.training_folder(cell.training)))
    if parent and trained != "done" and not is_trained(plan.training_folder(parent)):
        trained = f"blocked by {parent.name}"
    scored = scored_by(folder)
    return {
        "cell": cell.label,
        "hash": cell.hash[:8],
        "train": trained,
        "sample": _state(lambda: is_sampled(folder, wanted_at(plan, cell))),
        "energy": _state(lambda: is_metered(folder, images, wanted_at(plan, cell))),
        "score": f"done ({', '.join(scored)})" if scored else "missing",
    }


def _state(is_done: Callable[[], bool]) -> str:
    try:
        return "done" if is_done() else "missing"
    except (ValueError, OSError):
        return "damaged"
