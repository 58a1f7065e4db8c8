"""Each extension of docs/extending.md, made from outside the package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
import torch
from diffusers import DEISMultistepScheduler

from bench import registry
from bench.cli import main
from bench.data import datasets
from bench.data.datasets import DatasetSpec
from bench.plan.cells import Data, expand
from bench.registry import SystemEntry
from bench.suites.reading import load_suite
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.protocol import ImageShape
from sddpm.samplers import SAMPLERS, SamplerEntry, Sampling, sample
from tests.support.calling import call, call_run, refused
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
