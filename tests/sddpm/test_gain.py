"""The output's gain while sampling: by hand, in every engine, and what refuses it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sddpm
from baselines.fsddim.system import FSDDIM
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig, NoiseNetwork, NoiseOutput, Prediction
from sddpm.guidance import GUIDANCE, Guided, read_guidance
from sddpm.pretrained import SDDPM
from sddpm.protocol import ImageShape
from sddpm.rng import ImageStreams
from sddpm.samplers import Sampling
from tests.support.systems import make, model

SEEDS = [3, 4, 5]
SHAPE = ImageShape(1, 8)


class Linear(NoiseNetwork):
    """A network whose raw output is 0.3 times its input."""

    def __init__(self, prediction: Prediction) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.3))
        self.output = NoiseOutput(prediction, DiffusionConfig())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.output(self.factor * x, x, t)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_linear_network_s_steps_are_those_worked_by_hand(prediction: Prediction) -> None:
    gain, denoiser = 1.2, Denoiser(Linear(prediction), SHAPE, DenoiserTraining())
    drawn = denoiser.sample(
        SEEDS, {"sampler": "ddim_unclipped", "steps": 2, "engine": "plain", "gain": gain}
    )
    x = ImageStreams(SEEDS).randn(1, 8, 8).double()
    # The schedule of arXiv 2006.11239: 1000 linear betas; two steps start at 999 and at 499.
    abar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    for now, following in ((abar[999], abar[499]), (abar[499], torch.tensor(1.0))):
        raw = gain * 0.3 * x
        signal, noise = now.sqrt(), (1 - now).sqrt()
        if prediction == "epsilon":
            eps, image = raw, (x - noise * raw) / signal
        else:
            eps, image = signal * raw + noise * x, signal * x - noise * raw
        x = following.sqrt() * image + (1 - following).sqrt() * eps
    torch.testing.assert_close(drawn.double(), x, rtol=1e-3, atol=1e-4)


@pytest.fixture
def denoiser() -> Denoiser:
    return model().denoiser


def test_a_gain_of_one_changes_no_bit(denoiser: Denoiser) -> None:
    how = {"sampler": "ddim", "steps": 3, "eta": 1.0}
    plain = denoiser.sample(SEEDS, how)
    assert torch.equal(denoiser.sample(SEEDS, {**how, "gain": 1.0}), plain)
    assert not torch.equal(denoiser.sample(SEEDS, {**how, "gain": 1.1}), plain)


def test_a_gain_is_a_read_out_with_larger_weights(denoiser: Denoiser) -> None:
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([5, 500, 950])
    with torch.no_grad():
        amplified = denoiser.amplified(denoiser.net.eval(), 1.3)(x, t)
        denoiser.net.readout.weights.mul_(1.3)
        torch.testing.assert_close(amplified, denoiser.net(x, t))


def test_the_engines_agree_at_a_gain(denoiser: Denoiser) -> None:
    drawn = {
        engine: denoiser.sample(SEEDS, {"steps": 3, "gain": 1.1, "engine": engine})
        for engine in ("plain", "exact", "fast")
    }
    torch.testing.assert_close(drawn["exact"], drawn["plain"], rtol=1e-3, atol=1e-3)
    without = denoiser.sample(SEEDS, {"steps": 3, "engine": "plain"})
    moved = (without - drawn["plain"]).abs().mean()
    # Rounded weights change single spikes, by less than the gain changes the images.
    assert (drawn["fast"] - drawn["plain"]).abs().mean() < 0.5 * moved


@pytest.mark.parametrize("name", ["sddpm_plus", "ann_twin", "converted", "sdit", "ddpm"])
def test_every_denoiser_has_a_gain(name: str) -> None:
    system: Any = make(name, ImageShape(1, 16))
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([100, 900])
    with torch.no_grad():
        noise = system.generator.eval()(x, t)
        amplified = system.amplified(system.generator, 2.0)(x, t)
    output = system.noise_output
    wanted = 2 * noise[:, :1]
    if output is not None and output.prediction == "v_prediction":
        abar = system.diffusion.alphas_cumprod[t].sqrt()[:, None, None, None]
        level = (1 - abar**2).sqrt()
        wanted = level * x + abar * 2 * ((noise - level * x) / abar)
    torch.testing.assert_close(amplified[:, :1], wanted, rtol=1e-4, atol=1e-4)
    # A learned variance behind the noise stays.
    assert torch.equal(amplified[:, 1:], noise[:, 1:])


def test_fsddim_amplifies_its_currents() -> None:
    system = make("fsddim", ImageShape(1, 8))
    assert isinstance(system, FSDDIM)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([100, 600])
    amplified = system.amplified(system.prepared("plain"), 1.5)(x, t)
    undo = system.generator.register_forward_hook(lambda module, inputs, v: 1.5 * v)
    torch.testing.assert_close(amplified, system.prepared("plain")(x, t), rtol=1e-4, atol=1e-4)
    undo.remove()
    plain = system.sample(SEEDS[:2], {"sampler": "ddim", "steps": 2})
    assert not torch.equal(system.sample(SEEDS[:2], {"steps": 2, "gain": 1.5}), plain)


@pytest.mark.parametrize("gain", [0, -1.0, math.nan, math.inf, True, "1"])
def test_a_gain_is_a_finite_number_above_0(gain: Any) -> None:
    with pytest.raises(ValueError, match=r"^gain=.*: expected a finite number above 0$"):
        Sampling(gain=gain)


# The file beside a checkpoint.


def test_a_guided_gain_travels_with_the_checkpoint(tmp_path: Path) -> None:
    original = model()
    plain, louder = original.sample(4, steps=3), original.sample(4, steps=3, gain=1.2)
    assert not torch.equal(plain, louder)
    original.guided = Guided(gain=1.2)
    original.save_pretrained(tmp_path / "m")
    assert json.loads((tmp_path / "m" / GUIDANCE).read_text()) == {"gain": 1.2}
    opened = SDDPM.from_pretrained(tmp_path / "m")
    assert torch.equal(opened.sample(4, steps=3), louder)
    assert torch.equal(opened.sample(4, steps=3, gain=1.0), plain)


def test_guidance_of_other_time_steps_stays_theirs(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "m")
    own = SDDPM.from_pretrained(tmp_path / "m").facts["config"]["time_steps"]
    opened = sddpm.load(tmp_path / "m", time_steps=own + 1)
    opened.guided = Guided(gain=1.2)
    opened.save_pretrained(tmp_path / "again")
    assert sddpm.load(tmp_path / "again").guided == Guided()
    assert sddpm.load(tmp_path / "again", time_steps=own + 1).guided == Guided(gain=1.2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / GUIDANCE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"gain": 0}', "gain=0: expected a finite number above 0"),
        ('{"gain": "loud"}', "gain='loud'"),
        ('{"gain": NaN}', "gain=nan"),
        ('{"gain": 1.1, "time_steps": []}', "time_steps=[]: expected a whole number from 1"),
        ('{"gain": 1.1, "time_steps": 0}', "time_steps=0"),
        ("{}", "expected 'thresholds' or 'gain'"),
        ("[1.2]", "expected JSON with 'thresholds' or 'gain'"),
    ],
)
def test_a_file_with_another_gain_is_named(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=r"guidance\.json") as error:
        read_guidance(file.parent)
    assert words in str(error.value)


def test_older_files_know_thresholds_only(file: Path) -> None:
    file.write_text('{"thresholds": 0.9}')
    assert read_guidance(file.parent) == Guided(0.9, None)
