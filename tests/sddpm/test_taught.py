"""SDDPM+ that learns from its twin: the same function at fine levels, and targets by hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sddpm
from baselines import ann_twin
from conversion.command import prediction_error
from sddpm import taught
from sddpm.denoising import DenoiserTraining
from sddpm.protocol import ImageShape, to_float
from sddpm.teaching import TaughtDenoiser, block_outputs, feature_distance
from sddpm.training import TrainConfig, fit
from sddpm.unet import ResidualBlock
from tests.support.images import GeneratedImages

SHAPE = ImageShape(1, 8)
WIDTHS: dict[str, Any] = dict(channels=8, multipliers=(1, 2), blocks=1, prediction="v_prediction")
STEM = dict(stem_shortcut=True, stem_gain=True)


def trained_twin(folder: Path, **options: Any):
    torch.manual_seed(0)
    config = ann_twin.Config(
        **WIDTHS, **{**STEM, **options}, ema_decay=0.0, learning_rate=5e-3, linear_head=True
    )
    twin = ann_twin.build(config, SHAPE)
    fit(twin, GeneratedImages(), config=TrainConfig(40, 16), folder=folder, description={},
        progress=False)  # fmt: skip
    return twin.eval()


@pytest.mark.parametrize(
    "stem", [STEM, {"stem_gain": False}, {"stem_shortcut": False, "stem_gain": False}]
)
def test_fine_levels_make_the_twin_again(tmp_path: Path, stem: dict[str, bool]) -> None:
    """An integer neuron rounds a rectifier, so many small events leave the twin's output, and a
    stem's part that the twin lacks changes nothing at the start."""
    twin = trained_twin(tmp_path, **stem)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([0, 300, 600, 999])
    errors = []
    with torch.no_grad():
        expected = twin.generator(x, t)
        for levels in (4, 255):
            config = taught.Config(**WIDTHS, time_steps=levels, threshold=24 / levels)
            own = taught.build(config, SHAPE, twin).eval()
            errors.append(float((own.generator(x, t) - expected).norm() / expected.norm()))
    assert errors[1] < 0.02 < 0.5 < errors[0]


class Constant(nn.Module):
    """The same value everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.value.expand_as(x)


class OneStep:
    """A training step whose noise is 2 everywhere, and which keeps the loss."""

    number, total, labels = 0, 1, None

    def __init__(self, system: nn.Module) -> None:
        self.system, self.loss = system, 0.0

    def module(self, name: str) -> Any:
        return getattr(self.system, name)

    def randint(self, high: int, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.long)

    def randn(self, *shape: int) -> Tensor:
        return torch.full(shape, 2.0)

    def update(self, name: str, loss: Tensor, *, lr: float, clip: float | None = None) -> None:
        self.loss = float(loss.detach())


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (1.0, 16.0), (0.5, 6.25)])
def test_the_target_is_between_the_noise_and_the_teacher(share: float, expected: float) -> None:
    """The network says 1, the noise is 2, the teacher says 5: by hand (1 - 2)^2, (1 - 5)^2 and
    (1 - 3.5)^2."""
    system = TaughtDenoiser(
        Constant(1.0), SHAPE, DenoiserTraining(), teacher=Constant(5.0), share=share
    )
    step = OneStep(system)
    losses = system.train_step(torch.zeros(2, 1, 8, 8), step)  # type: ignore[arg-type]
    assert step.loss == pytest.approx(expected)
    assert float(losses["relative_error"]) == pytest.approx(4 / 5)


def test_features_are_compared_over_their_variance() -> None:
    wanted = [torch.tensor([-1.0, 1.0]), torch.tensor([0.0, 4.0])]
    assert float(feature_distance(wanted, wanted)) == 0
    means = [torch.zeros(2), torch.full((2,), 2.0)]
    assert float(feature_distance(means, wanted)) == pytest.approx(1)
    off = [torch.tensor([-1.0, 1.0]), torch.tensor([2.0, 6.0])]  # by 2, of a variance of 4
    assert float(feature_distance(off, wanted)) == pytest.approx(0.5)


def test_features_are_means_over_spiking_time() -> None:
    config = taught.Config(**WIDTHS, neuron="if", time_steps=4)
    net = taught.build(config, SHAPE).net
    seen: list[Tensor] = []
    blocks = [m for m in net.modules() if isinstance(m, ResidualBlock)]
    blocks[-1].register_forward_hook(lambda module, given, output: seen.append(output))
    with block_outputs(net) as outputs:
        net(torch.randn(2, 1, 8, 8), torch.tensor([5, 5]))
    assert len(outputs) == len(blocks) == 2 + 2 + 4
    torch.testing.assert_close(outputs[-1], sum(seen[0].chunk(4)) / 4)
    net(torch.randn(2, 1, 8, 8), torch.tensor([5, 5]))
    assert len(outputs) == len(blocks), "records nothing outside the context"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start_from_twin": False, "min_snr": 5.0},
        {"feature_weight": 0.1},
        {"neuron": "parallel_if", "mean_shortcuts": False},
    ],
)
def test_training_comes_nearer_to_the_twin_and_stands_alone(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    twin, images = trained_twin(tmp_path / "twin"), GeneratedImages()
    config = taught.Config(**WIDTHS, **options, learning_rate=1e-3, decay="linear", ema_decay=0.0)
    torch.manual_seed(1)
    own = taught.build(config, SHAPE, twin)
    x = to_float(images.images)
    before = prediction_error(twin, own.eval(), x, seed=0)
    facts = {"system": "sddpm_plus_taught", "config": asdict(config), "shape": asdict(SHAPE)}
    fit(own, images, config=TrainConfig(60, 16), folder=tmp_path / "own", description=facts,
        progress=False)  # fmt: skip
    assert prediction_error(twin, own.eval(), x, seed=0) < 0.8 * before
    alone = sddpm.load(tmp_path / "own" / "checkpoint")
    settings = {"sampler": "ddim", "steps": 5}
    assert torch.equal(alone.denoiser.sample([7], settings), own.sample([7], settings))


def test_a_network_without_a_teacher_does_not_train(tmp_path: Path) -> None:
    own = taught.build(taught.Config(**WIDTHS), SHAPE)
    with pytest.raises(ValueError, match="give a teacher"):
        fit(own, GeneratedImages(), config=TrainConfig(1, 8), folder=tmp_path, description={},
            progress=False)  # fmt: skip


@pytest.mark.parametrize(
    ("twin", "own", "says"),
    [
        ({}, {"stem_gain": False}, "stem.gain"),
        ({"blocks": 2}, {}, "another network: down"),
        ({"stem_gain": False}, {"start_from_twin": False, "channels": 16, "feature_weight": 1.0},
         "residual blocks of"),
        ({"prediction": "epsilon"}, {}, "prediction=v_prediction: the twin has epsilon"),
        ({}, {"diffusion_steps": 10}, "noise schedule"),
        ({}, {"teacher_share": 1.5}, "teacher_share=1.5"),
        ({}, {"feature_weight": -1.0}, "feature_weight=-1.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_refused(
    twin: dict[str, Any], own: dict[str, Any], says: str
) -> None:
    parent = ann_twin.build(ann_twin.Config(**{**WIDTHS, **STEM, **twin}), SHAPE)
    with pytest.raises(ValueError, match=says):
        taught.build(taught.Config(**{**WIDTHS, **own}), SHAPE, parent)
