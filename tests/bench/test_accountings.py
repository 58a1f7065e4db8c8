"""An accounting of energy is one entry; records of schema version 1 keep theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.energy.accountings import ACCOUNTINGS, Accounting
from bench.energy.counts import Counts
from bench.energy.prices import DEFAULT_TABLE
from bench.records.make import price_energies
from bench.records.record import Record, read_records
from bench.report.latex import to_latex
from bench.report.markdown import table_text
from bench.report.sorting import make_report
from bench.report.sources import Sources
from bench.report.tables import energies, ranking
from bench.tables.table import display, frame, to_markdown
from tests.support.records import VERSION_1, cell, record

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "results").rglob("*.jsonl"))
OLD = {
    "published": "energy_published",
    "strict": "energy_strict",
    "simple_memory": "energy_simple_memory",
    "lemaire": "energy_lemaire",
}


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accounting of a test's own: 2 mJ a MAC."""
    entry = Accounting(
        "doubled", "Doubled", "Doubled MACs", lambda counts, moved, table: 2 * counts.macs
    )
    monkeypatch.setitem(ACCOUNTINGS, "doubled", entry)


@pytest.mark.usefixtures("doubled")
def test_an_accounting_is_one_entry() -> None:
    one = Counts(1, 1, 3, 5, 7, 9)
    both = price_energies(
        {"per_evaluation": one, "per_image": Counts(2, 2, 6, 9, 9, 9)}, DEFAULT_TABLE
    )
    assert (both["doubled"].per_evaluation_mj, both["doubled"].per_image_mj) == (6, 12)
    stored = cell(0).model_copy(update={"energies": both})
    stored = Record.model_validate_json(stored.model_dump_json())
    headings, (row,) = display(frame([stored]))
    assert dict(zip(headings, row, strict=True))["Doubled mJ/image"] == "12"
    (board,) = make_report(Sources(records=[stored]), []).boards
    table = energies(board)
    assert "Doubled MACs mJ/image" in table_text(table)
    assert "12.0" in to_latex(table)
    assert "Doubled" not in table_text(ranking(board)), "only ranked accountings stand there"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_records_load_with_every_energy_they_hold(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    records = read_records(path)
    assert len(records) == len(lines)
    for stored, loaded in zip(lines, records, strict=True):
        if stored["schema_version"] > 1:
            continue
        assert loaded.schema_version == 2
        held = {key for key, name in OLD.items() if stored.get(name)}
        assert held - set(loaded.energies) <= {"published"}
        for key in held & {"published", "strict", "lemaire"} & set(loaded.energies):
            assert loaded.energies[key].model_dump() == stored[OLD[key]]
        if "simple_memory" in held:
            # Four additions of 0.9 pJ for each neuron and spiking step.
            more = 4 * 0.9e-9 * stored["memory_per_image"]["neuron_updates"]
            got = loaded.energies["simple_memory"].per_image_mj
            assert got == pytest.approx(stored["energy_simple_memory"]["per_image_mj"] + more)


def test_networks_whose_convolutions_all_read_spikes_have_no_published_energy_of_old() -> None:
    records = read_records(ROOT / "results" / "cifar10" / "records.jsonl")
    without = {r.system for r in records if r.status == "ok" and "published" not in r.energies}
    assert without == {"fsvae", "sgan", "swgan", "sgad", "hybrid_gan"}
    for found in (r for r in records if r.system in without):
        assert found.counts_per_image is not None
        assert (found.counts_per_image.macs_first_conv, found.counts_per_image.sops) == (0, None)
    text = to_markdown(frame(records), records)
    (note,) = (line for line in text.splitlines() if line.startswith("- No published energy"))
    assert all(title in note for title in ("FSVAE", "SGAN", "SWGAN", "SGAD", "Hybrid GAN"))


def test_an_old_record_is_upgraded_once(tmp_path: Path) -> None:
    moved = dict.fromkeys(
        (
            "weight_reads", "bias_reads", "input_reads", "output_writes", "potential_reads",
            "potential_writes", "spikes", "address_additions", "address_macs",
        ),
        1e9,
    )  # fmt: skip
    old = json.loads(VERSION_1) | {
        "memory_per_image": {**moved, "neuron_updates": 1e6, "words_by_buffer_bytes": {}},
        "energy_simple_memory": {"per_evaluation_mj": 0.1, "per_image_mj": 1.0},
    }
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(old) + "\n")
    (first,) = read_records(path)
    path.write_text(first.model_dump_json() + "\n")
    assert read_records(path) == [first]
    assert first.energies["simple_memory"].per_image_mj == pytest.approx(1.0 + 4 * 0.9e-3)
    assert first.energies["simple_memory"].per_evaluation_mj == pytest.approx(0.1 + 4 * 0.9e-4)
    assert set(record().energies) == {"published", "strict"}
