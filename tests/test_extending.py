"""Each extension of docs/extending.md, made from outside the package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import click
import numpy
import pytest
import scipy.linalg
import torch
from diffusers import DEISMultistepScheduler
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench import registry
from bench.cli import main
from bench.data import datasets
from bench.data.datasets import DatasetSpec
from bench.plan.cells import Data, expand
from bench.quality.extractors import choose_extractor
from bench.quality.fidelity import score
from bench.quality.registry import EXTRACTORS, Extractor
from bench.registry import SystemEntry
from bench.suites.reading import load_suite
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.protocol import ImageShape
from sddpm.samplers import SAMPLERS, SamplerEntry, Sampling, sample
from tests.support.calling import call, call_run, refused
from tests.support.images import GeneratedImages
from tests.support.pages import ROOT, blocks

SUITE = """\
name: outside
title: Systems from outside
dataset: {dataset}
image_size: 8
systems: [outsider]
time_steps: [2]
sampling: [{{sampler: ddim, steps: 2}}]
presets:
  smoke:
    budget: {{train_steps: 2, batch_size: 4}}
    samples: 10
    references: 10
    energy_images: 1
"""


def outsider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/adding_a_system.md as the registered system ``outsider``."""
    module = ModuleType("outsider")
    source = blocks(ROOT / "docs/adding_a_system.md", "python")[0]
    monkeypatch.setitem(sys.modules, "outsider", module)
    exec(compile(source, "adding_a_system.md", "exec", dont_inherit=True), module.__dict__)
    entry = SystemEntry("outsider", "The outsider", "nobody 2026", samplers=True)
    monkeypatch.setitem(registry.SYSTEMS, "outsider", entry)


def test_a_system_and_a_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outsider(monkeypatch)
    suite = tmp_path / "outside.yaml"
    suite.write_text(SUITE.format(dataset="digits"))
    assert "The outsider" in call("list", "systems").output
    done = call_run(suite, tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "The outsider" in (tmp_path / "run" / "table.md").read_text()


def test_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outsider(monkeypatch)
    spec = DatasetSpec("outside_pictures", None, "image", 1, 8, False)
    monkeypatch.setitem(datasets.DATASETS, spec.name, spec)
    (tmp_path / "outside.yaml").write_text(SUITE.format(dataset=spec.name))
    suite = load_suite(str(tmp_path / "outside.yaml"))
    (cell,) = expand(suite, "smoke", Data(spec.name, spec.name, 1, 8, False))
    assert cell.training.data.dataset == "outside_pictures"
    assert "outside_pictures" in call("list", "datasets").output


def test_a_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """DEIS on a network that knows the picture ends at it."""
    entry = SamplerEntry(DEISMultistepScheduler, {"timestep_spacing": "trailing"}, "the DEIS")
    monkeypatch.setitem(SAMPLERS, "deis", entry)
    assert "the DEIS" in call("list", "samplers").output
    shape, picture = ImageShape(1, 8), 0.5
    denoiser = Denoiser(torch.nn.Conv2d(1, 1, 1), shape, DenoiserTraining())
    abar = denoiser.diffusion.alphas_cumprod

    def knows(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal = abar[t][:, None, None, None]
        return (x - signal.sqrt() * picture) / (1 - signal).sqrt()

    drawn = sample(
        knows, shape, [0, 1], denoiser.diffusion.config, Sampling("deis", 20), torch.device("cpu")
    )
    torch.testing.assert_close(drawn, torch.full_like(drawn, picture), rtol=0, atol=0.05)


class Colours(FeatureExtractorBase):
    """Mean colours of a picture as features and as logits."""

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "means", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "means"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> torch.Tensor:
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        means = x.float().mean((2, 3))
        return tuple({"means": means, "logits": means / 255}[name] for name in self.features_list)


def colours(extractor: Extractor) -> FeatureExtractorBase:
    return Colours(extractor.key, [extractor.feature_layer, extractor.logit_layer])


def test_an_extractor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Frechet distance of mean colours, against the formula for one Gaussian's moments."""
    entry = Extractor(
        name="colours",
        key="mean-colours",
        suffix="_colours",
        feature_layer="means",
        logit_layer="logits",
        packages=("torch",),
        network=f"{__name__}:colours",
    )
    monkeypatch.setitem(EXTRACTORS, "colours", entry)
    assert choose_extractor("colours").reason
    rng = torch.Generator().manual_seed(0)
    real, drawn = (
        torch.randint(0, high, (40, 3, 8, 8), generator=rng).to(torch.uint8) for high in (256, 200)
    )

    class Pictures(GeneratedImages):
        label, fingerprint = "pictures", "0" * 16

    reference = Pictures(1, 3, 8)
    reference.images = real
    got = score(drawn, reference, extractor=entry, cache_dir=tmp_path)
    means = [images.float().mean((2, 3)).double().numpy() for images in (real, drawn)]
    covariances = [numpy.cov(mean, rowvar=False) for mean in means]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = means[0].mean(0) - means[1].mean(0)
    expected = apart @ apart + numpy.trace(covariances[0] + covariances[1] - 2 * root)
    assert got["fd_colours"] == pytest.approx(expected, rel=1e-4)


def test_a_claim(tmp_path: Path) -> None:
    """The example of docs/extending.md on the committed records."""
    (tmp_path / "mine.yaml").write_text(blocks(ROOT / "docs/extending.md", "yaml")[0])
    done = call("claims", ROOT / "results", "--claims", tmp_path / "mine.yaml", "--out",
                tmp_path / "mine.md")  # fmt: skip
    assert done.exit_code == 0, done.output
    page = (tmp_path / "mine.md").read_text(encoding="utf-8")
    assert "### 1. As good as its twin" in page
    assert "| at most 1.04 | 0, 1, 2 | 64,000 |" in page


def test_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("outside")
    @click.option("--number", type=int, required=True)
    def outside(number: int) -> None:
        """Say a number from outside."""
        if number < 0:
            raise ValueError(f"--number {number}: expected 0 or more")
        click.echo(f"number {number}")

    monkeypatch.setitem(main.commands, "outside", outside)
    assert "Say a number from outside." in call("--help").output
    assert call("outside", "--number", 3).output == "number 3\n"
    refused(call("outside", "--number", -1), "--number -1", "expected 0 or more")
