"""results/speed.csv and speed.md: a run replaces what it measured of its own kind alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import table

RATIO = {"what": "evaluation", "ours": "exact", "ratio": 2.0}


def kinds(folder: Path) -> list[tuple[str, str, float]]:
    rows = table.read_rows(folder / "speed.csv")
    return [(str(r["kind"]), str(r.get("ours", "")), float(str(r["ratio"]))) for r in rows]


def test_other_kinds_and_other_rows_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in table.LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(table.processor, "kind", lambda: "AVX2")
    monkeypatch.setattr(table.torch.cuda, "is_available", lambda: False)
    table.write_tables(tmp_path, [RATIO, {**RATIO, "ours": "fast", "ratio": 3.0}], [], "wall time")
    monkeypatch.setattr(table.processor, "kind", lambda: "AVX-512")
    table.write_tables(tmp_path, [{**RATIO, "ratio": 4.0}], [], "wall time")
    monkeypatch.setattr(table.processor, "kind", lambda: "AVX2")
    table.write_tables(tmp_path, [{**RATIO, "ratio": 2.5}], [], "wall time")
    assert sorted(kinds(tmp_path)) == [
        ("AVX-512", "exact", 4.0),
        ("AVX2", "exact", 2.5),
        ("AVX2", "fast", 3.0),
    ]
    text = (tmp_path / "speed.md").read_text()
    assert text.count("\n## AVX2\n") == text.count("\n## AVX-512\n") == 1


def test_rows_of_a_growing_size_are_replaced_together() -> None:
    earlier = [{"kind": "a", "table": "Growth", "mode": "fast", "batch": b} for b in (1, 2, 3)]
    measured = [{"kind": "a", "table": "Growth", "mode": "fast", "batch": 4}]
    other = {"kind": "a", "table": "Growth", "mode": "exact", "batch": 1}
    assert table.merge([*earlier, other], measured) == [other, *measured]


def test_a_limited_processor_is_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in table.LIMITS:
        monkeypatch.delenv(name, raising=False)
    plain = table.kind()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert table.kind() != plain
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in table.kind()


def test_the_committed_text_is_the_committed_rows() -> None:
    results = Path(__file__).parents[1] / "results"
    rows = table.read_rows(results / "speed.csv")
    assert (results / "speed.md").read_text(encoding="utf-8") == table.render(rows)
