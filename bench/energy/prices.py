"""Operation counts to energy, by named tables of picojoules.

What every figure here leaves out: memory traffic, the neurons' own updates, normalisation,
elementwise operators and biases. Records keep the counts and the table's name, so energy can
be recomputed when a better table comes. With memory: :mod:`bench.energy.memory`; in integers, and
against a quantised ANN: :mod:`bench.energy.integer`; what to make of them: docs/energy.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.energy.counts import Counts

MJ_PER_PJ = 1e-9


@dataclass(frozen=True)
class EnergyTable:
    """Energies of single operations in one technology."""

    name: str
    pj_per_mac: float
    """Picojoules per multiply-accumulate."""
    pj_per_ac: float
    """Picojoules per accumulate."""
    source: str
    """Publication of the constants."""


TABLES: dict[str, EnergyTable] = {
    table.name: table
    for table in (
        EnergyTable(
            name="horowitz-45nm-fp32",
            pj_per_mac=4.6,  # multiplication 3.7 + addition 0.9
            pj_per_ac=0.9,
            source=(
                "M. Horowitz, Computing's energy problem (and what we can do about it), "
                "ISSCC 2014: 45 nm, 0.9 V, 32-bit floating point"
            ),
        ),
    )
}
DEFAULT_TABLE = "horowitz-45nm-fp32"


def published_mj(counts: Counts, table: EnergyTable) -> float:
    """Energy in millijoules by the formula of the SDDPM paper.

    The energy of a spiking network is ``pj_per_mac`` * MACs of the first convolution that reads
    real numbers + ``pj_per_ac`` * SOPs of all other layers. SOPs are the nonzero fraction of the
    input * dense MACs over all time steps. Shortcuts, head and time embedding read real numbers
    but are priced as accumulates too. If every convolution reads spikes, nothing is priced as MACs.
    The energy of a network in which no layer reads spikes is ``pj_per_mac`` * MACs.

    Args:
        counts: for a finished image or for one evaluation; the energy is for the same.

    Raises:
        ValueError: the network spikes and its SOPs are not known.
    """
    if not counts.spiking:
        return table.pj_per_mac * counts.macs * MJ_PER_PJ
    if counts.sops is None:
        raise ValueError("sops=None: the published formula needs counts from a run with values")
    pj = table.pj_per_mac * counts.macs_first_conv + table.pj_per_ac * counts.sops
    return pj * MJ_PER_PJ


def strict_mj(counts: Counts, table: EnergyTable) -> float:
    """Energy in millijoules if every product that reads real numbers is paid as MACs.

    ``pj_per_mac`` * MACs + ``pj_per_ac`` * exact accumulates, for what ``counts`` cover.
    """
    return (table.pj_per_mac * counts.macs + table.pj_per_ac * counts.acs) * MJ_PER_PJ
