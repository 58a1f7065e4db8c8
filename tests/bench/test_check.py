"""Regressions: what fails a comparison of two tables, and what must not."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.check.compare import compare, default_rules, kind_of, parse_tolerance
from bench.check.output import rows, sentence, to_github, to_json, workflow_commands
from bench.check.rows import read_table
from bench.cli import main
from bench.quality.metrics import METRICS, Tolerance
from bench.records.record import Record, write_records
from bench.tables.table import display, frame, to_csv
from tests.support.records import VERSION_1, record

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "tests" / "regression" / "digits-smoke.csv"
PLAIN = {
    "dataset": "digits", "system": "a", "title": "A", "time_steps": "4.0", "sampler": "ddim",
    "sampler_steps": "10", "eta": "1.0", "engine": "exact", "seed": "0", "status": "ok",
    "fid": "100.0", "kid": "0.05", "is": "2.0", "strict_mj_per_image": "0.5",
    "train_seconds": "30.0", "samples": "1000", "references": "1500", "extractor": "inception",
}  # fmt: skip


def table(*changes: dict[str, str]) -> str:
    """A table.csv with one row for each of ``changes`` to the plain row."""
    out = io.StringIO()
    made = [{**PLAIN, **change} for change in changes]
    writer = csv.DictWriter(out, list(made[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    return out.getvalue()


@pytest.fixture
def check(tmp_path: Path):
    """``sddpm-bench check`` on two tables given as text or as paths."""

    def call(baseline: str | Path, candidate: str | Path, *more: str) -> Result:
        paths = []
        for name, content in (("baseline.csv", baseline), ("candidate.csv", candidate)):
            if isinstance(content, str):
                (tmp_path / name).write_text(content)
                content = tmp_path / name
            paths.append(str(content))
        return CliRunner().invoke(
            main, ["check", "--baseline", paths[0], "--candidate", paths[1], *more]
        )

    return call


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line, line


# Figures: by hand, FID 100 may rise to 105, IS 2 fall to 1.96, and so on.


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"fid": "104.9"}, "same"),
        ({"fid": "105.1"}, "regressed"),
        ({"fid": "105"}, "same"),
        ({"fid": "94.9"}, "improved"),
        ({"is": "1.97"}, "same"),
        ({"is": "1.95"}, "regressed"),
        ({"is": "2.05"}, "improved"),
        ({"strict_mj_per_image": "0.53"}, "regressed"),
        ({"strict_mj_per_image": "0.1"}, "improved"),
        ({"kid": "-"}, "lost"),
        ({"kid": "nan"}, "lost"),
        ({"kid": "inf"}, "lost"),
        ({"train_seconds": "900"}, "same"),
    ],
)
def test_direction_and_tolerance_of_each_metric(check, change: dict[str, str], verdict) -> None:
    result = check(table({}), table(change), "--format", "json")
    content = json.loads(result.stdout)
    metric = next(iter(change))
    found = {c["metric"]: c["verdict"] for c in content["changes"]}
    assert found.get(metric, "same") == verdict
    assert set(found.values()) <= {"same", verdict}
    assert "train_seconds" not in found, "wall times are compared only where that is asked for"
    assert result.exit_code == (verdict in ("regressed", "lost")) == content["failed"]


@pytest.mark.parametrize(
    ("tolerance", "code"),
    [("fid=8%", 0), ("fid=6.9%", 1), ("fid=7", 0), ("fid=6.9", 1), ("kid=1,fid=7%", 0)],
)
def test_tolerances_are_percent_or_absolute(check, tolerance: str, code: int) -> None:
    assert check(table({}), table({"fid": "107"}), "--tolerance", tolerance).exit_code == code


def test_a_column_goes_before_its_kind_and_time_can_be_asked_for(check) -> None:
    worse = table({"strict_mj_per_image": "0.6", "train_seconds": "40"})
    both = ["--tolerance", "energy=0%", "--tolerance", "strict_mj_per_image=21%"]
    assert check(table({}), worse, *both).exit_code == 0
    assert check(table({}), worse, *both, "--tolerance", "seconds=20%").exit_code == 1


def test_a_tolerance_of_a_figure_at_zero_is_absolute_zero() -> None:
    assert Tolerance(5, percent=True).allows(0.0, 0.0)
    assert not Tolerance(5, percent=True).allows(1e-6, 0.0)
    assert Tolerance(10, percent=True).allows(0.0001, -0.002), "KID may be below 0"
    assert parse_tolerance(" kid = 0.002 ") == ("kid", Tolerance(0.002))


@pytest.mark.parametrize(
    ("before", "after", "spread", "verdict"),
    [
        ("0.0002", "0.0003", None, "same"),  # a tenth would be 0.00002
        ("-0.0001", "0.0003", None, "same"),
        ("0.0", "0.0004", None, "same"),
        ("0.0", "0.0006", None, "regressed"),
        ("0.0002", "0.0009", "0.001", "same"),
        ("0.0002", "0.0004", "0.0001", "regressed"),
        ("0.05", "0.054", "0.001", "same"),
        ("0.05", "0.056", None, "regressed"),
        ("0.001", "0.0", None, "improved"),
    ],
)
def test_a_percentage_of_kid_is_no_less_than_its_noise(
    check, before: str, after: str, spread: str | None, verdict: str
) -> None:
    noise = {} if spread is None else {"kid_std": spread}
    one, two = table({"kid": before, **noise}), table({"kid": after, **noise})
    result = check(one, two, "--format", "json")
    (change,) = [c for c in json.loads(result.stdout)["changes"] if c["metric"] == "kid"]
    assert change["verdict"] == verdict, change
    # An amount is taken at its word.
    assert check(one, two, "--tolerance", "kid=1").exit_code == 0
    worse = float(after) > float(before)
    assert check(one, two, "--tolerance", "kid=0.00001").exit_code == int(worse)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ("1.30", "1.20", "improved"), ("0.70", "0.90", "improved"), ("0.90", "1.10", "same"),
        ("1.02", "1.08", "regressed"), ("0.97", "0.90", "regressed"), ("1.0", "1.04", "same"),
    ],
)  # fmt: skip
def test_of_a_ratio_the_nearest_to_one_is_better(
    check, before: str, after: str, verdict: str
) -> None:
    result = check(table({"contrast": before}), table({"contrast": after}), "--format", "json")
    (change,) = [c for c in json.loads(result.stdout)["changes"] if c["metric"] == "contrast"]
    assert change["verdict"] == verdict, change
    assert result.exit_code == int(verdict == "regressed")


def test_the_help_states_every_default_tolerance() -> None:
    lines = [
        line.split()
        for line in CliRunner().invoke(main, ["check", "--help"]).output.splitlines()
        if line.endswith("is better")
    ]
    stated = {name: " ".join(words[:-3]).removesuffix(" nearest to") for name, *words in lines}
    rules = {kind: rule for kind, rule in default_rules().items() if rule.tolerance}
    assert stated == {kind: str(rule.tolerance) for kind, rule in rules.items()}
    assert {name: words[-3] for name, *words in lines} == {
        kind: "1" if rule.better == 1 else rule.better for kind, rule in rules.items()
    }


def test_figures_that_only_the_candidate_has_do_not_fail(check) -> None:
    result = check(table({"kid": "-"}), table({}))
    assert result.exit_code == 0
    assert "new" in result.stdout


def test_every_metric_of_a_table_has_a_rule_in_the_direction_of_its_arrow() -> None:
    metrics = dict.fromkeys(
        f"{kind}{suffix}"
        for kind in ("fid", "fd", "kid", "is", "precision", "recall")
        for suffix in ("", "_std", "_efflite0", "_std_efflite0")
    )
    shown = frame([Record(**{**json.loads(VERSION_1), "metrics": dict.fromkeys(metrics, 1.0)})])
    headings, _ = display(shown)
    arrows = {name.lower().split(" ")[0]: name[-1] for name in headings if name[-1] in "↓↑"}
    assert len(arrows) == 6
    for kind, arrow in arrows.items():
        assert METRICS[kind].better == {"↓": "lower", "↑": "higher"}[arrow]
    for metric in metrics:
        assert kind_of(metric) == (None if "_std" in metric else metric.split("_")[0])


# Cells.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "1"}, "not in the candidate"),
        ({"time_steps": "8"}, "not in the candidate"),
        ({"samples": "100"}, "not comparable: samples 1000 and 100"),
        ({"references": "300"}, "not comparable: references 1500 and 300"),
        ({"status": "failed", "fid": "-"}, "failed in the candidate"),
        ({"status": "missing", "samples": "-", "extractor": "-"}, "missing in the candidate"),
    ],
)
def test_a_cell_without_comparable_figures_fails(check, change, words: str) -> None:
    other = {"system": "b", "title": "B"}
    result = check(table({}, other), table(change, other))
    assert result.exit_code == 1, result.output
    assert f"missing: digits, A, T=4, ddim 10, seed 0: {words}" in result.stdout
    assert "REGRESSION: 4 figures of 2 cells: 0 regressed, 1 of 2 cells missing" in result.stdout


def test_a_candidate_without_rows_lacks_every_cell(check) -> None:
    both = table({}, {"system": "b", "title": "B"})
    result = check(both, both.splitlines()[0] + "\n")
    assert result.exit_code == 1, result.output
    assert result.stdout.count("not in the candidate") == 2, result.stdout


def test_new_cells_other_orders_and_other_number_formats_pass(check) -> None:
    other = {"system": "b", "title": "B"}
    candidate = table({**other, "time_steps": "4", "eta": "1"}, {"system": "new"}, {})
    result = check(table({}, other), candidate)
    assert result.exit_code == 0, result.output
    assert "the baseline has no figures of it" in result.stdout


def test_a_failed_cell_of_the_baseline_promises_nothing(check) -> None:
    broken = {"system": "b", "status": "failed", "fid": "-"}
    assert check(table({}, broken), table({})).exit_code == 0
    refused(check(table(broken), table({})), "no finished cell")


def test_a_column_that_one_table_never_had_does_not_part_the_cells(check) -> None:
    old = "\n".join(
        ",".join(part for n, part in enumerate(line.split(",")) if n != list(PLAIN).index("engine"))
        for line in table({}).splitlines()
    )
    assert check(old, table({})).exit_code == 0


def test_a_variant_is_not_the_plain_row(check) -> None:
    """A table has a column of variants only if it holds one."""
    wide = {"variant": "wide", "title": "A (wide)", "fid": "100.0"}
    result = check(table(wide), table({"fid": "90.0"}))
    assert result.exit_code == 1, result.output
    assert "A (wide)" in result.stdout
    assert "not in the candidate" in result.stdout
    result = check(table(wide, {"variant": ""}), table({}))
    assert result.exit_code == 1, result.output
    assert "1 of 2 cells missing" in result.stdout


def test_another_training_is_noted(check) -> None:
    result = check(table({"train_steps": "100"}), table({"train_steps": "200"}))
    assert result.exit_code == 0
    assert "not made alike: train_steps 100 and 200" in result.stdout


# Files.


def test_records_and_their_table_are_the_same(tmp_path: Path) -> None:
    records = [record("a", 9.0), record("b", 5.0), record("b", 6.0, seed=1)]
    (tmp_path / "table.csv").write_text(to_csv(frame(records)))
    write_records(tmp_path / "records.jsonl", records)
    from_csv, from_records = read_table(tmp_path / "table.csv"), read_table(tmp_path)
    for one, other in ((from_csv, from_records), (from_records, from_csv)):
        result = compare(one, other, {})
        assert not result.failed
        assert not rows(result)
        assert len(result.changes) == 3 * 5  # FD, KID, published, strict, integer


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ({}, {"reference_hash": "b" * 16}),
        ({}, {"reference_split": "test"}),
        # Hashes that are the same number, were they numbers.
        ({"reference_hash": "1e99999999999999"}, {"reference_hash": "2e99999999999999"}),
    ],
)
def test_tables_say_against_which_pictures_they_were_scored(
    mine: dict[str, str], other: dict[str, str], tmp_path: Path
) -> None:
    for name, changes in (("one", mine), ("two", other)):
        write_records(tmp_path / f"{name}.jsonl", [record(**changes)])
        (tmp_path / f"{name}.csv").write_text(to_csv(frame([record(**changes)])))
    for one, two in (("one.jsonl", "two.jsonl"), ("one.csv", "two.csv"), ("one.csv", "two.jsonl")):
        result = compare(read_table(tmp_path / one), read_table(tmp_path / two), {})
        assert result.failed
        assert f"not comparable: {next(iter(other))}" in result.missing[0][1]


def test_a_table_that_does_not_name_its_pictures_is_compared(tmp_path: Path) -> None:
    old = frame([record()]).drop(columns=["reference_split", "reference_hash"])
    (tmp_path / "old.csv").write_text(to_csv(old))
    write_records(tmp_path / "new.jsonl", [record()])
    write_records(tmp_path / "unknown.jsonl", [record(reference_hash=None)])
    new = read_table(tmp_path / "new.jsonl")
    for name in ("old.csv", "unknown.jsonl"):
        for one, two in ((read_table(tmp_path / name), new), (new, read_table(tmp_path / name))):
            assert not compare(one, two, {}).failed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["candidate.csv", "empty"]),
        ("a,b\n1,2\n", ["candidate.csv", "dataset, system, extractor"]),
        ("{}\n", ["candidate.csv, line 1", "not a record"]),
        (table({}) + "digits,a\n", ["candidate.csv, line 3", "columns"]),
        (table({"fid": "many"}), ["fid is 'many'", "number"]),
        (table({"extractor": "other"}), ["no shared extractor", "inception", "other"]),
        (table({}, {}), ["candidate holds two rows of one cell"]),
    ],
)
def test_tables_that_cannot_be_compared(check, text: str, words: list[str]) -> None:
    refused(check(table({}), text), *words)


def test_files_that_cannot_be_read(check, tmp_path: Path) -> None:
    refused(check(table({}), tmp_path / "absent.csv"), "absent.csv", "no such file")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00\x93NUMPY")
    refused(check(table({}), binary), "binary", "UTF-8")


@pytest.mark.parametrize(
    ("tolerance", "words"),
    [
        ("fidd=5%", ["'fidd'", "did you mean 'fid'", "strict_mj_per_image"]),
        ("fd=5%", ["'fd'", "fid"]),
        ("fid", ["--tolerance fid", "fid=5%"]),
        ("fid=-1%", ["--tolerance fid=-1%"]),
        ("fid=nan", ["--tolerance fid=nan"]),
    ],
)
def test_tolerances_that_mean_nothing(check, tolerance: str, words: list[str]) -> None:
    refused(check(table({}), table({}), "--tolerance", tolerance), *words)


# Formats.


def test_github_gets_a_summary_and_annotations(check, tmp_path: Path, monkeypatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    other = {"system": "b|c", "title": "B|C"}
    result = check(table({}, other), table({"fid": "120"}), "--format", "github")
    assert result.exit_code == 1
    written = summary.read_text()
    assert written.startswith("before\n### :x:")
    assert "| digits, A, T=4, ddim 10, seed 0 | fid | 100 | 120 | +20.00 % | 5 % |" in written
    assert "- digits, B\\|C, T=4, ddim 10, seed 0: not in the candidate" in written
    assert (
        "::error title=fid regressed::digits, A, T=4, ddim 10, seed 0: 100 -> 120 "
        "(+20.00 %25, allowed 5 %25)\n"
    ) in result.stdout
    assert "::error title=missing cell::" in result.stdout


def test_nothing_moved_is_one_sentence(check) -> None:
    result = check(table({}), table({}))
    assert result.stdout.strip() == (
        "no regression: 4 figures of 1 cell: 0 regressed, 0 improved, 4 within tolerance"
    )
    everything = check(table({}), table({}), "--all").stdout
    assert "strict_mj_per_image" in everything


def test_json_holds_no_nan(tmp_path: Path) -> None:
    for name, kid in (("one", "0.1"), ("two", "nan")):
        (tmp_path / name).write_text(table({"kid": kid}))
    result = compare(read_table(tmp_path / "one"), read_table(tmp_path / "two"), {})
    change = next(c for c in json.loads(to_json(result))["changes"] if c["metric"] == "kid")
    assert (change["baseline"], change["candidate"], change["verdict"]) == (0.1, None, "lost")
    assert "1 lost" in sentence(result)
    assert "kid lost" in workflow_commands(result)[0]
    assert "| kid | 0.1 | nan |" in to_github(result)


# The project's own smoke suite against the table that is committed.


@pytest.mark.timeout(600)
def test_the_smoke_suite_has_not_regressed(check, tmp_path: Path, monkeypatch) -> None:
    """As ``.github/workflows/ci.yml`` does it, with the tolerances that stand there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    line = next(line for line in workflow.splitlines() if "--tolerance" in line)
    tolerances = ["--tolerance", line.split("--tolerance")[1].split()[0]]
    run = ["run", "--suite", "digits", "--preset", "smoke", "--extractor", "embedded"]
    made = CliRunner().invoke(main, [*run, "--device", "cpu", "--out", str(tmp_path / "run")])
    assert made.exit_code == 0, made.output
    compared = check(SMOKE, tmp_path / "run" / "table.csv", *tolerances)
    assert compared.exit_code == 0, compared.output
    # Had the distances been a tenth smaller, it would see it.
    better = tmp_path / "better.csv"
    with SMOKE.open() as source, better.open("w", newline="") as target:
        read = csv.DictReader(source)
        writer = csv.DictWriter(target, read.fieldnames or [])
        writer.writeheader()
        for row in read:
            writer.writerow({**row, "fd_efflite0": 0.9 * float(row["fd_efflite0"])})
    assert check(better, tmp_path / "run" / "table.csv", *tolerances).exit_code == 1
