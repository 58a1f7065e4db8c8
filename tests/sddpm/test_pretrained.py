"""from_pretrained, sample, save_pretrained, and the authors' format through them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sddpm
from sddpm import system, tsm
from sddpm.checkpoint import shipped_checkpoints
from sddpm.guidance import GUIDANCE, Guided
from sddpm.pretrained import SDDPM
from tests.support.systems import model

GOLDEN = Path(__file__).parents[1] / "golden" / "unet_small.pt"


@pytest.mark.parametrize(("module", "name"), [(system, "sddpm"), (tsm, "sddpm_tsm")])
def test_saved_and_opened_gives_the_same_images(module, name: str, tmp_path: Path) -> None:
    original = model(module, name)
    original.save_pretrained(tmp_path / "m")
    opened = sddpm.SDDPM.from_pretrained(tmp_path / "m")
    images = opened.sample(5, steps=3, seed=1)
    assert images.dtype == torch.uint8
    assert images.shape == (5, 1, 8, 8)
    assert torch.equal(images, original.sample(5, steps=3, seed=1))
    card = (tmp_path / "m" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name")
    assert "2 time steps" in card


def test_half_precision_halves_the_file_and_nearly_keeps_the_noise(tmp_path: Path) -> None:
    original = model()
    original.save_pretrained(tmp_path / "full")
    original.save_pretrained(tmp_path / "half", half=True)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("full", "half")]
    assert sizes[1] < 0.75 * sizes[0]
    opened = SDDPM.from_pretrained(tmp_path / "half")
    full, half = original.sample(8, steps=3).float(), opened.sample(8, steps=3).float()
    assert (full - half).abs().mean() < 4


def test_an_image_is_the_same_at_any_count_and_batch_size() -> None:
    net = model()
    few = net.sample(3, steps=4, batch_size=2)
    many = net.sample(7, steps=4, batch_size=7)
    assert (few.int() - many[:3].int()).abs().max() <= 1
    assert not torch.equal(net.sample(3, steps=4, seed=1), few)


def test_guided_thresholds_travel_with_the_checkpoint(tmp_path: Path) -> None:
    original = model()
    plain = original.sample(4, steps=3)
    guided = original.sample(4, steps=3, threshold=0.6)
    assert not torch.equal(plain, guided)
    original.guided = Guided(0.6)
    original.save_pretrained(tmp_path / "m")
    opened = SDDPM.from_pretrained(tmp_path / "m")
    assert torch.equal(opened.sample(4, steps=3), guided)
    assert torch.equal(opened.sample(4, steps=3, threshold=1.0), plain)


def test_published_checkpoints_import_and_save(tmp_path: Path) -> None:
    imported = SDDPM.from_published(GOLDEN, time_steps=4, image_size=16)
    imported.save_pretrained(tmp_path / "m")
    golden = torch.load(GOLDEN, weights_only=True)
    net = SDDPM.from_pretrained(tmp_path / "m").denoiser.generator
    with torch.no_grad():
        assert (net(golden["x"], golden["t"]) - golden["y"]).abs().max() < 1e-4
    assert "imported from unet_small.pt" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "altered"),
    [("sparse", lambda x: x.to_sparse()), ("meta", lambda x: x.to("meta"))],
)
def test_weights_that_no_file_can_hold_are_named(
    kind: str, altered: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    original = model()
    convolution = original.denoiser.generator.stem.conv1
    convolution.weight = torch.nn.Parameter(altered(convolution.weight.detach()))
    wanted = rf"model\.safetensors: stem\.conv1\.weight is a {kind} tensor"
    with pytest.raises(ValueError, match=wanted):
        original.save_pretrained(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_look_inside_the_chain() -> None:
    seen: list[int] = []
    model().sample(2, steps=3, on_step=lambda done, x, x0: seen.append(done))
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"system": "gan"}, "'gan'"),
        ({"config": None}, "config: expected an object"),
        ({"config": {"channels": "many"}}, "config.channels"),
        ({"config": {"multipliers": 3}}, "config.multipliers"),
        ({"shape": [1, 8]}, "shape: expected an object"),
        ({"shape": {"channels": 1}}, "shape.size"),
        # Ten billion weights, which are not in the file: refused before they are made.
        ({"config": {"channels": 20_000, "multipliers": [1, 2], "blocks": 1}}, "shape"),
    ],
)
def test_bad_configurations_are_named(changed: dict, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    model().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(ValueError, match=rf"odd.*{words}"):
        SDDPM.from_pretrained(folder)


@pytest.mark.parametrize("text", [
    "{}", "[", '{"thresholds": {"stem.act": -1}}', '{"thresholds": {}}', '{"thresholds": true}',
    '{"thresholds": Infinity}',
])  # fmt: skip
def test_bad_thresholds_are_named(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    model().save_pretrained(folder)
    (folder / GUIDANCE).write_text(text)
    with pytest.raises(ValueError, match="odd"):
        SDDPM.from_pretrained(folder)


def test_saving_replaces_a_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        model().save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path / "m")
    model().save_pretrained(".")
    monkeypatch.chdir(tmp_path)
    model().save_pretrained("m")
    assert SDDPM.from_pretrained(tmp_path / "m").denoiser.shape.size == 8


def test_missing_folder_and_bad_count() -> None:
    with pytest.raises(FileNotFoundError, match="no-such"):
        SDDPM.from_pretrained("no-such")
    with pytest.raises(ValueError, match="count=0"):
        model().sample(0)


@pytest.mark.parametrize("name", list(shipped_checkpoints()))
def test_shipped_checkpoints_are_small_documented_and_draw(name: str) -> None:
    folder = shipped_checkpoints()[name]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 10e6
    record = json.loads((folder / "record.jsonl").read_text())
    model = SDDPM.from_pretrained(name)
    # The record is of these very weights, and says what made them and how good they are.
    assert record["training_hash"] == model.facts["hash"]
    assert record["train_images"] == record["train_steps"] * record["batch_size"] > 0
    assert record["metrics"]["kid_efflite0"] > 0
    images = model.sample(4, sampler="ddim", steps=4, eta=1.0).float()
    # Four different pictures, whose neighbouring pixels are alike as the data's are, and noise's
    # are not.
    assert all((images[i] - images[j]).abs().mean() > 5 for i in range(4) for j in range(i))
    left, right = images[..., :-1].flatten(), images[..., 1:].flatten()
    assert torch.corrcoef(torch.stack([left, right]))[0, 1] > 0.5


def test_something_is_shipped() -> None:
    assert "fashion-mnist" in shipped_checkpoints()


def test_the_shipped_clothes_are_dark_in_the_corners() -> None:
    images = (
        SDDPM.from_pretrained("fashion-mnist").sample(4, sampler="ddim", steps=4, eta=1.0).float()
    )
    assert images[..., :3, :3].mean() < 0.5 * images[..., 12:20, 12:20].mean()
