"""The extractors: the embedded weights on pictures whose contents are known, and the choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.quality import extractors
from bench.quality.registry import EMBEDDED, INCEPTION, Extractor


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(extractors.urllib.request, "urlopen", unreachable)


# --- the embedded extractor


def test_embedded_weights_name_what_scikit_learns_photographs_show() -> None:
    from sklearn.datasets import load_sample_images

    network = extractors.EfficientNetLite0(EMBEDDED.key, ["logits"])
    palace, flower = (
        torch.from_numpy(picture.copy()).permute(2, 0, 1)[None, :, 40:400, 140:500]
        for picture in load_sample_images().images
    )
    with torch.inference_mode():
        classes = [network(picture)[0].argmax().item() for picture in (palace, flower)]
    assert classes == [698, 985]  # ImageNet's palace and daisy


def test_every_weight_is_mapped_and_folding_keeps_the_output() -> None:
    plain, folded = (extractors.load_efficientnet_lite0() for _ in range(2))
    assert len(plain.state_dict()) == 296
    extractors.fold_batch_norm(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(plain(pixels), folded(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [8, 28, 32, 64, 224, 256])
def test_resizing_is_torchs_antialiased_bicubic(size: int) -> None:
    images = torch.rand(2, 3, size, size)
    wanted = F.interpolate(images, (224, 224), mode="bicubic", antialias=True)
    torch.testing.assert_close(extractors.resize_bicubic(images, 224), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a.weight": torch.zeros(2)}, "1 tensors cannot fill a network of 2"),
        ({"a.weight": torch.zeros(3), "a.bias": torch.zeros(2)}, r"a.weight \[3\] does not fit"),
        ({"a.bias": torch.zeros(2), "a.weight": torch.zeros(2)}, "a.bias .* does not fit b.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(state: dict[str, Tensor], message: str) -> None:
    target = {"b.weight": torch.zeros(2), "b.bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=message):
        extractors.rename_in_order(state, target)


def test_another_weights_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "EFFICIENTNET_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="is not the EfficientNet-Lite0 file"):
        extractors.load_efficientnet_lite0()


# --- choosing


def test_auto_without_weights_or_network_takes_the_embedded_one() -> None:
    chosen = extractors.choose_extractor("auto")
    assert chosen == EMBEDDED
    assert "could not be fetched (no network in tests)" in chosen.reason
    with pytest.raises(FileNotFoundError, match="or use the embedded extractor"):
        extractors.choose_extractor("inception")
    assert extractors.choose_extractor("embedded").reason
    with pytest.raises(ValueError, match=r"'incepton' is unknown \(near: inception\)"):
        extractors.choose_extractor("incepton")


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the weights' release: a small file named by its hash, served from disk."""
    import hashlib
    import urllib.request

    content = b"weights" * 100_000
    path = tmp_path / f"weights-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    monkeypatch.setattr(extractors, "URL_INCEPTION_V3", path.as_uri())
    opener = urllib.request.build_opener()
    monkeypatch.setattr(
        extractors.urllib.request, "urlopen", lambda url, timeout: opener.open(url, None, timeout)
    )
    return path


def test_auto_fetches_then_finds_inception(release: Path) -> None:
    chosen = extractors.choose_extractor("auto")
    assert chosen == INCEPTION
    assert "fetched" in chosen.reason
    assert extractors.inception_weights().read_bytes() == release.read_bytes()
    release.unlink()
    assert "cached" in extractors.choose_extractor("auto").reason


def test_a_truncated_or_foreign_file_is_not_inception(release: Path) -> None:
    release.write_bytes(release.read_bytes()[:-1])
    chosen = extractors.choose_extractor("auto")
    assert chosen == EMBEDDED
    assert "another file" in chosen.reason
    assert not extractors.inception_weights().exists()
    extractors.inception_weights().write_bytes(b"cut")
    assert extractors.choose_extractor("auto") == EMBEDDED


def test_inception_without_weights_says_so() -> None:
    with pytest.raises(FileNotFoundError, match="Inception-v3 weights are not at"):
        extractors.build(INCEPTION, torch.device("cpu"))


def test_the_extractor_itself_refuses_floats() -> None:
    network = extractors.EfficientNetLite0(EMBEDDED.key, ["1280"])
    with pytest.raises(ValueError, match="wanted uint8"):
        network(torch.zeros(1, 3, 8, 8))


def test_an_extractor_is_a_value() -> None:
    assert isinstance(extractors.choose_extractor("embedded"), Extractor)
    assert hash(extractors.choose_extractor("embedded")) == hash(EMBEDDED)
