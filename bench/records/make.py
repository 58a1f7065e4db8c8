"""Makes a cell's record from the stages' files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from bench.energy.accountings import ACCOUNTINGS, price_all
from bench.energy.counts import Counts, LayerTraffic, NeuronTraffic
from bench.energy.integer import integer_mj, quantised_mj
from bench.energy.memory import accesses
from bench.energy.prices import TABLES
from bench.plan.cells import Cell
from bench.records.record import Energy, MemoryAccesses, OperationCounts, Record
from bench.registry import find
from sddpm.guidance import Thresholds


def cell_facts(cell: Cell, made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a record that are known before anything is measured.

    Args:
        made_by: the fields that every cell of a run shares: suite, command, machine, versions.
    """
    training = cell.training
    return {
        **made_by,
        "system": cell.system,
        "title": title_of(cell),
        "variant": cell.variant,
        "time_steps": cell.time_steps,
        **sampling_facts(cell.sampling or {}),
        "config": dict(cell.config),
        "config_hash": cell.hash,
        "training_hash": training.hash,
        "seed": cell.seed,
        "dataset": training.data.label,
        "image_size": training.data.image_size,
        "manifold": training.data.manifold,
        "train_steps": training.steps,
        "batch_size": training.batch_size,
        "train_images": training.steps * training.batch_size,
        "parent_images": tuple(t.steps * t.batch_size for t in reversed([*training.line()][1:])),
        "precision": training.precision,
        "samples": cell.samples,
    }


def title_of(cell: Cell) -> str:
    """Name of a cell's system and, in brackets, of its variant."""
    return find(cell.system).title + (f" ({cell.variant})" if cell.variant else "")


def sampling_facts(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a record that state how samples were drawn."""
    return {
        "sampler": sampling.get("sampler"),
        "sampler_steps": sampling.get("steps"),
        "eta": sampling.get("eta"),
        "threshold": sampling.get("threshold"),
        "gain": sampling.get("gain"),
        "engine": sampling.get("engine"),
    }


def make_record(
    facts: Mapping[str, Any],
    *,
    train_seconds: float,
    samples: Mapping[str, Any],
    energy: Mapping[str, Any],
    scores: Mapping[str, Any],
    energy_table: str,
    thresholds: Thresholds | None = None,
    guided_gain: float | None = None,
) -> Record:
    """The record of a cell whose stages are finished.

    Args:
        facts: fields that are known before anything is measured, as :func:`cell_facts` gives them.
        samples: the stages' files by their contents, as ``energy`` and ``scores`` are.
    """
    counts = {name: counts_of(energy[name]) for name in ("per_evaluation", "per_image")}
    moved = accesses(counts["per_image"])
    measured = dict(
        thresholds=thresholds,
        guided_gain=guided_gain,
        reference_images=scores["references"],
        reference_split=scores["asked"]["split"],
        reference_hash=scores["reference_hash"],
        extractor=scores["extractor"],
        metrics=scores["metrics"],
        params_millions=energy["params_millions"],
        evaluations_per_image=counts["per_image"].evaluations,
        counts_per_evaluation=OperationCounts(**_totals(counts["per_evaluation"])),
        counts_per_image=OperationCounts(**_totals(counts["per_image"])),
        energy_images=energy["images"],
        energy_table=energy_table,
        energies=price_energies(counts, energy_table),
        memory_per_image=None if moved is None else MemoryAccesses(**asdict(moved)),
        firing_rate=energy["firing_rate"],
        wall_seconds={
            "train": train_seconds,
            "sample": samples["seconds"],
            "energy": energy["seconds"],
            "score": scores["seconds"],
        },
        peak_memory_mib=max(samples["peak_memory_mib"], energy["peak_memory_mib"]),
    )
    return Record(**{**facts, **measured})


def summarise_energy(energy: Mapping[str, Any], energy_table: str) -> dict[str, Any]:
    """An ``energy.json`` for reading: figure's name with its unit -> value."""
    counts = {name: counts_of(energy[name]) for name in ("per_evaluation", "per_image")}
    lines: dict[str, Any] = {
        "parameters (M)": energy["params_millions"],
        "evaluations per image": counts["per_image"].evaluations,
        "GMAC per evaluation": counts["per_evaluation"].macs / 1e9,
        "GAC per evaluation": counts["per_evaluation"].acs / 1e9,
        "firing rate": energy["firing_rate"],
    }
    for key, both in price_energies(counts, energy_table).items():
        name = ACCOUNTINGS[key].long_title
        lines[f"{name} mJ per evaluation"] = both.per_evaluation_mj
        lines[f"{name} mJ per image"] = both.per_image_mj
    lines["8-bit integer mJ per image"] = integer_mj(counts["per_image"])
    if not counts["per_image"].spiking:
        for bits in RIVAL_BITS:
            name = f"{bits}-bit activations (rival of T = {2 ** (bits - 1)} to {2**bits - 1})"
            lines[f"{name} mJ per image"] = quantised_mj(counts["per_image"], bits)
    return {**lines, "energy table": energy_table}


RIVAL_BITS = (2, 3, 4)
"""Bits of an ANN's activations, if no spiking network is given to compare it with."""


def price_energies(counts: Mapping[str, Counts], energy_table: str) -> dict[str, Energy]:
    """Energy per evaluation and per finished image, by every accounting that the counts allow.

    Args:
        counts: ``per_evaluation`` and ``per_image``.
    """
    table = TABLES[energy_table]
    both = {of: price_all(found, table) for of, found in counts.items()}
    return {
        key: Energy(per_evaluation_mj=mj, per_image_mj=both["per_image"][key])
        for key, mj in both["per_evaluation"].items()
    }


def counts_of(stored: Mapping[str, Any]) -> Counts:
    """Counts as ``energy.json`` holds them, without the operations of single layers."""
    known = {field.name for field in fields(Counts)} - {"layers", "traffic", "neurons"}
    return Counts(
        **{name: value for name, value in stored.items() if name in known},
        traffic=tuple(LayerTraffic(**row) for row in stored.get("traffic", ())),
        neurons=tuple(NeuronTraffic(**row) for row in stored.get("neurons", ())),
    )


def _totals(counts: Counts) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in OperationCounts.model_fields}
