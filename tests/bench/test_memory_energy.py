"""Energy with memory and in integers: by hand, and against SpikingJelly's own profilers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from math import ceil, log2
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from spikingjelly.activation_based.op_counter import (
    LemaireEnergyCostConfig,
    NeuromorphicMemoryAccessCounter,
    SimpleEnergyCostConfig,
    estimate_lemaire_energy,
    estimate_simple_energy,
)
from spikingjelly.activation_based.op_counter.base import ModuleCounterMode
from torch import Tensor, nn

from bench.energy import memory
from bench.energy.counts import Counts, LayerTraffic, NeuronTraffic
from bench.energy.integer import integer_mj, mac_pj, quantised_mj, rival_bits, rival_mj
from bench.energy.memory import Accesses, accesses, lemaire_mj, simple_mj
from bench.energy.meter import Meter
from bench.energy.prices import DEFAULT_TABLE, TABLES, strict_mj
from bench.records.make import counts_of, price_energies, summarise_energy
from bench.run.stages import ENERGY, is_metered
from sddpm.layers import declare
from sddpm.neurons import IF
from sddpm.unet import UNet, UNetConfig

KIB, PJ = 1024, 1e-9
ROOT = Path(__file__).parents[2]


def sram(buffer_bytes: float) -> float:
    """Picojoules a word: 0 at 0, 10 at 8 KiB, 20 at 32 KiB, 100 at 1 MiB, lines between."""
    points = [(0, 0), (8 * KIB, 10), (32 * KIB, 20), (1024 * KIB, 100)]
    for (x0, y0), (x1, y1) in pairwise(points):
        if buffer_bytes <= x1:
            return y0 + (y1 - y0) * (buffer_bytes - x0) / (x1 - x0)
    return 100


class Tiny(nn.Module):
    """Two spiking steps: a stem 1 -> 2 of real numbers, neurons, a spiking convolution 2 -> 3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = declare(nn.Conv2d(1, 2, 1, bias=False), reads="real")
        self.fire = IF(2)
        self.conv = declare(nn.Conv2d(2, 3, 3, padding=1), reads="spikes")
        with torch.no_grad():
            self.stem.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.fire(self.stem(torch.cat([x, x]))))


def metered(module: nn.Module, x: Tensor, images: int = 1) -> tuple[Counts, Accesses]:
    with torch.no_grad(), Meter(module) as meter:
        module(x)
    counts = meter.counts(images=images)
    moved = accesses(counts)
    assert moved is not None
    return counts, moved


def one_pixel(images: int = 1) -> Tensor:
    """``[images, 1, 2, 2]`` with one pixel of 1: one neuron fires at each of two steps."""
    x = torch.zeros(images, 1, 2, 2)
    x[:, 0, 0, 0] = 1
    return x


@pytest.mark.parametrize("images", [1, 3])
def test_accesses_by_hand(images: int) -> None:
    """Per image: 2 steps x 4 pixels; a spike in the corner of 2x2 reaches all 4 pixels."""
    counts, moved = metered(Tiny(), one_pixel(images), images)
    macs, acs, updates, spikes = 2 * (2 * 4) * 1, 2 * (4 * 3), 2 * 8, 2
    assert (counts.macs, counts.acs) == (macs, acs)
    assert moved.weight_reads == macs + acs
    assert moved.bias_reads == 2 * (3 * 4)  # the spiking convolution's; the stem has none
    assert moved.input_reads == macs + spikes
    assert moved.output_writes == 2 * 8 + spikes  # the stem's numbers, the neurons' spikes
    assert moved.potential_reads == moved.potential_writes == acs + updates
    assert (moved.neuron_updates, moved.spikes) == (updates, spikes)
    # Real: 2 x 4 pixels in, 2 x 8 out, 2 kernels of 1 tap at each step; spikes: one an AC.
    assert moved.address_additions == 2 * 4 + 2 * 8 + 2 * 2 + acs
    assert moved.address_macs == 2 * spikes
    assert dict(moved.words_by_buffer_bytes) == {
        2 * 4: macs,  # the stem's weights
        4 * 4: macs,  # its input, again for every MAC
        8 * 4: 2 * 8 + 2 * updates,  # its output; the neurons' membranes, read and written
        (2 * 3 * 9 + 3) * 4: acs + 24,  # the spiking convolution's weights and biases
        12 * 4: 2 * acs,  # the membranes that it adds into, read and written
        4000: 2 * spikes,  # queues: written by the neurons, read by the convolution
    }


def test_energies_by_hand() -> None:
    counts, moved = metered(Tiny(), one_pixel())
    # 16 MACs, 24 ACs, 16 updates of 4 additions; 40 weights, 24 biases, 16 membranes twice: 96
    # words of 99.84 pJ.
    pj = 16 * 4.6 + (24 + 16 * 4) * 0.9 + 96 * 99.84
    assert simple_mj(counts, moved) == pytest.approx(pj * PJ)
    words = {8: 16, 16: 16, 32: 48, 228: 48, 48: 48, 4000: 4}
    memory = sum(count * sram(size) for size, count in words.items())
    additions = 24 + 24 + 2 + (8 + 16 + 4 + 24)
    pj = 3.2 * (16 + 4) + 0.1 * additions + memory
    assert lemaire_mj(counts, moved) == pytest.approx(pj * PJ)


def test_matrix_product_reads_its_inputs_once() -> None:
    """Linear 3 -> 5 with bias on real numbers."""
    counts, moved = metered(declare(nn.Linear(3, 5), reads="real"), torch.randn(1, 3))
    assert (counts.macs, moved.weight_reads, moved.bias_reads) == (15, 15, 5)
    assert (moved.input_reads, moved.output_writes, moved.address_additions) == (3, 5, 8)
    assert dict(moved.words_by_buffer_bytes) == {20 * 4: 20, 3 * 4: 3, 5 * 4: 5}


def test_large_buffers_cost_no_more_than_a_mebibyte() -> None:
    counts = Counts(1, 0, 0, 0, 0, 0)
    for size, pj in ((64 * KIB * KIB, 100), (KIB * KIB, 100), (32 * KIB, 20), (8 * KIB, 10)):
        moved = Accesses(words_by_buffer_bytes={size: 7.0})
        assert lemaire_mj(counts, moved) == pytest.approx(7 * pj * PJ)
        assert sram(size) == pytest.approx(pj)


def test_a_finished_image_is_the_sum_of_its_evaluations() -> None:
    net = Tiny()
    with torch.no_grad(), Meter(net) as meter:
        for _ in range(5):
            net(one_pixel(2))
    both = {"per_image": meter.counts(images=2)}
    both["per_evaluation"] = both["per_image"].per_evaluation()
    for energy in price_energies(both, DEFAULT_TABLE).values():
        assert energy.per_image_mj == pytest.approx(5 * energy.per_evaluation_mj)


# SpikingJelly's own profilers, on networks that both can see.


def test_lemaire_agrees_on_a_network_of_real_numbers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(5, 2, 3, bias=False))
    x = torch.randn(1, 3, 9, 9)
    theirs = estimate_lemaire_energy(net, x)
    counts, moved = metered(declare(net, reads="real"), x)
    assert lemaire_mj(counts, moved) == pytest.approx(theirs.total_pj * PJ, rel=1e-12)
    assert moved.weight_reads + moved.bias_reads == theirs.counts["read_params_bytes"] / 4
    assert moved.input_reads == theirs.counts["read_in_bytes"] / 4
    assert moved.address_additions == theirs.counts["acc_addr"]


def test_lemaire_agrees_on_a_spiking_network() -> None:
    """Fully connected, where no border makes their kernel fan-out differ from ours."""
    torch.manual_seed(0)
    theirs_net = nn.Sequential(
        layer.Linear(6, 9, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.Linear(9, 4, step_mode="m"),
    )
    ours = nn.Sequential(
        declare(nn.Linear(6, 9), reads="spikes"), IF(3), declare(nn.Linear(9, 4), reads="spikes")
    )
    nn.init.uniform_(theirs_net[0].weight, -0.5, 1)
    ours.load_state_dict(theirs_net.state_dict(), strict=False)  # the neurons' theta is ours
    x = (torch.rand(3, 1, 6) < 0.6).float()
    theirs = estimate_lemaire_energy(theirs_net, x)
    counts, moved = metered(ours, x.flatten(0, 1))
    assert moved.spikes > 0
    assert counts.acs == theirs.counts["synop"]
    assert counts.acs + moved.bias_reads + moved.spikes == theirs.counts["ac"]
    assert moved.potential_reads == theirs.counts["read_potential_bytes"] / 4
    assert moved.output_writes == theirs.counts["write_out_bytes"] / 4
    assert moved.address_additions == theirs.counts["acc_addr"]
    assert lemaire_mj(counts, moved) == pytest.approx(theirs.total_pj * PJ, rel=1e-12)


def test_simple_agrees_on_a_network_of_real_numbers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 3, stride=2))
    x = torch.randn(1, 3, 8, 8)
    theirs = estimate_simple_energy(net, x)
    assert simple_mj(*metered(declare(net, reads="real"), x)) == pytest.approx(
        theirs.energy_total_pj * PJ, rel=1e-12
    )


def test_weights_and_biases_of_the_spiking_unet_are_what_spikingjelly_counts() -> None:
    """Its counter sees our network's layers, not our neurons, while a real evaluation runs."""
    torch.manual_seed(0)
    config = UNetConfig(
        image_channels=1, channels=8, multipliers=(1, 2), blocks=1, time_steps=3, activation="if"
    )
    net, x, t = UNet(config).eval(), torch.randn(1, 1, 8, 8), torch.tensor([400])
    counter = NeuromorphicMemoryAccessCounter()
    with torch.no_grad(), ModuleCounterMode([counter], model=net):
        net(x, t)
    theirs = counter.get_counts()["Global"]
    with torch.no_grad(), Meter(net) as meter:
        net(x, t)
    moved = accesses(meter.counts(images=1))
    assert moved is not None
    assert moved.spikes > 0
    assert moved.weight_reads == theirs["weight_read_bytes"] / 4
    assert moved.bias_reads == theirs["bias_read_bytes"] / 4


@pytest.mark.parametrize("steps", [1, 3])
def test_simple_agrees_on_a_spiking_network(steps: int) -> None:
    """Fully connected: every operation, every word, and every neuron's update and hard reset."""
    torch.manual_seed(0)
    theirs_net = nn.Sequential(
        layer.Linear(6, 9, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.Linear(9, 4, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
    )
    first, second = (nn.Linear(*size, bias=False) for size in ((6, 9), (9, 4)))
    ours = nn.Sequential(
        declare(first, reads="spikes"), IF(steps), declare(second, reads="spikes"), IF(steps)
    )
    nn.init.uniform_(theirs_net[0].weight, -0.5, 1)
    ours.load_state_dict(theirs_net.state_dict(), strict=False)  # the neurons' theta is ours
    x = (torch.rand(steps, 1, 6) < 0.6).float()
    theirs = estimate_simple_energy(theirs_net, x)
    counts, moved = metered(ours, x.flatten(0, 1))
    assert moved.spikes > 0
    assert moved.neuron_updates == steps * (9 + 4)
    assert counts.acs + 4 * moved.neuron_updates == theirs.counts["ac"]
    assert simple_mj(counts, moved) == pytest.approx(theirs.energy_total_pj * PJ, rel=1e-12)


def test_prices_are_those_of_the_installed_spikingjelly() -> None:
    simple, theirs = SimpleEnergyCostConfig.fp32(), LemaireEnergyCostConfig()
    assert (simple.e_mac_pj, simple.e_ac_pj) == (memory.SIMPLE_MAC_PJ, memory.SIMPLE_AC_PJ)
    assert 4 * simple.e_memory_pj_per_byte == pytest.approx(memory.SIMPLE_WORD_PJ)
    assert theirs.e_mul_pj == pytest.approx(memory.LEMAIRE_MULTIPLY_PJ)
    assert theirs.e_add_pj == pytest.approx(memory.LEMAIRE_ADD_PJ)
    for size in (4, 4000, 8 * KIB, 20_000, 32 * KIB, 400_000, KIB * KIB, 5 * KIB * KIB):
        assert 4 * theirs.memory_cost_pj(size) == pytest.approx(memory.sram_pj(size))


# Integers.


def test_rival_bits() -> None:
    assert [rival_bits(t) for t in (1, 2, 3, 4, 7, 8, 15, 16)] == [1, 2, 2, 3, 3, 4, 4, 5]
    assert all(rival_bits(t) == ceil(round(log2(t + 1), 12)) for t in range(1, 2000))


def test_integer_prices() -> None:
    assert mac_pj(8) == pytest.approx(0.2 + 0.1)
    assert mac_pj(32, 32) == pytest.approx(3.1 + 0.1)
    assert mac_pj(1) == 0.1  # selects
    # A quarter of 8 x 8 cells, at the exponent ln(15.5) / ln(16) = 0.98855.
    assert mac_pj(2) == pytest.approx(0.2 * 0.25**0.98855 + 0.1, abs=1e-6)
    assert all(mac_pj(b) < mac_pj(b + 1) for b in range(1, 32))
    for bad in (lambda: mac_pj(0), lambda: rival_bits(0)):
        with pytest.raises(ValueError, match="expected at least 1"):
            bad()


def test_quantised_network_by_hand() -> None:
    ann = Counts(1, macs_first_conv=1e6, macs=101e6, acs=0, dense_macs_spikes=0, sops=None)
    three_bits = 0.2 * (24 / 64) ** 0.98855 + 0.1
    expected = (1e6 * 0.3 + 100e6 * three_bits) * PJ
    assert rival_mj(ann, 4) == pytest.approx(expected, rel=1e-5)
    assert rival_mj(ann, 7) == quantised_mj(ann, 3)
    assert quantised_mj(ann, 8) == integer_mj(ann) == pytest.approx(101e6 * 0.3 * PJ)
    spiking = replace(ann, acs=2e9, dense_macs_spikes=5e9)
    assert integer_mj(spiking) == pytest.approx((101e6 * 0.3 + 2e9 * 0.1) * PJ)
    with pytest.raises(ValueError, match="only a network without spikes"):
        quantised_mj(spiking, 3)


# Files.


def test_stored_counts_are_priced_like_fresh_ones(tmp_path: Path) -> None:
    counts, _ = metered(Tiny(), one_pixel())
    stored = {"per_image": asdict(counts), "per_evaluation": asdict(counts.per_evaluation())}
    facts = {**stored, "images": 1, "params_millions": 0.0, "firing_rate": 0.1}
    path = tmp_path / ENERGY
    path.write_text(json.dumps(facts))
    read = json.loads(path.read_text())
    both = {name: counts_of(read[name]) for name in stored}
    fresh = {"per_image": counts, "per_evaluation": counts.per_evaluation()}
    assert price_energies(both, DEFAULT_TABLE) == price_energies(fresh, DEFAULT_TABLE)
    assert asdict(accesses(counts)) == asdict(accesses(both["per_image"]))
    assert is_metered(tmp_path, 1)
    lines = summarise_energy(read, DEFAULT_TABLE)
    assert lines["Strict mJ per image"] == strict_mj(counts, TABLES[DEFAULT_TABLE])
    assert lines["8-bit integer mJ per image"] == integer_mj(counts)
    assert not any("activations" in name for name in lines)


def test_counts_without_traffic_have_no_energy_with_memory(tmp_path: Path) -> None:
    """As older versions wrote them; the stage then counts again."""
    counts, _ = metered(declare(nn.Linear(3, 5), reads="real"), torch.randn(1, 3))
    old = {k: v for k, v in asdict(counts).items() if k not in ("traffic", "neurons")}
    both = {"per_image": counts_of(old), "per_evaluation": counts_of(old)}
    assert accesses(both["per_image"]) is None
    assert set(price_energies(both, DEFAULT_TABLE)) == {"published", "strict"}
    (tmp_path / ENERGY).write_text(json.dumps({"images": 1, "per_image": old}))
    assert not is_metered(tmp_path, 1)
    lines = summarise_energy(
        {"per_image": old, "per_evaluation": old, "params_millions": 0.0, "firing_rate": None},
        DEFAULT_TABLE,
    )
    assert lines["3-bit activations (rival of T = 4 to 7) mJ per image"] == rival_mj(counts, 5)
    assert "With memory (Lemaire) mJ per image" not in lines


def test_meta_device_has_no_energy_with_memory() -> None:
    net = declare(nn.Linear(3, 5, device="meta"), reads="real")
    with torch.no_grad(), Meter(net) as meter:
        net(torch.empty(2, 3, device="meta"))
    assert accesses(meter.counts(images=2)) is None


def test_the_worked_example_of_the_documentation() -> None:
    """One convolution 64 -> 128, 3x3, 16x16 pixels, T = 4, rate 0.2; borders ignored."""
    macs, steps, rate = 16 * 16 * 128 * 64 * 9, 4, 0.2
    inputs, outputs, weights = 64 * 256, 128 * 256, 128 * 64 * 9 + 128
    sizes = {"weights": weights, "input_size": inputs, "output_size": outputs, "taps": 128 * 9}
    ann = Counts(1, 0, macs, 0, 0, None, traffic=(
        LayerTraffic("conv", "real", macs, inputs, inputs, outputs, outputs, 1, **sizes),
    ))  # fmt: skip
    acs, spikes = rate * steps * macs, rate * steps * inputs
    spiking = Counts(1, 0, 0, acs, steps * macs, None, traffic=(
        LayerTraffic("conv", "spikes", acs, steps * inputs, spikes, steps * outputs,
                     steps * outputs, steps, **sizes),
    ), neurons=(NeuronTraffic("fire", steps * inputs, spikes, inputs),))  # fmt: skip
    table, text = TABLES[DEFAULT_TABLE], (ROOT / "docs/energy.md").read_text(encoding="utf-8")
    example = text[text.index("## By hand") :]
    for name, price in {
        "strict": lambda c: strict_mj(c, table),
        "8-bit": integer_mj,
        "simple": lambda c: simple_mj(c, accesses(c)),
        "Lemaire": lambda c: lemaire_mj(c, accesses(c)),
    }.items():
        line = next(line for line in example.splitlines() if line.startswith(f"| {name} |"))
        of_ann, of_spiking, ratio = (cell.replace(",", "") for cell in line.split("|")[2:5])
        for cell, counts in ((of_ann, ann), (of_spiking, spiking)):
            stated = float(cell.removesuffix(" uJ ").split()[-1])
            assert stated == pytest.approx(price(counts) * 1e3, rel=5e-3), line
        assert float(ratio) == pytest.approx(price(spiking) / price(ann), abs=5e-3), line
    assert f"N * 0.1758 pJ = {quantised_mj(ann, 3) * 1e3:.2f} uJ" in example
