"""Energy by hand."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based.op_counter import SimpleEnergyCostConfig
from torch import nn

from bench.energy.meter import Counts, Meter
from bench.energy.prices import DEFAULT_TABLE, TABLES, EnergyTable, published_mj, strict_mj
from sddpm.layers import declare

HOROWITZ = TABLES[DEFAULT_TABLE]

SPIKING = Counts(
    evaluations=1,
    macs_first_conv=10e6,
    macs=100e6,
    acs=2e9,
    dense_macs_spikes=20e9,
    sops=3e9,
)


def test_prices_are_those_of_spikingjelly() -> None:
    """SpikingJelly quotes the same 45 nm figures of Horowitz."""
    theirs = SimpleEnergyCostConfig.fp32()
    assert pytest.approx(theirs.e_mac_pj) == HOROWITZ.pj_per_mac
    assert pytest.approx(theirs.e_ac_pj) == HOROWITZ.pj_per_ac


def test_published_formula_of_a_spiking_network() -> None:
    # 10 M * 4.6 pJ = 0.046 mJ; 3 G * 0.9 pJ = 2.7 mJ; the other 90 MMAC are inside the SOPs.
    assert published_mj(SPIKING, HOROWITZ) == pytest.approx(0.046 + 2.7)


def test_strict_energy_pays_every_real_product() -> None:
    # 100 M * 4.6 pJ = 0.46 mJ; 2 G * 0.9 pJ = 1.8 mJ.
    assert strict_mj(SPIKING, HOROWITZ) == pytest.approx(0.46 + 1.8)


def test_ann_of_the_paper() -> None:
    ann = Counts(1, 3_538_944, 6_483_821_568, 0, 0, sops=None)
    assert published_mj(ann, HOROWITZ) == pytest.approx(29.8, abs=0.05)  # the paper prints 29.23
    assert strict_mj(ann, HOROWITZ) == published_mj(ann, HOROWITZ)


def test_spiking_counts_without_values_have_no_published_energy() -> None:
    with pytest.raises(ValueError, match="sops=None"):
        published_mj(Counts(1, 1, 1, 1, 1, sops=None), HOROWITZ)


def test_another_table() -> None:
    table = EnergyTable("test", pj_per_mac=2.0, pj_per_ac=1.0, source="made up")
    assert strict_mj(SPIKING, table) == pytest.approx(2.2)


def test_energy_of_a_metered_run() -> None:
    """Stem 1 -> 2 on one pixel, then a spiking layer 2 -> 3 fed one spike of two."""
    net = nn.Sequential(
        declare(nn.Conv2d(1, 2, 1, bias=False), reads="real"),
        nn.ReLU(),
        declare(nn.Conv2d(2, 3, 1), reads="spikes"),
    )
    with torch.no_grad(), Meter(net) as meter:
        net[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        for _ in range(4):
            net(torch.ones(2, 1, 1, 1))
    counts = meter.counts(images=2)
    assert (counts.macs, counts.acs, counts.sops) == (4 * 2, 4 * 3, 4 * 3)
    picojoules = 4 * (4.6 * 2 + 0.9 * 3)
    assert published_mj(counts, HOROWITZ) == pytest.approx(picojoules * 1e-9)
    assert strict_mj(counts, HOROWITZ) == pytest.approx(picojoules * 1e-9)
    one = counts.per_evaluation()
    assert strict_mj(one, HOROWITZ) == pytest.approx(picojoules / 4 * 1e-9)
