"""Points through the harness: files of places, metrics with known answers, a whole run."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import expm
from torch import Tensor

import sddpm
from bench.data.datasets import DATASETS, brief_hash, load, open_data
from bench.data.maps import density_map, save_points
from bench.data.points import (
    MIXTURE_CENTRES,
    POINT_SETS,
    Points,
    load_points,
    read_places,
    rotation_mixture,
    unit_vectors,
    vmf_mixture_log_density,
)
from bench.plan.cells import Data, expand
from bench.plan.plan import Options, make_plan
from bench.quality.points import (
    PointSamples,
    kernel_discrepancy,
    score_points,
    sliced_distance,
)
from bench.records.record import read_records
from bench.records.validate import find_problems
from bench.run.ready import check_ready
from bench.suites.reading import load_suite
from sddpm.manifolds import make_manifold
from sddpm.protocol import ImageShape, PointShape, shape_from
from tests.support.calling import call

SPHERE = PointShape("sphere", 3)


def uniform(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return SPHERE.space.uniform(torch.randn(count, 3, generator=generator))


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A data root with 200 places of volcanoes."""
    rng = np.random.default_rng(0)
    lines = ["# where it is from", "Latitude,Longitude"]
    lines += [f"{rng.uniform(-90, 90):.3f},{rng.uniform(-180, 180):.2f}" for _ in range(200)]
    home = tmp_path / "root" / "earth"
    home.mkdir(parents=True)
    (home / "volerup.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "root"


def test_places_become_unit_vectors() -> None:
    found = unit_vectors(np.array([[90.0, 5.0], [0.0, 0.0], [0.0, 90.0], [-30.0, 180.0]]))
    wanted = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [-math.sqrt(0.75), 0, -0.5]]
    np.testing.assert_allclose(found, wanted, atol=1e-15)


def test_splits_are_apart_and_the_same_at_every_call(places: Path) -> None:
    train = open_data("volcano", "train", data_root=places)
    test = open_data("volcano", "test", image_size=3, data_root=places)
    assert isinstance(train, Points)
    assert (len(train), len(test)) == (160, 20)
    assert train.shape == test.shape == SPHERE
    assert (train.points.norm(dim=1) - 1).abs().max() < 1e-15
    assert torch.cdist(train.points, test.points).min() > 1e-6
    again = open_data("volcano", "train", data_root=places)
    assert torch.equal(again.points, train.points)
    assert brief_hash(again) == brief_hash(train) == train.fingerprint != test.fingerprint
    few = open_data("volcano", "test", data_root=places, limit=5)
    assert torch.equal(few.points, test.points[:5])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("91,0", "line 205: '91,0': expected latitude and longitude"),
        ("1,2,3", "line 205: '1,2,3'"),
        ("nan,0", "line 205: 'nan,0'"),
        ("here", "line 205: 'here'"),
    ],
)
def test_a_line_that_is_no_place_is_named(places: Path, line: str, words: str) -> None:
    file = places / "earth" / "volerup.csv"
    file.write_text(file.read_text() + f"\n\n{line}\n1,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_places(file)


def test_a_file_of_too_few_places_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("1,2\n" * 3)
    with pytest.raises(ValueError, match=r"few.csv: 3 places, at least 10"):
        read_places(tmp_path / "few.csv")
    (tmp_path / "odd.csv").write_bytes(b"\xff\xfe1,2")
    with pytest.raises(ValueError, match="not a text"):
        read_places(tmp_path / "odd.csv")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"give --data-root with earth/fire.csv"):
        open_data("fire", "train")
    with pytest.raises(FileNotFoundError, match=r"no points of fire at .*earth/fire.csv"):
        open_data("fire", "train", data_root=tmp_path)
    with pytest.raises(ValueError, match="'so10' holds points of a manifold, expected images"):
        load("so10", "train")
    with pytest.raises(ValueError, match="image_size is 4; the points of so10 are of size 10"):
        open_data("so10", "train", image_size=4)


def test_every_set_of_points_is_a_data_set_of_its_manifold() -> None:
    for name, found in POINT_SETS.items():
        spec = DATASETS[name]
        assert (spec.manifold, spec.image_size) == (found.shape.manifold, found.shape.size)


def test_the_drawn_rotations_are_rotations_near_three_centres() -> None:
    points = torch.from_numpy(rotation_mixture())
    space = make_manifold("rotations", 10)
    assert space.xi(points).abs().max() < 1e-12
    assert space.inside(points).all()
    apart = torch.cdist(points[:3], points)
    # Two turns of one centre: 2 (10 - the trace of one turn back and the other), by SciPy.
    upper = np.triu(np.random.default_rng(1).normal(0, 0.2, (2, 200, 10, 10)), 1)
    ahead, back = (expm(part - part.swapaxes(1, 2)) for part in upper)
    traces = np.einsum("kij,kij->k", ahead, back)
    wanted = np.sqrt(2 * (10 - traces)).mean()
    assert apart[0, 3::3].mean() == pytest.approx(wanted, rel=0.1)
    assert apart[0, 1::3].min() > wanted
    train = load_points(POINT_SETS["so10"], "train", None)
    assert len(train) == 1_600


def test_the_mixtures_density_is_one_in_all() -> None:
    # Midpoints of equal areas: height and longitude.
    height, turn = np.meshgrid(
        (np.arange(400) + 0.5) / 200 - 1, (np.arange(400) + 0.5) * np.pi / 200
    )
    flat = np.sqrt(1 - height**2)
    grid = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], -1).reshape(-1, 3)
    total = np.exp(vmf_mixture_log_density(grid)).mean() * 4 * np.pi
    assert total == pytest.approx(1, abs=1e-3)
    assert np.allclose(np.linalg.norm(MIXTURE_CENTRES, axis=1), 1)


def test_the_discrepancy_is_that_of_two_points_by_hand() -> None:
    """All samples at one pole, all references at two points: the kernel's values are known."""
    a, b = torch.tensor([1.0, 0, 0]).double(), torch.tensor([0.0, 1, 0]).double()
    samples, reference = a.repeat(10, 1), torch.stack([a, b] * 6)
    # 12 references: 6 * 6 * 2 of their 132 ordered pairs are sqrt(2) apart, more than half.
    near = math.exp(-2 / (2 * 2))
    real = (60 + 72 * near) / 132
    wanted = 1 + real - 2 * (1 + near) / 2
    found = kernel_discrepancy(PointSamples(samples, reference))
    assert found.value == pytest.approx(wanted, abs=1e-12)


def test_alike_samples_have_no_distance_and_others_do() -> None:
    alike = PointSamples(uniform(800, 1), uniform(800, 2))
    half = uniform(800, 3)
    half[:, 2] = half[:, 2].abs()
    other = PointSamples(half, uniform(800, 2))
    assert abs(kernel_discrepancy(alike).value) < 0.005 < 0.02 < kernel_discrepancy(other).value
    assert sliced_distance(alike).value < 0.05 < 0.15 < sliced_distance(other).value


def test_the_sliced_distance_of_two_points_is_the_mean_of_a_projection() -> None:
    # |u . (a - b)| of a uniform direction u has the mean |a - b| / 2 in three dimensions.
    a, b = torch.tensor([[1.0, 0, 0]]).double(), torch.tensor([[-1.0, 0, 0]]).double()
    found = sliced_distance(PointSamples(a.repeat(4, 1), b.repeat(7, 1)))
    mean = quad(lambda z: 2 * z, 0, 1)[0]
    assert found.value == pytest.approx(mean, abs=0.1)


def test_scores_refuse_what_they_cannot_compare() -> None:
    reference = Points(uniform(20).numpy(), SPHERE, "some", "0" * 32)
    with pytest.raises(ValueError, match=r"samples are \[20, 4\]; some wants \[n, 3\]"):
        score_points(torch.zeros(20, 4), reference, lambda held_out: {})
    with pytest.raises(ValueError, match="9 samples are too few"):
        score_points(uniform(9), reference, lambda held_out: {})
    with pytest.raises(ValueError, match="metric nll_paths came out as inf"):
        score_points(uniform(20), reference, lambda held_out: {"nll_paths": math.inf})
    with pytest.raises(ValueError, match="figure mmd is no metric that reads the system"):
        score_points(uniform(20), reference, lambda held_out: {"mmd": 1.0})


def test_a_density_map_is_a_density() -> None:
    longitude, latitude, logs = density_map(uniform(2_000).numpy())
    area = np.diff(np.sin(latitude))[:, None] * np.diff(longitude)
    assert area.sum() == pytest.approx(4 * math.pi)
    assert (np.exp(logs) * area).sum() == pytest.approx(1, abs=0.01)
    one = np.array([[0.0, 1.0, 0.0]])  # longitude 90 degrees east, on the equator
    row, column = np.unravel_index(np.argmax(density_map(one)[2]), logs.shape)
    assert longitude[column] <= math.pi / 2 <= longitude[column + 1]
    assert latitude[row] <= 1e-9 <= latitude[row + 1] + 2e-9


@pytest.mark.parametrize(("name", "size"), [("sphere", 3), ("rotations", 3)])
def test_points_of_any_manifold_have_a_picture(name: str, size: int, tmp_path: Path) -> None:
    shape = PointShape(name, size)
    points = shape.space.uniform(torch.randn(50, shape.coordinates)).numpy()
    save_points(points, shape, tmp_path / "density.png")
    assert (tmp_path / "density.png").read_bytes()[:4] == b"\x89PNG"


def test_shapes_are_read_back() -> None:
    assert shape_from({"channels": 1, "size": 8}) == ImageShape(1, 8)
    assert shape_from({"manifold": "sphere", "size": 3}) == SPHERE
    with pytest.raises(ValueError, match="expected channels and size, or manifold and size"):
        shape_from({"size": 3})
    with pytest.raises(ValueError, match="points: 1 of 6 numbers are NaN"):
        SPHERE.finished(torch.tensor([[0.0, 0.0, 1.0], [0.0, math.nan, 1.0]]))


def test_a_system_of_points_is_refused_for_images_and_the_other_way() -> None:
    digits = Data("digits", "digits", 1, 8, False)
    with pytest.raises(ValueError, match="system 'rddpm' makes points; digits holds images"):
        expand(load_suite("digits"), "smoke", digits, systems=("rddpm",))
    earth = Data("volcano", "volcano", 1, 3, False, manifold="sphere")
    with pytest.raises(ValueError, match="system 'fsvae' makes images; volcano holds points"):
        expand(load_suite("earth"), "smoke", earth, systems=("fsvae",))
    with pytest.raises(
        ValueError, match=r"suite earth, line 2: sampling: required by system 'ddpm'"
    ):
        expand(load_suite("earth"), "smoke", earth, systems=("ddpm",))


def test_a_suite_of_tiny_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text("extends: digits\nname: tiny\ntitle: t\nimage_size: 3\n")
    with pytest.raises(ValueError, match="image_size: Input should be greater than or equal to 4"):
        load_suite(str(path))


def test_an_extractor_is_refused_where_none_is_read(places: Path, tmp_path: Path) -> None:
    plan = make_plan(
        Options("earth", "smoke", data_root=str(places), out=tmp_path / "o", extractor="embedded")
    )
    with pytest.raises(ValueError, match="--extractor embedded: volcano holds points; leave it"):
        check_ready(plan)


def test_a_run_gives_the_table_valid_records_and_a_report(places: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["run", "--suite", "earth", "--preset", "smoke", "--data-root", str(places)]
    words += ["--device", "cpu", "--out", str(out)]
    done = call(*words)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["system"] for row in rows].count("rddpm_spiking") == len(rows) - 2 == 1
    for row in rows:
        for name in ("nll_paths", "mmd", "sliced", "failures", "strict_mj_per_image"):
            assert math.isfinite(float(row[name])), name
        assert (float(row["firing_rate"]) > 0) if row["time_steps"] != "-" else True
    assert "NLL, nats (paths) ↓" in (out / "table.md").read_text()
    count, problems = find_problems(out / "records.jsonl")
    assert (count, problems) == (3, [])
    for record in read_records(out / "records.jsonl"):
        assert (record.manifold, record.image_size) == ("sphere", 3)
    samples = np.load(next(out.glob("cells/rddpm-*/samples.npy")))
    assert samples.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(samples, axis=1), 1, atol=1e-9)
    assert len(list(out.glob("cells/*/density.png"))) == 3
    assert not list(out.glob("cells/*/grid.png"))

    again = call(*words)
    assert again.exit_code == 0
    assert again.output.count("done before") == 3

    pages = tmp_path / "report"
    done = call("report", str(out), "--out", str(pages))
    assert done.exit_code == 0, done.output
    text = (pages / "report.md").read_text(encoding="utf-8")
    assert "volcano" in text
    assert "NLL" in text

    checkpoint = str(next(out.glob("trainings/rddpm_spiking*/checkpoint")))
    assert json.loads(Path(checkpoint, "config.json").read_text())["shape"] == {
        "manifold": "sphere",
        "size": 3,
    }
    assert call("energy", "--ckpt", checkpoint, "--num", "2").exit_code == 0
    opened = sddpm.load(checkpoint).sample(20, batch_size=20)
    assert opened.dtype == torch.float64
    kept = np.load(next(out.glob("cells/rddpm_spiking-*/samples.npy")))[:20]
    # Alike but for a spike that the batch's size moves.
    assert (np.abs(opened.numpy() - kept) < 1e-3).all(1).mean() > 0.8
    refused = call("sample", "--ckpt", checkpoint, "--num", "2", "--grid", str(tmp_path / "a.png"))
    assert refused.exit_code == 2
    assert "makes points of a manifold, no images" in refused.output
