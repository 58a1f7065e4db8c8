"""The command ``claims`` on made-up records: figures, verdicts, gaps and refusals."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import pytest
import yaml

from bench.claims.schema import read_claims
from bench.energy.accountings import ACCOUNTINGS
from bench.records.record import Record, write_records
from tests.support.calling import call, refused, report
from tests.support.records import record

CLAIM = {
    "id": "parity", "group": "A paper", "source": "Nobody 2026, table 1", "title": "As good",
    "claim": "The one is as good as the other.",
}  # fmt: skip
OF, AGAINST = {"system": "sddpm", "time_steps": 4}, {"system": "ann_twin"}


def twin(fd: float, **more: Any) -> Record:
    return record("ann_twin", fd, time_steps=None, **more)


def seeds(make: Any, *distances: float, **more: Any) -> list[Record]:
    """Records at seeds 0, 1, ...; each of its own hash."""
    return [
        make(
            fd, seed=seed, config_hash=sha256(f"{make} {seed} {more}".encode()).hexdigest(), **more
        )
        for seed, fd in enumerate(distances)
    ]


def sddpm(fd: float, **more: Any) -> Record:
    return record("sddpm", fd, **more)


def priced(make: Any, fd: float, mj: float, **more: Any) -> Record:
    energy = {"per_evaluation_mj": mj / 10, "per_image_mj": mj}
    return make(fd, energies={"strict": energy}, **more)


def run(root: Path, folders: dict[str, list[Record]], *comparisons: Any, **claim: Any) -> Any:
    """Result of the command, and the page."""
    for name, records in folders.items():
        (root / "results" / name).mkdir(parents=True)
        write_records(root / "results" / name / "records.jsonl", records)
    lines = [dict({"folder": "digits", "of": OF, "against": AGAINST}, **c) for c in comparisons]
    content = [{**CLAIM, **claim, "comparisons": lines}]
    (root / "claims.yaml").write_text(yaml.safe_dump(content))
    done = call("claims", root / "results", "--claims", root / "claims.yaml", "--out",
                root / "page.md")  # fmt: skip
    page = root / "page.md"
    return done, page.read_text(encoding="utf-8") if page.is_file() else ""


def cells(page: str) -> list[list[str]]:
    """Lines of the claim's own table."""
    body = page.split("### 1.")[1].split("## Commands")[0]
    rows = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_a_line_has_means_spreads_seeds_budget_verdict_and_command(tmp_path: Path) -> None:
    ours, theirs = (8.0, 9.0, 10.0), (4.0, 3.0, 2.5)
    folders = {"digits": [*seeds(sddpm, *ours), *seeds(twin, *theirs)]}
    done, page = run(tmp_path, folders, {}, expects="comparable")
    assert done.exit_code == 0, done.output
    ((data, network, beside, measured, unit, claimed, seed, images, verdict, where),) = cells(page)
    assert data == "digits, 8x8, ddim 10 eta=1"
    assert network == f"SDDPM, T = 4: {fmean(ours):.2f} ± {stdev(ours):.2f}"
    assert beside == f"ANN\\_TWIN: {fmean(theirs):.2f} ± {stdev(theirs):.2f}"
    # Ratios of 2, 3 and 4 at the three seeds.
    assert (measured, unit, claimed) == ("3.00 ± 1.00", "FD (efflite0), ratio", "at most 1.00")
    assert (seed, images, verdict, where) == ("0, 1, 2", "1,920", "contradicted", "digits")
    assert "`sddpm-bench run --suite digits --preset smoke`" in page
    assert "contradicted: 1" in done.output


def test_more_seeds_need_no_change_and_seeds_without_a_partner_are_left_out(tmp_path: Path) -> None:
    folders = {"digits": [*seeds(sddpm, 4, 4, 4, 4, 9), *seeds(twin, 8, 8, 8, 8)]}
    _, page = run(tmp_path, folders, {"compare": "times", "figure": 3})
    (line,) = cells(page)
    assert line[3:7] == ["2.00 ± 0.00", "FD (efflite0), times better", "at least 3.00",
                         "0, 1, 2, 3"]  # fmt: skip
    assert line[8] == "holds in direction"


def test_one_seed_has_the_spread_of_typical_networks_and_is_a_lead(tmp_path: Path) -> None:
    others = [(10.0, 11.0, 12.0), (20.0, 21.0, 25.0), (30.0, 40.0, 50.0)]
    typical = median(stdev(values) / fmean(values) for values in others)
    known: list[Record] = []
    for number, values in enumerate(others):
        known += seeds(sddpm, *values, variant=f"v{number}", config={"channels": number})
    # What another extractor found says nothing about this distance.
    foreign = [
        sddpm(0.0, metrics={"fd_efflite2": fd}, extractor="efficientnet-lite2", seed=seed,
              config_hash=f"f{seed}" * 32, variant="foreign", config={"channels": 77})
        for seed, fd in enumerate((1.0, 50.0, 99.0))
    ]  # fmt: skip
    folders = {"digits": [*known, sddpm(9.0), *seeds(twin, 10.0), *foreign]}
    _, page = run(tmp_path, folders, {"compare": "less"})
    (line,) = cells(page)
    assert line[3] == f"10.0 \\[± {90 * typical * 2**0.5:.1f}\\]"
    assert line[8] == "not seen; one seed: a lead"


def test_equal_energy_is_interpolated_at_each_seed(tmp_path: Path) -> None:
    """Twins of 1 and 4 mJ whose distance falls as 1 / energy; SDDPM needs 2 mJ."""
    widths = [
        priced(twin, 16.0 * (seed + 1) / mj, mj, seed=seed, variant=f"{mj} mJ",
               config={"channels": mj}, config_hash=f"{seed}{mj}" * 32)
        for seed in range(3) for mj in (1, 4)
    ]  # fmt: skip
    ours = [priced(sddpm, 4.0 * (s + 1), 2.0, seed=s, config_hash=f"{s}" * 64) for s in range(3)]
    curve = [{"folder": "digits", "system": "ann_twin", "variant": f"{mj} mJ"} for mj in (1, 4)]
    done, page = run(
        tmp_path, {"digits": [*widths, *ours]},
        {"of": OF, "curve": curve, "against": None}, question="Is it better?",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (line,) = cells(page)
    assert line[1] == "SDDPM, T = 4: 8.00 ± 4.00 at 2.00 mJ"
    assert line[2] == "ANN\\_TWIN, 1.00 to 4.00 mJ: 16.00 ± 8.00"
    assert (line[3], line[8]) == ("0.50 ± 0.00", "holds")
    assert "**Is it better?**\n\n- SDDPM, T = 4 on digits" in page


def test_one_seed_beside_a_curve_has_the_error_of_the_distance_on_it(tmp_path: Path) -> None:
    """The typical error is a share of a distance: of the curve's at that energy, not of its end."""
    known = seeds(sddpm, 9.0, 10.0, 11.0, variant="known", config={"channels": 99})
    typical = stdev([9, 10, 11]) / 10
    widths = [
        priced(twin, 16.0 / mj, mj, variant=f"{mj} mJ", config={"channels": mj},
               config_hash=f"{mj}" * 64)
        for mj in (1, 4)
    ]  # fmt: skip
    curve = [{"folder": "digits", "system": "ann_twin", "variant": f"{mj} mJ"} for mj in (1, 4)]
    done, page = run(
        tmp_path, {"digits": [*known, *widths, priced(sddpm, 4.0, 2.0)]},
        {"of": OF, "curve": curve, "against": None},
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (line,) = cells(page)
    assert line[3] == f"0.50 \\[± {0.5 * typical * 2**0.5:.2f}\\]"


def test_all_energies_are_lines_of_their_own(tmp_path: Path) -> None:
    """Every accounting that there is, and integers at 8 bits and at those of T = 4 spikes."""
    energies = {
        name: {"per_evaluation_mj": 1.0, "per_image_mj": 10.0 * number}
        for number, name in enumerate(ACCOUNTINGS, start=1)
    }
    double = {name: {**mj, "per_image_mj": 4 * mj["per_image_mj"]} for name, mj in energies.items()}
    bare = sddpm(1.0).counts_per_image
    assert bare is not None
    counts = {**bare.model_dump(), "macs_first_conv": 0, "macs": 1e9, "acs": 0, "sops": None}
    folders = {
        "digits": [
            *seeds(sddpm, 4, 4, 4, energies=energies),
            *seeds(twin, 8, 8, 8, energies=double, counts_per_image=counts),
        ]
    }
    done, page = run(tmp_path, folders, {"measure": "energies", "compare": "share"})
    assert done.exit_code == 0, done.output
    lines = {line[4].removesuffix(" mJ/image, %"): line for line in cells(page)}
    assert list(lines) == [*(entry.title for entry in ACCOUNTINGS.values()), "8-bit", "3-bit"]
    for entry in ACCOUNTINGS.values():
        assert lines[entry.title][3] == "25.0 ± 0.0"
    # docs/energy.md: 0.3 pJ a MAC at 8 bits, 0.1 pJ an accumulate.
    spiking = (0.3 * bare.macs + 0.1 * bare.acs) * 1e-9
    assert lines["8-bit"][3] == f"{100 * spiking / 0.3:.1f} ± 0.0"
    assert lines["8-bit"][2] == "ANN\\_TWIN: 0.300 mJ"


def test_missing_records_are_one_clear_line(tmp_path: Path) -> None:
    done, page = run(tmp_path, {"digits": seeds(sddpm, 4.0)}, {})
    assert done.exit_code == 2
    assert done.output.strip() == "Error: claim parity: no record of system=ann_twin in digits yet"
    assert page == ""


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    done, _ = run(tmp_path, {"digits": seeds(sddpm, 4.0)}, {"folder": "mnist"})
    assert done.exit_code == 2
    assert done.output.strip() == "Error: claim parity: no records in mnist yet"
    done = call("claims", tmp_path / "nowhere", "--out", tmp_path / "page.md")
    assert done.exit_code == 2
    assert "nowhere: no such folder; expected one with a folder of records" in done.output


def test_an_optional_line_says_that_it_was_not_tested(tmp_path: Path) -> None:
    folders = {"digits": [*seeds(sddpm, 4, 4, 4), *seeds(twin, 8, 8, 8)]}
    done, page = run(tmp_path, folders, {}, {"folder": "mnist", "optional": True})
    assert done.exit_code == 0
    assert [line[8] for line in cells(page)] == [
        "holds",
        "not tested here; no records in mnist yet",
    ]
    assert "| 1 | As good | better | 0.50 (ratio) | holds | 1 of 1 |" in page


def test_a_line_may_name_one_budget_of_several(tmp_path: Path) -> None:
    short = seeds(sddpm, 8.0, train_steps=60, train_images=1920)
    long = seeds(sddpm, 2.0, train_steps=600, train_images=19200)
    folders = {"digits": [*short, *long, *seeds(twin, 4.0)]}
    lines = [{"of": {**OF, "train_steps": steps}} for steps in (60, 600)]
    done, page = run(tmp_path, folders, *lines)
    assert done.exit_code == 0, done.output
    assert [line[3].split()[0] for line in cells(page)] == ["2.00", "0.50"]
    assert [line[7] for line in cells(page)] == ["1,920", "19,200"]


@pytest.mark.parametrize(
    ("comparison", "message"),
    [
        ({"against": {"system": "sddpm"}}, "describes 2 cells; state time_steps, sampler"),
        ({"against": {"system": "vae"}}, "not comparable: samples is 100 and 50"),
        ({"of": {"system": "fsvae"}}, "no distance or NLL was measured"),
    ],
)
def test_cells_that_cannot_be_compared_are_refused(
    tmp_path: Path, comparison: Any, message: str
) -> None:
    folders = {"digits": [
        *seeds(sddpm, 4.0), *seeds(sddpm, 5.0, sampler_steps=20), *seeds(twin, 8.0),
        record("vae", 8.0, samples=50), record("fsvae", None),
    ]}  # fmt: skip
    comparison = {"of": {**OF, "sampler": "ddim:10:1"}, **comparison}
    done, _ = run(tmp_path, folders, comparison)
    assert done.exit_code == 2
    assert "claim parity: " in done.output
    assert message in done.output


def test_a_search_of_thresholds_answers_with_its_interval(tmp_path: Path) -> None:
    table = tmp_path / "results/guidance/guidance.csv"
    table.parent.mkdir(parents=True)
    table.write_text(
        "method,distance,low,high\ntrained,200.0,0,0\ngrid,190.0,-16.0,-4.0\n", encoding="utf-8"
    )
    search = {"file": "guidance/guidance.csv", "of": {"method": "grid"}, "about": "a network",
              "against": {"method": "trained"}, "command": "sddpm-bench guide"}  # fmt: skip
    answer = {"table": search, "compare": "less", "figure": 9}
    claim = {**CLAIM, "question": "Does a search help?", "comparisons": [answer]}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([claim]))
    done = call("claims", tmp_path / "results", "--claims", tmp_path / "claims.yaml", "--out",
                tmp_path / "page.md")  # fmt: skip
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "\n- a network: yes, by less (one seed: a lead)\n" in page
    (line,) = cells(page)
    # 5 % less; half of the interval is 6 of 200, 3 %: not 9 %.
    assert line[3:6] == ["5.0 \\[± 3.0\\]", "FD, % less", "at least 9.00"]
    assert line[8] == "holds in direction; one seed: a lead"

    # A search without resampling has a dash for each end.
    table.write_text(table.read_text(encoding="utf-8").replace("-16.0,-4.0", "-,-"))
    done = call("claims", tmp_path / "results", "--claims", tmp_path / "claims.yaml", "--out",
                tmp_path / "page.md")  # fmt: skip
    refused(done, "claim parity", "guidance/guidance.csv", "grid", "'-'")


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"comparisons": []}, "expected comparisons, or under untested the reason"),
        ({"comparisons": [{"of": {**OF, "folder": "a"}}]}, "of with one of against and curve"),
        ({"untested": "no", "verdict": "holds"}, "claim parity: verdict: Extra inputs"),
        ({"comparisons": [{"of": {"system": "sddpm"}}]}, "claim parity: comparisons.0.of.folder"),
        ({"comparisons": "digits"}, "a list under comparisons"),
        ({"comparisons": [{"of": OF, "against": {**OF, "systems": "vae"}}]}, "systems: expected a"),
        (
            {"comparisons": [{"of": OF, "against": {**OF, "systems": 5}}]},
            "systems: expected a list",
        ),
    ],
)
def test_a_claim_that_cannot_be_read_names_itself(tmp_path: Path, claim: Any, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{**CLAIM, **claim}]))
    with pytest.raises(ValueError, match=r"--claims .*claims\.yaml, claim ") as caught:
        read_claims(path)
    assert message in str(caught.value)


def test_a_value_that_is_none_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("- id: 2020-13-45\n")
    with pytest.raises(ValueError, match=r"^--claims .*claims\.yaml: not YAML: month must be"):
        read_claims(path)


def test_an_id_occurs_once(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{**CLAIM, "untested": "no"}] * 2))
    with pytest.raises(ValueError, match="id parity: occurs twice"):
        read_claims(path)
    assert len({claim.id for claim in read_claims()}) == len(read_claims())


def test_a_report_answers_the_claims_of_folders_that_it_knows(tmp_path: Path) -> None:
    records = [*seeds(sddpm, 8, 9, 10), *seeds(twin, 4, 3, 2.5)]
    for name in ("digits", "mine"):
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / "records.jsonl", records)
    assert report(tmp_path / "digits", "--out", tmp_path / "with").exit_code == 0
    text = (tmp_path / "with/report.md").read_text(encoding="utf-8")
    assert "## Claims of the literature" in text
    assert "| As good as the ANN at T = 4 | digits, 8x8, ddim 10 eta=1 |" in text
    assert 'id="claims"' in (tmp_path / "with/index.html").read_text(encoding="utf-8")
    assert (tmp_path / "with/tables/claims.tex").is_file()
    assert report(tmp_path / "mine", "--out", tmp_path / "without").exit_code == 0
    assert "Claims" not in (tmp_path / "without/report.md").read_text(encoding="utf-8")
