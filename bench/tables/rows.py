"""A record as a row of a table. Imports neither torch nor pandas."""

from __future__ import annotations

from bench.energy.accountings import ACCOUNTINGS
from bench.energy.integer import integer_mj
from bench.plan.sampling import solver
from bench.records.identity import settings
from bench.records.record import Record


def size_text(image_size: int, manifold: str | None, times: str = "x") -> str:
    """Size of the images, or the manifold of the points, for people.

    Args:
        times: mark between height and width.
    """
    if manifold is not None:
        return f"{manifold} of size {image_size}"
    return f"{image_size}{times}{image_size}"


def one_noun(manifold: str | None) -> str:
    """Word for one of the data: an image, or a point of a manifold."""
    return "image" if manifold is None else "point"


def data_noun(manifold: str | None) -> str:
    """Word for the data: images, or points of a manifold."""
    return f"{one_noun(manifold)}s"


def row_of(record: Record) -> dict[str, str | float | None]:
    """The columns of a record's row; None for a figure that it does not have."""
    row: dict[str, str | float | None] = {
        "dataset": record.dataset,
        "system": record.system,
        "title": record.title,
        **({"variant": record.variant} if record.variant else {}),
        "time_steps": record.time_steps,
        "sampler": record.sampler,
        "sampler_steps": record.sampler_steps,
        "eta": record.eta,
        "threshold": record.threshold,
        **({"gain": record.gain} if record.gain is not None else {}),
        "engine": record.engine,
        **({"budget": record.budget} if record.budget is not None else {}),
        "solver": solver(vars(record)),
        "seed": record.seed,
        "status": record.status,
        **record.metrics,
        "params_millions": record.params_millions,
        "evaluations_per_image": record.evaluations_per_image,
        "firing_rate": record.firing_rate,
    }
    for name in ACCOUNTINGS:
        energy = record.energies.get(name)
        row[f"{name}_mj_per_evaluation"] = energy.per_evaluation_mj if energy else None
        row[f"{name}_mj_per_image"] = energy.per_image_mj if energy else None
    counts = record.counts_per_image
    row["integer_mj_per_image"] = integer_mj(counts) if counts else None
    for stage, seconds in record.wall_seconds.items():
        row[f"{stage}_seconds"] = seconds
    return row | {
        "train_steps": record.train_steps,
        "batch_size": record.batch_size,
        "samples": record.samples,
        "references": record.reference_images,
        "reference_split": record.reference_split,
        "reference_hash": record.reference_hash,
        "extractor": record.extractor,
        "suite": record.suite,
        "preset": record.preset,
        "settings": settings(record),
        "config_hash": record.config_hash,
        "git_commit": record.git_commit,
    }
