"""Distances of resampled features against the plain formula; their spread against new samples'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from bench.quality import fidelity, resampling
from bench.quality.metrics import METRICS, metric_of, spread_column
from bench.quality.registry import EMBEDDED, EXTRACTORS, INCEPTION
from bench.quality.resampling import distance_spread, resampled_distances
from bench.records.record import write_records
from bench.records.validate import find_problems
from bench.tables.table import display, frame
from tests.support.records import cell


def features(count: int, dimensions: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated features far from 0, as those of a network behind a ReLU."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions, dimensions))
    return torch.from_numpy(np.maximum(mixed + 3 + shift, 0)).float()


def moments(of: Tensor) -> tuple[Tensor, Tensor]:
    found = fid_features_to_statistics(of)
    return torch.from_numpy(found["mu"]), torch.from_numpy(found["sigma"])


def by_scipy(one: Tensor, other: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))."""
    a, b = (x.double().numpy() for x in (one, other))
    s, t = (np.cov(x, rowvar=False) for x in (a, b))
    root = scipy.linalg.sqrtm(s @ t).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root))


@pytest.mark.parametrize(
    ("count", "dimensions"), [(30, 40), (64, 40), (200, 12)], ids=["wide", "near", "long"]
)
def test_a_resample_has_the_distance_of_its_images(count: int, dimensions: int) -> None:
    own, theirs = features(count, dimensions, 0), features(150, dimensions, 1, shift=0.5)
    rng = np.random.default_rng(2)
    drawn = [np.arange(count), *(rng.integers(count, size=count) for _ in range(4))]
    got = list(resampled_distances(own, *moments(theirs), drawn))
    assert len(set(got)) == 5
    for index, found in zip(drawn, got, strict=True):
        images = own[torch.from_numpy(index)]
        known = [fid_features_to_statistics(x) for x in (images, theirs)]
        wanted = fid_statistics_to_metric(*known, False)["frechet_inception_distance"]
        # float32 means in torch-fidelity; SciPy's root of a singular product is less exact.
        assert found == pytest.approx(wanted, rel=1e-4)
        if count > dimensions:
            assert found == pytest.approx(by_scipy(images, theirs), rel=1e-5)


def test_both_forms_are_one_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK", 16)
    own, (_, covariance) = features(50, 40, 0), moments(features(90, 40, 1))
    x = own.double().numpy() - own.double().numpy().mean(0)
    counts = np.bincount(np.random.default_rng(0).integers(50, size=50), minlength=50).astype(float)
    pair = [make(x, covariance.numpy())(counts) for make in (resampling._by_samples,
                                                             resampling._by_features)]  # fmt: skip
    one, two = (np.sqrt(values.clip(min=0)).sum() for values in pair)
    assert one == pytest.approx(two, rel=1e-6)


@pytest.mark.parametrize(("count", "dimensions"), [(300, 6), (80, 120)])
def test_the_spread_is_that_of_new_samples(count: int, dimensions: int) -> None:
    """Sets drawn anew from one distribution scatter as each one's spread says, also with fewer
    samples than features."""
    rng = np.random.default_rng(3)
    scale = 1 / np.arange(1, dimensions + 1)
    theirs = moments(torch.from_numpy(rng.normal(size=(2_000, dimensions)) * scale + 0.1).float())
    sets = [
        torch.from_numpy(rng.normal(size=(count, dimensions)) * scale).float() for _ in range(100)
    ]
    whole = [np.arange(count)]
    distances = [next(resampled_distances(x, *theirs, whole)) for x in sets]
    wanted = float(np.std(distances, ddof=1))  # itself known to 7 %
    spreads = [distance_spread(x, *theirs) for x in sets[:10]]
    assert np.mean(spreads) == pytest.approx(wanted, rel=0.35)


def test_the_jackknife_of_a_mean_is_the_error_of_the_mean() -> None:
    """Far from the references the distance is that of the means, linear in each sample: its
    standard deviation is twice the distance of the means times the error of the mean."""
    rng = np.random.default_rng(0)
    own = torch.from_numpy(rng.normal(size=(200, 2)) * [1, 0.001] + [1_000, 0]).float()
    spread = distance_spread(own, torch.zeros(2), torch.eye(2).double() * 1e-6)
    error = float(own[:, 0].std()) / 200**0.5
    assert spread == pytest.approx(2 * 1_000 * error, rel=0.2)  # known to 7 %


def test_it_repeats_and_large_sets_take_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    own, theirs = features(60, 8, 0), moments(features(100, 8, 1))
    first = distance_spread(own, *theirs)
    assert first == distance_spread(own, *theirs) > 0
    asked = []

    def counted(*sets: Any) -> Any:
        *known, resamples = sets
        drawn = list(resamples)
        asked.append(len(drawn))
        return resampled_distances(*known, drawn)

    monkeypatch.setattr(resampling, "resampled_distances", counted)
    distance_spread(own, *theirs)
    monkeypatch.setattr(resampling, "LARGE", 59)
    distance_spread(own, *theirs)
    assert asked == [100, 25]


def test_it_stands_beside_the_distance(tmp_path: Path) -> None:
    one, two = (fidelity.summarise(features(40, 12, seed)) for seed in (0, 1))
    got = fidelity.compute(one, two, None)
    assert got["fid_std"] == pytest.approx(distance_spread(one.features, two.mean, two.covariance))
    assert "fid_std" not in fidelity.compute(one, two, None, with_spread=False)
    assert EMBEDDED.column("fid_std") == "fd_std_efflite0" == spread_column("fd_efflite0")
    assert INCEPTION.column("fid_std") == "fid_std"
    for extractor in EXTRACTORS.values():
        column = extractor.column("fid")
        assert extractor.column("fid_std") == spread_column(column)
        assert metric_of(spread_column(column)) is None
        assert metric_of(column) in METRICS.values()


def test_records_with_and_without_it_are_valid(tmp_path: Path) -> None:
    old = cell(0).model_copy(update={"config": {}})
    new = cell(1, seed=1).model_copy(
        update={"metrics": {"fd_efflite0": 9.0, "fd_std_efflite0": 0.5, "kid_efflite0": 0.1}}
    )
    write_records(tmp_path / "records.jsonl", [old, new])
    assert find_problems(tmp_path / "records.jsonl") == (2, [])
    table = frame([old, new])
    # In the CSV for programs; people see the distance, whose ± is over seeds.
    assert list(table["fd_std_efflite0"].dropna()) == [0.5]
    headings, _ = display(table)
    assert [text for text in headings if text.startswith("FD")] == ["FD (efflite0) ↓"]
