"""Which rows of a ranking differ, against tests of SciPy and figures worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bench.records.record import Record, write_records
from bench.report.boards import Board, Stat
from bench.report.evidence import Difference, holm, interval, neighbours
from bench.report.glance import glance
from bench.report.latex import to_latex
from bench.report.markdown import table_text
from bench.report.sorting import make_report
from bench.report.sources import Sources
from bench.report.tables import ranking
from tests.support.calling import report as call
from tests.support.records import cell

NEAR, ALSO, FAR = (10.0, 10.4, 9.7), (10.2, 9.9, 10.5), (30.0, 33.0, 29.0)
HEADING = "Differs from the row above"


def rows(
    title: str, values: tuple[float, ...], spread: float | None = None, system: str = "sddpm"
) -> list[Record]:
    """Records of a cell, a seed for each Frechet distance."""
    found = []
    for seed, value in enumerate(values):
        record = cell(0, system, value, seed=seed, title=title, config={"name": title})
        more = {} if spread is None else {"fd_std_efflite0": spread}
        hashed = f"{title.encode().hex()}{seed}".ljust(64, "0")[:64]
        found.append(
            record.model_copy(update={"config_hash": hashed, "metrics": {**record.metrics, **more}})
        )
    return found


def board(*cells: list[Record]) -> Board:
    (found,) = make_report(Sources(records=[r for each in cells for r in each]), []).boards
    return found


def column(found: Board, heading: str) -> dict[str, str]:
    """System -> text of a ranking's column."""
    table = ranking(found)
    place = [c.text for c in table.columns].index(heading)
    return {line.entries[1].text: line.entries[place].text for line in table.lines}


# --- the formulas


def test_holm_by_hand() -> None:
    # 3 x 0.01; 2 x 0.03; 0.04, raised to the one before it.
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.7, 0.4])) == pytest.approx([0.8, 0.8])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])
    assert holm(np.array([0.2])) == pytest.approx([0.2])


def test_an_interval_by_hand() -> None:
    # Student's t with 2 degrees of freedom is 4.3027 at 97.5 %: 10 +- 4.3027 x 2 / sqrt(3).
    assert interval(Stat((8, 10, 12)), signed=True) == pytest.approx((5.0317, 14.9683), abs=1e-4)
    low, high = interval(Stat((1, 10, 19)), signed=False) or (None, None)
    assert (low, high) == (0, pytest.approx(32.357, abs=1e-3))
    assert interval(Stat((1, 10, 19)), signed=True) == pytest.approx((-12.357, 32.357), abs=1e-3)
    assert interval(Stat((8, 10)), signed=True) is None


def test_neighbours_are_tested_over_seeds_on_logarithms() -> None:
    found = neighbours(board(rows("near", NEAR), rows("also", ALSO), rows("far", FAR)))
    by_scipy = [
        stats.ttest_ind(np.log(a), np.log(b), equal_var=False).pvalue
        for a, b in ((NEAR, ALSO), (ALSO, FAR))
    ]
    assert [found[2].tested, found[3].tested] == ["seeds", "seeds"]
    assert found[3].p == pytest.approx(2 * by_scipy[1])
    assert found[2].p == pytest.approx(max(by_scipy[0], 2 * by_scipy[1]))
    assert found[3].p < 0.01 < 0.3 < found[2].p


def test_figures_below_zero_are_compared_as_they_are() -> None:
    one, other = (-4.0, -4.2, -4.1), (0.5, 0.7, 0.4)
    records = [
        r.model_copy(update={"metrics": {"nll_paths": v}})
        for title, values in (("one", one), ("other", other))
        for r, v in zip(rows(title, values), values, strict=True)
    ]
    found = neighbours(board(records))
    wanted = stats.ttest_ind(one, other, equal_var=False).pvalue
    assert found[2].p == pytest.approx(wanted)


def test_seeds_without_any_spread() -> None:
    same, above = rows("same", (5.0, 5.0)), rows("above", (6.0, 6.0))
    assert neighbours(board(same, above))[2].p == 0
    assert neighbours(board(same, rows("twin", (5.0, 5.0))))[2].p == 1


def test_one_seed_is_no_test_of_the_training() -> None:
    found = neighbours(board(rows("one", (10.0,)), rows("other", (50.0,)), rows("far", FAR)))
    assert found == {2: Difference(None, None), 3: Difference(None, None)}


def test_with_one_seed_the_spread_over_samples_is_asked() -> None:
    # |12 - 10| over sqrt(0.6^2 + 0.8^2) = 2; normal: 0.0455 in both tails.
    found = neighbours(board(rows("one", (10.0,), 0.6), rows("other", (12.0,), 0.8)))
    assert found[2].tested == "samples"
    assert found[2].p == pytest.approx(0.0455, abs=1e-4)
    # Of a mean over four seeds the error is half of one seed's: 3 over sqrt(0.6^2 + 0.8^2).
    found = neighbours(board(rows("one", (10.0,), 0.6), rows("other", (13.0,) * 4, 1.6)))
    assert found[2].p == pytest.approx(0.0027, abs=1e-4)
    # KID's spread is over subsets, and says nothing of other samples.
    kid = [
        r.model_copy(update={"metrics": {"kid_efflite0": v, "kid_std_efflite0": 0.1}})
        for title, v in (("one", 1.0), ("other", 2.0))
        for r in rows(title, (v,))
    ]
    assert neighbours(board(kid))[2].p is None


# --- the report


def test_a_ranking_says_who_differs() -> None:
    found = board(
        rows("near", NEAR), rows("also", ALSO), rows("far", FAR), rows("last", (90.0,)),
    )  # fmt: skip
    shown = column(found, HEADING)
    assert shown["near"] == "-"
    assert shown["also"].startswith("≈, p = 0.")
    assert shown["far"].startswith("yes, p ")
    assert shown["last"] == "one seed"
    intervals = column(found, "95 % interval")
    assert intervals["near"] == "9.16 to 10.91"
    assert intervals["last"] == "-"
    text = table_text(ranking(found))
    assert "corrected by Holm's method for 2 tested neighbours" in text
    assert "One seed: no test of the training." in text
    latex = to_latex(ranking(found))
    assert r"$\approx$, p = 0." in latex
    assert "≈" not in latex


def test_a_ranking_of_one_seed_says_so() -> None:
    found = board(rows("a", (1.0,), 0.1), rows("b", (1.1,), 0.1), rows("c", (9.0,), 0.1))
    shown = column(found, HEADING)
    assert shown["b"].startswith("one seed; samples ≈, p = 0.4")
    assert shown["c"] == "one seed; samples differ, p < 0.001"
    table = ranking(found)
    assert "95 % interval" not in [c.text for c in table.columns]
    (sentences,) = table.marks
    assert "p by the spread over new samples where a row has one seed," in sentences
    assert sentences.endswith("One seed: no test of the training.")
    alone = ranking(board(rows("a", (1.0,))))
    assert HEADING not in [c.text for c in alone.columns]
    assert not alone.marks


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (FAR, NEAR, "×3.06, beyond the seeds' spread (p < 0.001)"),
        (ALSO, NEAR, "×1.02, within the seeds' spread (p = 0.56)"),
        ((20.0,), NEAR, "×1.99, one seed: no test of the training"),
    ],
)
def test_the_gap_at_a_glance(
    ours: tuple[float, ...], theirs: tuple[float, ...], words: str
) -> None:
    records = [*rows("spiking", ours), *rows("twin", theirs, system="ann_twin")]
    table = glance(make_report(Sources(records=records), []))
    assert table.lines[0].entries[4].text == words
    assert ("Welch" in table.caption) == ("seeds'" in words)


def test_the_gap_of_one_seed_with_a_spread_over_samples() -> None:
    records = [*rows("spiking", (11.0,), 1.0), *rows("twin", (10.0,), 1.0, system="ann_twin")]
    table = glance(make_report(Sources(records=records), []))
    assert table.lines[0].entries[4].text == (
        "×1.10, within the samples' spread (p = 0.48); one seed: no test of the training"
    )


def test_the_page_shows_both(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", [*rows("near", NEAR), *rows("far", FAR)])
    out = tmp_path / "report"
    assert call(tmp_path / "records.jsonl", "--out", out).exit_code == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    for text in (page, (out / "report.md").read_text(encoding="utf-8")):
        assert HEADING in text
        assert "9.16 to 10.91" in text
        assert "tested neighbours" in text
