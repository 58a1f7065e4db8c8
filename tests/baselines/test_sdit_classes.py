"""Class labels, from the images to the samples: the training step, SDiT and ``sample --class``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.sdit import system
from bench.energy.meter import Meter
from sddpm import system as sddpm_system
from sddpm.checkpoint import count_parameters
from sddpm.protocol import ImageShape, Step
from sddpm.rng import mix
from sddpm.training import TrainConfig, fit, labels_for
from tests.support.calling import call, refused
from tests.support.images import GeneratedImages
from tests.support.suites import TINY_SUITE
from tests.support.systems import TINY

SIZES = dict(width=16, depth=2, learning_rate=2e-3)
SHAPE = ImageShape(1, 8)
HOW = {"sampler": "ddim", "steps": 3}


def make(classes: int = 3, **options: object) -> system.SDiT:
    torch.manual_seed(0)
    made = system.build(system.Config(classes=classes, **SIZES, **options), SHAPE)
    nn.init.normal_(made.net.head.weight, std=0.1)
    if made.net.label is not None:
        nn.init.normal_(made.net.label.weight)
    return made


class Grey:
    """Image ``i`` is grey level ``i`` everywhere, of class ``i % 3``."""

    shape = SHAPE

    def __init__(self, count: int = 20) -> None:
        self.labels = torch.arange(count) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)


class Watching(system.SDiT):
    """Keeps what each step was given."""

    def __init__(self, classes: int) -> None:
        made = make(classes)
        super().__init__(made.training_config, SHAPE, made.net)  # type: ignore[arg-type]
        self.seen: list[tuple[Tensor, Tensor | None]] = []

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        self.seen.append((images, step.labels))
        return super().train_step(images, step)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_gets_the_labels_of_its_images(tmp_path: Path, workers: int) -> None:
    watching = Watching(3)
    config = TrainConfig(steps=5, batch_size=8, horizontal_flip=True, workers=workers)
    fit(watching, Grey(), config=config, folder=tmp_path, description={}, progress=False)
    levels = torch.cat([images[:, 0, 0, 0] for images, _ in watching.seen])
    labels = torch.cat([labels for _, labels in watching.seen if labels is not None])
    assert len(labels) == 40  # two epochs of 20
    assert torch.equal(labels, ((levels + 1) * 127.5).round().long() % 3)


def test_a_system_without_classes_gets_none(tmp_path: Path) -> None:
    watching = Watching(0)
    config = TrainConfig(steps=1, batch_size=4)
    fit(watching, Grey(), config=config, folder=tmp_path, description={}, progress=False)
    assert watching.seen[0][1] is None


def test_images_that_lack_the_classes_are_refused() -> None:
    assert labels_for(make(0), GeneratedImages(4)) is None
    with pytest.raises(ValueError, match=r"classes=3: .* this data set has none; use classes=0"):
        labels_for(make(3), GeneratedImages(4))
    with pytest.raises(ValueError, match=r"classes=2: .* from 0 to 1; this data set has 3"):
        labels_for(make(2), Grey())


def test_a_label_is_a_row_added_to_the_step() -> None:
    told, plain = make(3).eval(), make(0).eval()
    assert count_parameters(told.net) == count_parameters(plain.net) + 4 * 16
    assert told.net.label is not None
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([0, 5, 5, 999])
    labels = torch.tensor([2, 0, 1, 1])
    state = told.net.state_dict()
    rows = state.pop("label.weight")
    plain.net.load_state_dict(state, strict=True)
    embed = plain.net.step.forward
    with torch.no_grad():
        for chosen, given in ((labels, labels), (torch.full((4,), 3), None)):
            plain.net.step.forward = lambda t, chosen=chosen: embed(t) + rows[chosen]
            torch.testing.assert_close(told.net(x, t, given), plain.net(x, t))


def test_training_hides_a_share_of_the_labels(tmp_path: Path) -> None:
    made = make(3, label_dropout=0.3)
    given: list[Tensor] = []
    made.net.register_forward_pre_hook(lambda _, inputs: given.append(inputs[2]))
    config = TrainConfig(steps=12, batch_size=32)
    fit(made, Grey(), config=config, folder=tmp_path, description={}, progress=False)
    labels = torch.cat(given)
    assert (labels == 3).float().mean() == pytest.approx(0.3, abs=0.08)
    assert labels.unique().tolist() == [0, 1, 2, 3]


def test_an_image_has_the_class_that_is_asked_for_else_one_of_its_seed() -> None:
    made, seeds = make(3).eval(), range(16)
    of_class = [made.sample(seeds, {**HOW, "label": label}) for label in range(3)]
    assert not torch.allclose(of_class[0], of_class[1], atol=1e-3)
    anything = made.sample(seeds, HOW)
    drawn = [mix(seed, 5) % 3 for seed in seeds]
    assert set(drawn) == {0, 1, 2}
    assert np.bincount([mix(seed, 5) % 3 for seed in range(3000)]) == pytest.approx(1000, abs=80)
    for i, label in enumerate(drawn):
        torch.testing.assert_close(anything[i], of_class[label][i], atol=1e-5, rtol=0)
    with Meter(made.generator) as meter:
        made.sample(seeds, HOW)
    assert meter.counts(images=16).evaluations == 3


def test_classes_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="label=3: expected a class from 0 to 2"):
        make(3).sample([0], {**HOW, "label": 3})
    for plain in (make(0), sddpm_system.build(TINY, SHAPE)):
        with pytest.raises(ValueError, match="label=0: expected none: it knows no classes"):
            plain.sample([0], {**HOW, "label": 0})
    for options in (dict(classes=-1), dict(label_dropout=1.5)):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.*expected"):
            system.build(system.Config(**options), SHAPE)


@pytest.mark.usefixtures("own_cache")
def test_sample_draws_the_class_that_is_asked_for(tmp_path: Path) -> None:
    suite = tmp_path / "tiny.yaml"
    for classes in (10, 0):
        own = f"    config:\n      sdit: {{width: 16, depth: 2, classes: {classes}}}\n"
        text = TINY_SUITE.replace("    config:\n", own)
        suite.write_text(text.replace("systems: [", "systems: [sdit, "))
        out = tmp_path / str(classes)
        done = call(
            "train", "--suite", suite, "--preset", "smoke", "--system", "sdit", "--out", out
        )
        assert done.exit_code == 0, done.output

    def sample(classes: int, label: int, file: str):
        return call(
            "sample", "--ckpt", tmp_path / str(classes) / "checkpoint", "--sampler", "ddim:2",
            "--num", 3, "--class", label, "--out", tmp_path / file, "--device", "cpu",
        )  # fmt: skip

    drawn = [sample(10, label, f"{label}.npy") for label in (1, 2)]
    assert all(result.exit_code == 0 for result in drawn), drawn[0].output
    one, two = (np.load(tmp_path / f"{label}.npy") for label in (1, 2))
    assert one.shape == (3, 1, 8, 8)
    assert (one != two).any()
    refused(sample(10, 10, "x.npy"), "--class 10", "10 classes", "from 0 to 9")
    refused(sample(0, 1, "x.npy"), "--class 1", "sdit", "leave it out")
