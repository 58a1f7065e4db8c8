"""Metrics and extractors against scipy, torch-fidelity's own chain and pictures whose
contents are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.special
import torch
import torch.nn.functional as F
import torch_fidelity
from torch import Tensor, nn
from torch.utils.data import Dataset

from bench.data.datasets import Images, load
from bench.data.pictures import Pixels, Transform
from bench.quality import extractors, fidelity
from bench.quality.registry import EMBEDDED, INCEPTION
from bench.quality.weights import cached_weights
from sddpm.protocol import ImageShape

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return extractors.build(EMBEDDED, CPU)


@pytest.fixture
def reference() -> Images:
    return load("digits", "train", limit=40)


@pytest.fixture
def samples() -> Tensor:
    return load("digits", "test").__getitems__(range(32))


def embed(network: Any, images: Tensor, batch_size: int = 64) -> dict[str, Tensor]:
    return fidelity.extract(
        lambda start, stop: images[start:stop], len(images), network, batch_size, CPU, "test"
    )


def frechet(samples: Tensor, reference: Tensor) -> float:
    """Frechet distance by singular values.

    With A and B the centred features over sqrt(n - 1), the covariances are A'A and B'B and
    the trace of the root of their product is the sum of the singular values of A B'.
    """
    a, b = (x.double().numpy() for x in (samples, reference))
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    cross = scipy.linalg.svdvals(centred[0] @ centred[1].T).sum()
    spread = sum((x**2).sum() for x in centred)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + spread - 2 * cross)


def with_moments(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> Tensor:
    """Features whose sample mean and covariance are exactly those given."""
    raw = np.random.default_rng(seed).normal(size=(count, len(mean)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean).float()


# --- the numbers


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    means, covariances = rng.normal(size=(2, 6)), []
    for _ in range(2):
        root = rng.normal(size=(6, 6))
        covariances.append(root @ root.T + 0.1 * np.eye(6))
    one, two = (
        fidelity.summarise(with_moments(mean, covariance, 400, seed))
        for seed, (mean, covariance) in enumerate(zip(means, covariances, strict=True))
    )
    got = fidelity.compute(one, two, torch.randn(400, 5))["fid"]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    wanted = ((means[0] - means[1]) ** 2).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * root
    )
    assert got == pytest.approx(wanted, rel=1e-4)


def test_score_is_what_numpy_and_scipy_make_of_the_features(
    network: Any, samples: Tensor, tmp_path: Path
) -> None:
    # Half of the samples blurred: no metric is at an end of its range.
    samples = torch.cat([samples[:16], blurred(samples[16:])])
    reference = load("digits", "train", limit=32)
    got = fidelity.score(samples, reference, extractor=EMBEDDED, cache_dir=tmp_path)
    real = embed(network, reference.__getitems__(range(32)))["1280"]
    layers = embed(network, samples)
    fake = layers["1280"]
    assert got["fd_efflite0"] == pytest.approx(frechet(fake, real), rel=1e-3)

    # KID, Binkowski et al. 2018: unbiased squared MMD under (x.y / d + 1)^3.
    x, y = (f.double().numpy() for f in (fake, real))
    xx, yy, xy = ((a @ b.T / 1280 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    for k in (xx, yy):
        np.fill_diagonal(k, 0)
    wanted = (xx.sum() + yy.sum()) / (32 * 31) - 2 * xy.mean()
    assert wanted > 0.01
    assert got["kid_efflite0"] == pytest.approx(wanted, rel=1e-3)

    # Precision and recall, Kynkaanniemi et al. 2019: balls to the third neighbour.
    def covered(points: np.ndarray, balls: np.ndarray) -> float:
        radii = np.sort(scipy.spatial.distance.cdist(balls, balls), axis=1)[:, 3]
        return float((scipy.spatial.distance.cdist(points, balls) <= radii).any(1).mean())

    assert got["precision_efflite0"] == pytest.approx(covered(x, y), abs=1e-6)
    assert got["recall_efflite0"] == pytest.approx(covered(y, x), abs=1e-6)
    assert 0 < covered(x, y) < 1

    # Density and coverage, Naeem et al. 2020: balls to the fifth neighbour of each real image.
    radii = np.sort(scipy.spatial.distance.cdist(y, y), axis=1)[:, 5]
    inside = scipy.spatial.distance.cdist(y, x) < radii[:, None]
    assert got["density_efflite0"] == pytest.approx(inside.sum() / (5 * 32), abs=1e-6)
    assert got["coverage_efflite0"] == pytest.approx(inside.any(1).mean(), abs=1e-6)
    assert 0 < inside.any(1).mean() < 1

    # Inception score, Salimans et al. 2016: ten splits after torch-fidelity's fixed shuffle.
    order = np.random.RandomState(2020).permutation(32)
    classes = scipy.special.softmax(layers["logits"].double().numpy()[order], axis=1)
    parts = [classes[i * 32 // 10 : (i + 1) * 32 // 10] for i in range(10)]
    scores = [np.exp(scipy.special.rel_entr(p, p.mean(0)).sum(1).mean()) for p in parts]
    assert got["is_efflite0"] == pytest.approx(np.mean(scores), rel=1e-3)
    assert got["is_std_efflite0"] == pytest.approx(np.std(scores), rel=1e-2)


def test_score_agrees_with_torch_fidelitys_own_chain(
    network: Any, samples: Tensor, reference: Images, tmp_path: Path
) -> None:
    class Rgb(Dataset[Tensor]):
        def __init__(self, images: Tensor) -> None:
            self.images = images.expand(-1, 3, -1, -1)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> Tensor:
            return self.images[index]

    wanted = torch_fidelity.calculate_metrics(
        input1=Rgb(samples), input2=Rgb(reference.__getitems__(range(40))),
        feature_extractor=EMBEDDED.key, fid=True, isc=True, kid=True, prc=True,
        kid_subset_size=32, cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    got = fidelity.score(samples, reference, extractor=EMBEDDED, cache_dir=tmp_path)
    pairs = {
        "fid": "frechet_inception_distance", "is": "inception_score_mean",
        "is_std": "inception_score_std", "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std", "precision": "precision", "recall": "recall",
    }  # fmt: skip
    for ours, theirs in pairs.items():
        assert got[EMBEDDED.column(ours)] == pytest.approx(wanted[theirs], rel=1e-3, abs=1e-6)


def test_density_and_coverage_of_known_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """By SciPy's distances, a ball reaching to the fifth neighbour. Samples of the references' own
    distribution have density and coverage near 1; samples at one place are denser, and cover
    little."""
    monkeypatch.setattr("bench.quality.formulas.DENSITY_ROWS", 64)
    rng = torch.Generator().manual_seed(0)
    real, drawn = (torch.randn(300, 4, generator=rng) for _ in range(2))
    crowd = 0.01 * torch.randn(300, 4, generator=rng)
    radii = np.sort(scipy.spatial.distance.cdist(real, real), axis=1)[:, 5]
    found = []
    for points in (drawn, crowd):
        inside = scipy.spatial.distance.cdist(points, real) <= radii
        metrics = fidelity.compute(fidelity.summarise(points), fidelity.summarise(real), None)
        assert metrics["density"] == pytest.approx(inside.sum() / (5 * 300))
        assert metrics["coverage"] == pytest.approx(inside.any(0).mean())
        assert "is" not in metrics, "no classes were given"
        found.append(metrics)
    alike, crowded = found
    assert alike["density"] == pytest.approx(1, abs=0.1)
    assert alike["coverage"] == pytest.approx(1 - 2**-5, abs=0.04)
    assert crowded["density"] > 1.3 * alike["density"]
    assert crowded["coverage"] < 0.3


def test_equal_sets_of_one_subset_give_one_kid_and_no_spread() -> None:
    sets = [fidelity.summarise(torch.randn(20, 8)) for _ in range(2)]
    metrics = fidelity.compute(*sets, torch.randn(20, 5))
    assert "kid_std" not in metrics
    many = fidelity.compute(*sets, torch.randn(20, 5), kid_subset_size=10)
    assert many["kid_std"] > 0


def test_batch_size_changes_nothing(network: Any, samples: Tensor) -> None:
    whole, pieces = embed(network, samples, 32), embed(network, samples, 5)
    for layer in ("1280", "logits"):
        assert whole[layer].shape == pieces[layer].shape
        torch.testing.assert_close(whole[layer], pieces[layer], rtol=1e-4, atol=1e-4)


def test_grey_is_rgb_with_equal_channels(network: Any, samples: Tensor) -> None:
    grey, rgb = (embed(network, images) for images in (samples, samples.repeat(1, 3, 1, 1)))
    assert torch.equal(grey["1280"], rgb["1280"])


# --- known orders


def blurred(images: Tensor) -> Tensor:
    """A 3x3 mean, edges repeated."""
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(padded, 3, stride=1).round().to(torch.uint8)


def distances(train: Images, test: Tensor, tmp_path: Path) -> dict[str, list[float]]:
    """Each column for held-out pictures, the same blurred, and noise, against ``train``."""
    noise = torch.randint(0, 256, test.shape, dtype=torch.uint8, generator=torch.manual_seed(0))
    scores = [
        fidelity.score(images, train, extractor=EMBEDDED, cache_dir=tmp_path)
        for images in (test, blurred(test), noise)
    ]
    columns = [EMBEDDED.column(name) for name in ("fid", "kid", "recall")]
    return {column: [score[column] for score in scores] for column in columns}


def test_order_on_digits(tmp_path: Path) -> None:
    train, test = load("digits", "train", limit=192), load("digits", "test", limit=192)
    got = distances(train, test.__getitems__(range(192)), tmp_path)
    # Measured 7.5, 86, 118. A blurred 8x8 digit is hardly a digit, so the last step is small.
    held_out, blur, noise = got["fd_efflite0"]
    assert held_out < blur / 5 < noise / 6
    held_out, blur, noise = got["kid_efflite0"]
    assert abs(held_out) < blur / 20 < noise / 25
    assert got["recall_efflite0"][0] > 0.5 > 0.1 > max(got["recall_efflite0"][1:])


def test_order_on_real_pictures(data_root: Path, tmp_path: Path) -> None:
    if not (data_root / "cifar10").is_dir():
        pytest.skip("the data root has no cifar10")
    train, test = (load("cifar10", s, data_root=data_root, limit=256) for s in ("train", "test"))
    got = distances(train, test.__getitems__(range(256)), tmp_path)
    # 256 images of 1280 features put a floor of about 88 under the Frechet distance (18, 59,
    # 351 at 2,000 images), so the wide gaps are asked of KID, which has no such bias.
    held_out, blur, noise = got["fd_efflite0"]
    assert 1.2 * held_out < blur < noise / 2.5
    held_out, blur, noise = got["kid_efflite0"]
    assert abs(held_out) < blur / 20 < noise / 100
    # Recall and not precision: blurring makes pictures alike, and typical.
    assert got["recall_efflite0"][0] > 3 * got["recall_efflite0"][1] > 0
    assert got["recall_efflite0"][2] == 0


# --- columns, records, caches


def test_columns_of_two_extractors_never_meet(
    samples: Tensor, reference: Images, tmp_path: Path
) -> None:
    keys = (
        "fid",
        "fid_std",
        "is",
        "is_std",
        "kid",
        "kid_std",
        "precision",
        "recall",
        "density",
        "coverage",
    )
    ours, theirs = ({e.column(key) for key in keys} for e in (EMBEDDED, INCEPTION))
    assert {"fid", "is", "kid", "precision", "recall"} < theirs
    assert not ours & theirs
    got = fidelity.score(samples, reference, extractor=EMBEDDED, cache_dir=tmp_path)
    assert ours < set(got)
    assert not theirs & set(got)
    assert not any(column.startswith("fid") for column in got)
    assert (got["samples"], got["references"]) == (32, 40)
    assert (got["extractor"], got["reference"]) == ("efficientnet-lite0", "digits")
    assert got["reference_hash"] == fidelity.reference_hash(reference, EMBEDDED)


def test_reference_statistics_are_made_once(
    samples: Tensor, reference: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    extract = fidelity.extract

    def counted(images: Any, count: int, *rest: Any) -> dict[str, Tensor]:
        passes.append(rest[-1])
        return extract(images, count, *rest)

    monkeypatch.setattr(fidelity, "extract", counted)

    def score(images: Images) -> dict[str, Any]:
        return fidelity.score(samples, images, extractor=EMBEDDED, cache_dir=tmp_path)

    first = score(reference)
    assert passes == ["features of digits", "features of the samples"]
    assert score(load("digits", "train", limit=40)) == first
    assert passes[2:] == ["features of the samples"]
    (kept,) = tmp_path.glob("reference-*.safetensors")
    assert first["reference_hash"] in kept.name

    changed = Pixels(reference.source.pixels.copy())
    changed.pixels[0, 0, 0] ^= 1
    other = score(Images(changed, Transform(1, None, 8), label="digits", horizontal_flip=False))
    assert passes[3:] == ["features of digits", "features of the samples"]
    assert other["reference_hash"] != first["reference_hash"]

    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="made anew"):
        assert score(reference) == first


def test_an_unwritable_cache_only_warns(samples: Tensor, reference: Images, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be written"):
        got = fidelity.score(samples, reference, extractor=EMBEDDED, cache_dir=tmp_path / "file")
    assert got["fd_efflite0"] > 0


def test_inception_gives_the_standard_columns(
    samples: Tensor, reference: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    # Untrained weights in the real file's place: the chain is tested, not the values.
    path = cached_weights(INCEPTION)
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(Network, "load_state_dict", lambda self, state: None)
        patch.setattr(torch, "load", lambda *a, **b: {})
        blank = Network("blank", ["2048"], feature_extractor_weights_path="unused")
    torch.save(blank.state_dict(), path)
    few = load("digits", "train", limit=12)
    got = fidelity.score(samples[:10], few, extractor=INCEPTION, cache_dir=tmp_path)
    assert {"fid", "is", "is_std", "kid", "kid_std", "precision", "recall"} < set(got)
    assert got["extractor"] == "inception-v3-compat"


# --- unhappy paths


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            torch.zeros(20, 1, 8, 8),
            r"float32 \[20, 1, 8, 8\]; digits wants uint8 \[n, 1, 8, 8\]",
        ),
        (torch.zeros(20, 3, 8, 8, dtype=torch.uint8), r"wants uint8 \[n, 1, 8, 8\]"),
        (torch.zeros(9, 1, 8, 8, dtype=torch.uint8), "9 samples are too few to score; at least 10"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    samples: Tensor, message: str, reference: Images, tmp_path: Path
) -> None:
    assert reference.shape == ImageShape(1, 8)
    with pytest.raises(ValueError, match=message):
        fidelity.score(samples, reference, extractor=EMBEDDED, cache_dir=tmp_path)


def test_a_metric_without_a_number_is_an_error_with_its_name() -> None:
    good = fidelity.summarise(torch.randn(20, 4))
    features = torch.randn(20, 4)
    features[3] = torch.nan
    with pytest.raises(ValueError, match=r"metric fid .* 20 samples against 20 references"):
        fidelity.compute(fidelity.summarise(features), good, torch.randn(20, 5))
    with pytest.raises(ValueError, match=r"metric is came out as nan"):
        fidelity.compute(good, good, torch.full((20, 5), torch.inf))


def test_equal_images_still_have_every_metric(reference: Images, tmp_path: Path) -> None:
    flat = torch.full((12, 1, 8, 8), 128, dtype=torch.uint8)
    got = fidelity.score(flat, reference, extractor=EMBEDDED, cache_dir=tmp_path)
    assert got["is_efflite0"] == pytest.approx(1, abs=1e-3)
    assert got["recall_efflite0"] == 0
