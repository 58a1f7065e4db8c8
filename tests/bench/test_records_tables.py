"""Records load for ever, and tables say what they show."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from bench.records.record import MemoryAccesses, merge, read_records, write_records
from bench.tables.table import display, frame, select, to_csv, to_markdown
from tests.support.records import VERSION_1, failed, record


def test_a_stored_line_loads(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(VERSION_1 + "\n\n" + VERSION_1 + "\n")
    first, second = read_records(path)
    assert first == second
    assert first.schema_version == 2
    assert first.system == "sddpm"
    assert first.time_steps == 4
    assert first.metrics["fd_efflite0"] == pytest.approx(126.92233647938059)
    assert first.counts_per_image is not None
    assert first.counts_per_image.evaluations == first.evaluations_per_image == 10
    write_records(path, [first])
    assert read_records(path) == [first]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "line 2: not JSON"),
        ('{"a": 1}', "line 2: not a record"),
        (VERSION_1.replace('"schema_version":1', '"schema_version":99'), "version 99"),
        ('{"schema_version":1}', "line 2: suite: Field required"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(f"{VERSION_1}\n{line}\n")
    with pytest.raises(ValueError, match=words):
        read_records(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("126.92233647938059", "NaN", r"metrics.fd_efflite0: .*finite number, not nan"),
        (
            '"per_image_mj":0.0381999951',
            '"per_image_mj":-1',
            r"energies.published.*: .*0",
        ),
        ('"macs":656640.0', '"macs":Infinity', r"counts_per_evaluation.macs: .*finite"),
        ('"time_steps":4,"sampler"', '"time_steps":-1,"sampler"', r"time_steps: .*1, not -1"),
        ('"samples":100', '"samples":-1', r"samples: .*0, not -1"),
        ('"image_size":8', '"image_size":0', r"image_size: "),
        ('"firing_rate":0.22955', '"firing_rate":-0.22955', r"firing_rate: "),
    ],
)
def test_a_figure_that_cannot_be_is_refused(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert VERSION_1.count(old) == 1
    path = tmp_path / "records.jsonl"
    path.write_text(VERSION_1.replace(old, new) + "\n")
    with pytest.raises(ValueError, match=f"records.jsonl, line 1: {words}"):
        read_records(path)


def test_a_line_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(VERSION_1.encode() + b'\n{"title": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"records.jsonl, line 2: not a text in UTF-8"):
        read_records(path)


def test_only_a_new_line_ends_a_record(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    kept = [record(reason="a\u2028b\u0085c\x1cd"), record("b")]
    write_records(path, kept)
    assert read_records(path) == kept
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_records(path) == kept


def test_every_committed_record_loads() -> None:
    paths = sorted((Path(__file__).parents[2] / "results").rglob("*.jsonl"))
    assert len(paths) > 5
    assert all(read_records(path) for path in paths)


def test_a_field_that_has_gone_does_not_matter() -> None:
    assert record(gone_field=3).system == "sddpm"


def test_a_newer_record_replaces_the_cell_s_older_one() -> None:
    old = [record("a", 1.0), record("b", 2.0)]
    merged = merge(
        old, [record("a", 3.0), record("a", 4.0, seed=1), record("a", 5.0, extractor="x")]
    )
    found = [(r.system, r.seed, r.extractor, r.metrics["fd_efflite0"]) for r in merged]
    key = old[0].extractor
    assert found == [("a", 0, key, 3.0), ("b", 0, key, 2.0), ("a", 1, key, 4.0), ("a", 0, "x", 5.0)]


def test_rows_are_sorted_by_data_set_and_distance() -> None:
    records = [
        record("c", 30.0), failed("d"), record("a", 10.0), record("b", 9.0),
        record("z", 99.0, dataset="a first one"),
    ]  # fmt: skip
    assert list(frame(records)["system"]) == ["z", "b", "a", "c", "d"]


def test_missing_figures_and_cells_are_dashes() -> None:
    table = frame([record("a"), failed("b")], [{"system": "c", "title": "C", "dataset": "digits"}])
    headings, rows = display(table)
    distance = headings.index("FD (efflite0) ↓")
    assert [row[0] for row in rows] == ["A", "B", "C"]
    assert [row[distance] for row in rows] == ["10.00", "-", "-"]
    assert all(cell == "-" for cell in rows[2][1:])
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [line["fd_efflite0"] for line in lines] == ["10.0", "-", "-"]
    assert lines[1]["status"] == "failed"


def test_one_table_never_mixes_extractors() -> None:
    mixed = [record("a"), record("b", extractor="inception-v3-compat")]
    with pytest.raises(ValueError, match="cannot mix extractors"):
        frame(mixed)
    assert [r.system for r in select(mixed, "inception-v3-compat")] == ["b"]


def test_markdown_says_how_its_numbers_were_made() -> None:
    records = [record("a"), record("b", 20.0, seed=1), failed("c")]
    text = to_markdown(frame(records), records)
    kept = records[0]
    for words in (
        "| A ", "| 10.00 ", "0.1000", "Seed", f"`{kept.command}`", "digits, 8x8",
        "100 samples against 300 train images", "seed 0 / 1", "60 steps of 32 images",
        str(kept.extractor), str(kept.energy_table), kept.device, "2 cores", "torch",
        kept.git_commit, "Failed: C, T=4, ddim 10 eta=1, seed 0: it broke",
    ):  # fmt: skip
        assert words in text, words
    # Equal facts of several rows stand once.
    assert text.count(kept.device) == 1


def test_people_see_the_mean_and_spread_of_the_seeds_and_programs_each_seed() -> None:
    records = [
        record("a", 10.0), record("a", 14.0, seed=1), record("a", 12.0, seed=2),
        record("b", 11.0), failed("b", seed=1), record("c", 11.5), failed("d"),
    ]  # fmt: skip
    table = frame(records, [{"system": "a", "title": "A", "dataset": "digits", "seed": 3}])
    headings, rows = display(table)
    at = [headings.index(name) for name in ("System", "Seeds", "FD (efflite0) ↓", "Params (M)")]
    # (10 + 14 + 12) / 3 = 12; the squares of -2, 2, 0 sum to 8, over n - 1 = 2 give 4.
    parameters = f"{records[0].params_millions:.3f}"
    assert [[row[k] for k in at] for row in rows] == [
        ["B", "0", "11.00", parameters],
        ["C", "0", "11.50", parameters],
        ["A", "0, 1, 2", "12.00 ± 2.00", parameters],
        ["A", "3", "-", "-"],
        ["D", "0", "-", "-"],
    ]
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [(line["system"], line["seed"]) for line in lines] == [
        ("a", "0"), ("b", "0"), ("c", "0"), ("a", "2"), ("a", "1"), ("a", "3"), ("b", "1"),
        ("d", "0"),
    ]  # fmt: skip


def test_other_settings_and_the_same_seed_again_are_rows_of_their_own() -> None:
    other = record("a", 14.0, seed=1, config={"learning_rate": 1.0})
    _, rows = display(frame([record("a", 10.0), other]))
    assert len(rows) == 2
    again = record("a", 14.0, config_hash="f" * 64)
    _, rows = display(frame([record("a", 10.0), again, record("a", 1.0, seed=1)]))
    assert len(rows) == 3


@pytest.mark.parametrize("other", [{"reference_hash": "b" * 16}, {"reference_split": "test"}])
def test_seeds_scored_against_other_images_have_no_mean(other: dict[str, str]) -> None:
    records = [record("a", 10.0), record("a", 12.0, seed=1), record("a", 20.0, seed=2, **other)]
    table = frame(records)
    headings, rows = display(table)
    at = [headings.index(name) for name in ("Seeds", "FD (efflite0) ↓")]
    assert [[row[k] for k in at] for row in rows] == [["0, 1", "11.00 ± 1.41"], ["2", "20.00"]]
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    for name in ("reference_hash", "reference_split"):
        assert [line[name] for line in lines] == [getattr(r, name) for r in records]
    text = to_markdown(table, records)
    assert ("Not comparable" in text) == ("reference_hash" in other)
    elsewhere = record("a", dataset="other", reference_hash="c" * 16)
    assert "Not comparable" not in to_markdown(table, [records[0], elsewhere])


def test_budgets_of_one_system_are_told_apart_by_their_steps() -> None:
    def shown(*steps: int) -> dict[str, list[str]]:
        records = [record("sddpm", 9.0 + n, train_steps=n) for n in steps]
        headings, rows = display(frame(records))
        return dict(zip(headings, map(list, zip(*rows, strict=True)), strict=True))

    assert shown(250, 4000)["Training steps"] == ["250", "4,000"]
    assert "Training steps" not in shown(250)


def test_an_empty_table() -> None:
    assert "No cells" in to_markdown(frame([]), [])


def test_energy_and_parameters_are_shown_in_their_units() -> None:
    table = frame(
        [record("a", energies={"published": {"per_evaluation_mj": 0.00123, "per_image_mj": 0}})]
    )
    headings, rows = display(table)
    shown = dict(zip(headings, rows[0], strict=True))
    assert shown["Published mJ/eval"] == "0.00123"
    assert shown["Published mJ/image"] == "0"
    assert shown["T"] == "4"


ANN_COUNTS = {
    "evaluations": 10, "macs_first_conv": 1e6, "macs": 101e6, "acs": 0, "dense_macs_spikes": 0,
    "sops": None,
}  # fmt: skip


def test_an_ann_is_priced_at_the_bits_of_the_table_s_spiking_rows() -> None:
    ann = record("ann", 1.0, time_steps=None, counts_per_image=ANN_COUNTS)
    records = [ann, record("a", 2.0, time_steps=4), record("b", 3.0, time_steps=8)]
    headings, rows = display(frame(records))
    shown = [dict(zip(headings, row, strict=True)) for row in rows]
    assert [s for s in headings if "-bit" in s] == [
        "8-bit mJ/image",
        "3-bit mJ/image",
        "4-bit mJ/image",
    ]
    # 1 M at 0.3 pJ and 100 M at 0.2 (3 x 8 / 64) ** 0.98855 + 0.1 pJ.
    assert shown[0]["3-bit mJ/image"] == "0.0179"
    assert shown[0]["4-bit mJ/image"] == "0.0204"
    assert shown[1]["3-bit mJ/image"] == "-"
    # All rows in 8 bits: 101 M MACs; and 6,566,400 MACs with 28,244,504 accumulates.
    assert [s["8-bit mJ/image"] for s in shown] == ["0.0303", "0.00479", "0.00479"]
    alone = display(frame([ann]))[0]
    assert [heading for heading in alone if "-bit" in heading] == ["8-bit mJ/image"]


def test_energy_with_memory_is_a_dash_in_old_records_and_kept_in_new_ones(tmp_path: Path) -> None:
    energy = {"per_evaluation_mj": 0.5, "per_image_mj": 5.0}
    words = dict.fromkeys(MemoryAccesses.model_fields, 1.0)
    moved = {**words, "words_by_buffer_bytes": {4000: 3.0, 228: 48.0}}
    new = record(
        "new", 1.0, energies={"simple_memory": energy, "lemaire": energy}, memory_per_image=moved
    )
    write_records(tmp_path / "records.jsonl", [new, record("old", 2.0)])
    records = read_records(tmp_path / "records.jsonl")
    assert records[0] == new
    assert records[0].memory_per_image is not None
    assert records[0].memory_per_image.words_by_buffer_bytes == {4000: 3.0, 228: 48.0}
    headings, rows = display(frame(records))
    for model in ("Simple", "Lemaire"):
        at = headings.index(f"{model} mJ/image")
        assert [row[at] for row in rows] == ["5", "-"]
