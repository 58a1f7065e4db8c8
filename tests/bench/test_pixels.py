"""Metrics of pixels, against figures worked by hand and pictures whose faults are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.data.datasets import load
from bench.quality.fidelity import compute_pixels, reference_pixels, score
from bench.quality.pixels import PixelStatistics, measure
from bench.quality.registry import EMBEDDED, EXTRACTORS

PIXELS = ("contrast", "saturation", "noise", "spectrum")


def grey(*rows: list[int]) -> Tensor:
    """One grey picture."""
    return torch.tensor([[rows]], dtype=torch.uint8)


def smooth(count: int = 8, channels: int = 1, size: int = 16) -> Tensor:
    """Pictures of grey levels 60 to 160, a wave across each."""
    generator = torch.manual_seed(0)
    phase = torch.rand(count, channels, 1, 1, generator=generator) * 6.28
    across = torch.arange(size) * 6.28 / size
    wave = (across + phase).sin() + across[:, None].cos() / 2
    return (110 + 33 * wave).round().to(torch.uint8)


def against(samples: Tensor, reference: Tensor) -> dict[str, float]:
    return compute_pixels(measure([samples]), measure([reference]))


# --- the statistics


def test_deviation_and_saturation_of_four_grey_levels() -> None:
    found = measure([grey([0, 2], [3, 255])])
    # Mean 65, squares 65², 63², 62², 190²; three of four within 2 of an end.
    assert found.deviation.item() == pytest.approx(((65**2 + 63**2 + 62**2 + 190**2) / 4) ** 0.5)
    assert found.saturated.item() == 0.75


def test_laplacian_of_a_point_and_of_a_slope() -> None:
    point = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    point[0, 0, 2, 2] = 10
    # Nine pixels have four neighbours: one gives -40, four give 10, four give 0; their mean is 0.
    assert measure([point]).laplacian_deviation.item() == pytest.approx((2000 / 9) ** 0.5)
    slope = (10 * torch.arange(6)).to(torch.uint8).expand(1, 1, 6, 6)
    assert measure([slope]).laplacian_deviation.item() == 0


@pytest.mark.parametrize("size", [15, 16])
def test_white_noise_has_its_variance_at_every_frequency(size: int) -> None:
    generator = torch.manual_seed(0)
    noise = torch.randint(0, 256, (2000, 1, size, size), dtype=torch.uint8, generator=generator)
    spectrum = measure(noise.split(500)).spectrum
    assert spectrum.shape == (size // 2,)
    # The variance of 256 equally likely levels.
    assert spectrum.numpy() == pytest.approx((256**2 - 1) / 12, rel=0.05)


def test_a_wave_has_all_its_power_at_its_frequency() -> None:
    wave = 128 + 100 * (torch.arange(16) * 2 * torch.pi * 3 / 16).cos()
    spectrum = measure([wave.round().to(torch.uint8).expand(1, 1, 16, 16)]).spectrum
    assert spectrum.argmax() == 2
    assert spectrum[2] > 1e4 * spectrum.sum().sub(spectrum[2])


def test_batches_change_nothing() -> None:
    images = smooth(10, 3)
    whole, pieces = measure([images]), measure(images.split(3))
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(pieces, name), value, rtol=1e-12, atol=0)
    assert pieces.deviation == whole.deviation


# --- the metrics


def test_equal_sets_have_ratios_of_one_and_no_distance() -> None:
    reference = torch.cat([smooth(), 255 * torch.ones(1, 1, 16, 16, dtype=torch.uint8)])
    assert against(reference, reference.flip(0)) == pytest.approx(
        {"contrast": 1, "saturation": 1, "noise": 1, "spectrum": 0}, abs=1e-9
    )


def test_half_the_contrast() -> None:
    even = smooth() // 2 * 2
    found = against(even // 2 + 30, even)
    assert found["contrast"] == pytest.approx(0.5)
    assert found["noise"] == pytest.approx(0.5)
    # Half the amplitude is a quarter of the power; with rounding's power at the bare frequencies.
    assert 0 < found["spectrum"] < 10 * math.log10(4)


def test_saturation_is_a_ratio_of_shares() -> None:
    reference = torch.full((1, 1, 10, 10), 100, dtype=torch.uint8)
    samples = reference.clone()
    reference[0, 0, 0, :5], samples[0, 0, :2] = 1, 254
    assert against(samples, reference)["saturation"] == pytest.approx(0.20 / 0.05)


def test_white_noise_on_flat_pictures_is_a_known_number_of_decibels() -> None:
    flat = torch.full((500, 1, 16, 16), 128, dtype=torch.uint8)
    generator = torch.manual_seed(0)
    steps = torch.randint(-8, 9, flat.shape, generator=generator)
    found = against((flat + steps).to(torch.uint8), flat)
    # Variance 24 of 17 equally likely steps, over the twelfth that rounding has.
    assert found == {"spectrum": pytest.approx(10 * math.log10(24 * 12 + 1), abs=0.05)}


def test_what_references_do_not_define_is_left_out() -> None:
    # One grey: no contrast and nothing at the ends; below 3 pixels no pixel has four neighbours.
    assert set(against(smooth(), smooth())) == {"contrast", "noise", "spectrum"}
    small = torch.tensor([[[[0, 90], [90, 200]]]], dtype=torch.uint8)
    assert set(against(small, small)) == {"contrast", "saturation", "spectrum"}


def test_pixels_see_the_faults_of_real_pictures() -> None:
    """Held-out digits are near 1; hard, faint, noisy and blurred ones are off as they should."""
    train, test = (load("digits", split, limit=290) for split in ("train", "test"))
    known = measure([train.__getitems__(range(290))])
    real = test.__getitems__(range(290))
    shift = torch.randint(-40, 41, real.shape, generator=torch.manual_seed(0))
    altered = {
        "as drawn": real,
        "hard": ((real.double() - 127.5) * 2 + 127.5).round().clamp(0, 255).to(torch.uint8),
        "faint": real // 2 + 64,
        "noisy": (real + shift).clamp(0, 255).to(torch.uint8),
        "blurred": torch.nn.functional.avg_pool2d(real.float(), 3, 1, 1).round().to(torch.uint8),
    }
    found = {name: compute_pixels(measure([images]), known) for name, images in altered.items()}
    for name in ("contrast", "saturation", "noise"):
        assert 0.9 < found["as drawn"][name] < 1.1
    assert found["hard"]["contrast"] > 1.1
    assert found["hard"]["saturation"] > 1.2
    assert found["faint"]["contrast"] == pytest.approx(0.5, abs=0.05)
    assert found["faint"]["saturation"] == 0
    assert found["noisy"]["noise"] > found["as drawn"]["noise"]
    assert found["blurred"]["noise"] < 0.5
    nearest = min(found, key=lambda name: found[name]["spectrum"])
    assert nearest == "as drawn"


# --- in score


def test_their_columns_are_the_same_with_every_extractor() -> None:
    for name in PIXELS:
        assert {extractor.column(name) for extractor in EXTRACTORS.values()} == {name}


def test_score_has_them_without_an_extractors_name(tmp_path: Path) -> None:
    train, test = load("digits", "train", limit=60), load("digits", "test", limit=40)
    samples = test.__getitems__(range(40))
    found = score(samples, train, extractor=EMBEDDED, cache_dir=tmp_path)
    wanted = against(samples, train.__getitems__(range(60)))
    assert {name: found[name] for name in PIXELS} == pytest.approx(wanted, rel=1e-12)


def test_statistics_of_references_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = load("digits", "train", limit=60)
    first = reference_pixels(train, tmp_path, 16)

    def measured(*arguments: Any) -> PixelStatistics:
        raise AssertionError("measured again")

    monkeypatch.setattr("bench.quality.fidelity.measure", measured)
    again = reference_pixels(train, tmp_path, 16)
    assert all(torch.equal(value, getattr(again, name)) for name, value in vars(first).items())
    with pytest.raises(AssertionError, match="measured again"):
        reference_pixels(load("digits", "train", limit=50), tmp_path, 16)
