"""The extractors: the packages' weights on pictures whose contents are known, and the choice."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.quality import efficientnet, extractors
from bench.quality.registry import EMBEDDED, EXTRACTORS, INCEPTION, LITE2, Extractor
from bench.quality.weights import cached_weights


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


# --- the extractors that packages bring


@pytest.mark.parametrize(
    ("extractor", "wanted"),
    # ImageNet's palace and daisy; to the larger network the flower looks like a honeycomb.
    [(EMBEDDED, [698, 985]), (LITE2, [698, 599])],
)
def test_weights_name_what_scikit_learns_photographs_show(
    extractor: Extractor, wanted: list[int]
) -> None:
    from sklearn.datasets import load_sample_images

    network = extractors.build(replace(extractor, feature_layer=""), torch.device("cpu"))
    palace, flower = (
        torch.from_numpy(picture.copy()).permute(2, 0, 1)[None, :, 40:400, 140:500]
        for picture in load_sample_images().images
    )
    with torch.inference_mode():
        classes = [network(picture)[0].argmax().item() for picture in (palace, flower)]
    assert classes == wanted


@pytest.mark.parametrize(("extractor", "tensors"), [(EMBEDDED, 296), (LITE2, 386)])
def test_every_weight_is_mapped_and_folding_keeps_the_output(
    extractor: Extractor, tensors: int
) -> None:
    plain, folded = (efficientnet.load_efficientnet_lite(extractor.key) for _ in range(2))
    assert len(plain.state_dict()) == tensors
    efficientnet.fold_batch_norm(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    pixels = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(plain(pixels), folded(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [8, 28, 32, 64, 224, 256])
def test_resizing_is_torchs_antialiased_bicubic(size: int) -> None:
    images = torch.rand(2, 3, size, size)
    wanted = F.interpolate(images, (224, 224), mode="bicubic", antialias=True)
    torch.testing.assert_close(efficientnet.resize_bicubic(images, 224), wanted, rtol=0, atol=1e-5)


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
        efficientnet.rename_in_order(state, target)


def test_another_weights_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(efficientnet.RELEASES[EMBEDDED.key], sha256="0" * 64)
    monkeypatch.setitem(efficientnet.RELEASES, EMBEDDED.key, other)
    with pytest.raises(ValueError, match="is not the efficientnet-lite0 file"):
        efficientnet.load_efficientnet_lite(EMBEDDED.key)


# --- choosing


def test_auto_without_weights_or_network_takes_the_embedded_one() -> None:
    chosen = extractors.choose_extractor("auto")
    assert chosen == EMBEDDED
    assert "could not be fetched (no network in tests)" in chosen.reason
    with pytest.raises(FileNotFoundError, match="or use the embedded extractor"):
        extractors.choose_extractor("inception")
    assert extractors.choose_extractor("embedded").reason
    with pytest.raises(ValueError, match=r"unknown extractor 'incepton': did you mean 'inception'"):
        extractors.choose_extractor("incepton")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRACTORS, LITE2.name, replace(LITE2, packages=("no-such-package",)))
    with pytest.raises(ValueError, match=r"no-such-package; install sddpm-bench\[lite2\]$"):
        extractors.choose_extractor(LITE2.name)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the weights' release: a small file of a known hash, served from disk."""
    import urllib.request

    content = b"weights" * 100_000
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    entry = replace(INCEPTION, url=path.as_uri(), sha256=hashlib.sha256(content).hexdigest()[:8])
    monkeypatch.setitem(EXTRACTORS, INCEPTION.name, entry)
    opener = urllib.request.build_opener()
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda url, timeout: opener.open(url, None, timeout)
    )
    return path


def test_auto_fetches_then_finds_inception(release: Path) -> None:
    chosen = extractors.choose_extractor("auto")
    assert chosen.name == INCEPTION.name
    assert chosen.weights == cached_weights(INCEPTION)
    assert "fetched" in chosen.reason
    assert cached_weights(INCEPTION).read_bytes() == release.read_bytes()
    release.unlink()
    assert "cached" in extractors.choose_extractor("auto").reason


def test_a_truncated_or_foreign_file_is_not_inception(release: Path) -> None:
    release.write_bytes(release.read_bytes()[:-1])
    chosen = extractors.choose_extractor("auto")
    assert chosen == EMBEDDED
    assert "another file" in chosen.reason
    assert not cached_weights(INCEPTION).exists()
    cached_weights(INCEPTION).write_bytes(b"cut")
    assert extractors.choose_extractor("auto") == EMBEDDED


def test_inception_without_weights_says_so() -> None:
    with pytest.raises(FileNotFoundError, match="inception weights are not at"):
        extractors.build(INCEPTION, torch.device("cpu"))


def test_the_extractor_itself_refuses_floats() -> None:
    network = extractors.build(EMBEDDED, torch.device("cpu"))
    with pytest.raises(ValueError, match="wanted uint8"):
        network(torch.zeros(1, 3, 8, 8))


def test_an_extractor_is_a_value() -> None:
    assert isinstance(extractors.choose_extractor("embedded"), Extractor)
    assert hash(extractors.choose_extractor("embedded")) == hash(EMBEDDED)


# --- the entries


def test_every_extractor_of_torch_fidelity_has_an_entry() -> None:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY as THEIRS

    ours = {entry.key: entry for entry in EXTRACTORS.values()}
    packaged = {EMBEDDED.key, LITE2.key}  # registered there by the first test that builds them
    assert set(THEIRS) - packaged == set(ours) - packaged
    for key, kind in THEIRS.items():
        layers = kind.get_provided_features_list()
        assert ours[key].feature_layer == kind.get_default_feature_layer_for_metric("fid")
        assert not ours[key].logit_layer or ours[key].logit_layer in layers
    assert len({entry.suffix for entry in EXTRACTORS.values()}) == len(EXTRACTORS)
    assert [name for name, entry in EXTRACTORS.items() if entry.distance == "fid"] == ["inception"]


def test_addresses_and_hashes_are_torch_fidelity_s() -> None:
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchvision.models import VGG16_Weights

    assert EXTRACTORS["inception"].url == URL_INCEPTION_V3
    assert EXTRACTORS["vgg16"].url == VGG16_Weights.IMAGENET1K_V1.url
    for name, address in MODEL_URLS.items():
        entry, sha = EXTRACTORS[name], MODEL_METADATA[name]["hash"]
        assert (entry.url, entry.sha256, entry.file) == (address, sha, f"{name}-{sha}.pt")


# --- files of weights


def test_a_given_file_must_be_the_published_one(tmp_path: Path) -> None:
    other = tmp_path / "vgg16.pth"
    other.write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"vgg16\.pth: is not the file.*SHA-256 397923af"):
        extractors.choose_extractor("vgg16", other)
    with pytest.raises(FileNotFoundError, match=r"--extractor-weights .*none\.pth: no such file"):
        extractors.choose_extractor("vgg16", tmp_path / "none.pth")
    for name in ("auto", "embedded"):
        with pytest.raises(ValueError, match="name its extractor with --extractor, one of incept"):
            extractors.choose_extractor(name, other)
    with pytest.raises(
        FileNotFoundError, match=r"dinov2_vits14_pretrain\.pth.*--extractor-weights"
    ):
        extractors.choose_extractor("dinov2-vit-s-14")


def test_a_clip_network_reads_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network of torch-fidelity's CLIP, stored as OpenAI stores the large ones."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual, FeatureExtractorCLIP

    torch.manual_seed(0)
    visual = CLIPVisual(8, 32, 1, 64, 16)

    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = visual.visual
            self.text_projection = nn.Parameter(torch.zeros(4, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x

    for parameter in Stored().parameters():
        nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "small.pt"
    torch.jit.trace(Stored(), torch.zeros(1)).save(str(path))
    entry = replace(
        EXTRACTORS["clip-vit-b-32"], sha256=hashlib.sha256(path.read_bytes()).hexdigest()
    )
    monkeypatch.setitem(EXTRACTORS, "clip-vit-b-32", entry)
    chosen = extractors.choose_extractor("clip-vit-b-32", path)
    pictures = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    wanted = FeatureExtractorCLIP(chosen.key, ["clip"], feature_extractor_weights_path=str(path))
    with torch.inference_mode():
        (found,) = extractors.build(chosen, torch.device("cpu"))(pictures)
        assert found.shape == (2, 8)
        assert torch.equal(found, wanted(pictures)[0])
