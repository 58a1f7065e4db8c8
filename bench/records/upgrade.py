"""Records of schema version 1 as those of version 2.

Version 1 has a field for each accounting of energy. Two accountings have changed since:

- ``published`` took the first convolution for one of real numbers. Where it reads spikes, the
  synaptic operations that it causes were not counted, so neither they nor the energy are known.
- ``simple_memory`` left out the additions of the neurons' updates. The updates were counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.energy.memory import SIMPLE_AC_PJ, UPDATE_ADDITIONS
from bench.energy.prices import MJ_PER_PJ

FIELDS = {
    "published": "energy_published",
    "strict": "energy_strict",
    "simple_memory": "energy_simple_memory",
    "lemaire": "energy_lemaire",
}
COUNTS = ("counts_per_evaluation", "counts_per_image")


def upgrade(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a stored line of version 1 to version 2. Missing fields get the defaults of the
    schema."""
    record = {**content, "schema_version": 2}
    energies = {key: record.pop(field, None) for key, field in FIELDS.items()}
    if _first_convolution_reads_spikes(record):
        del energies["published"]
        for name in COUNTS:
            record[name] = {**record[name], "macs_first_conv": 0, "sops": None}
    simple, moved = energies["simple_memory"], record.get("memory_per_image")
    if simple and moved:
        per_image = SIMPLE_AC_PJ * UPDATE_ADDITIONS * moved["neuron_updates"] * MJ_PER_PJ
        energies["simple_memory"] = {
            "per_image_mj": simple["per_image_mj"] + per_image,
            "per_evaluation_mj": simple["per_evaluation_mj"]
            + per_image / record["evaluations_per_image"],
        }
    record["energies"] = {key: energy for key, energy in energies.items() if energy is not None}
    return record


def _first_convolution_reads_spikes(record: Mapping[str, Any]) -> bool:
    """Whether the MACs that version 1 took for the first convolution's cannot be its MACs.

    A convolution of real numbers is among the MACs, and reads an input for each.
    """
    counts, moved = record.get("counts_per_image"), record.get("memory_per_image")
    if not counts or not counts["dense_macs_spikes"]:
        return False
    most = min(counts["macs"], moved["input_reads"]) if moved else counts["macs"]
    return bool(counts["macs_first_conv"] > most)
