"""Checkpoints with TSM in the authors' format: recorded output, and files that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sddpm
from sddpm.pretrained import SDDPM
from sddpm.tsm import scales
from sddpm.unet import UNet
from tests.support import golden
from tests.support.calling import call, refused

FILE = golden.FOLDER / "tsm.pt"


@pytest.fixture(scope="module")
def recorded() -> dict:
    return golden.read("tsm")


@pytest.fixture
def net() -> UNet:
    return sddpm.load_published(FILE)


def test_output_and_firing_rates_are_the_recorded_ones(recorded: dict, net: UNet) -> None:
    rates: dict[str, float] = {}
    for name, module in net.named_modules():
        if getattr(module, "emits", None) == "spikes":
            module.register_forward_hook(
                lambda _m, _i, out, name=name: rates.__setitem__(name, out.double().mean().item())
            )
    with torch.no_grad():
        y = net(recorded["x"], recorded["t"])
    assert golden.distance(y, recorded["y"]) < 1e-4
    wanted = {golden.sddpm_name(name): rate for name, rate in recorded["firing_rates"].items()}
    assert rates == pytest.approx(wanted, abs=1e-6)


def test_loss_and_gradients_in_training_mode_are_the_recorded_ones(
    recorded: dict, net: UNet
) -> None:
    training = recorded["training"]
    loss = (net.train()(recorded["x"], recorded["t"]) - training["noise"]).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(training["loss"], rel=1e-5)
    found = {name: value.grad for name, value in net.named_parameters()}

    def ours(name: str, value: torch.Tensor) -> torch.Tensor:
        return value.flatten() if name.endswith("tsmp") else value

    wanted = {golden.sddpm_name(k): ours(k, v) for k, v in training["gradients"].items()}
    golden.gradients_agree(found, wanted, 1e-4)
    norms = {golden.sddpm_name(k): v for k, v in training["gradient_norms"].items()}
    golden.norms_agree(found, norms)


def test_the_file_says_the_time_steps_and_the_widths(recorded: dict, net: UNet) -> None:
    published, config = recorded["config"], net.config
    assert config.temporal_scaling
    assert config.time_steps == published["timestep"] == 4
    assert (config.channels, list(config.multipliers), config.blocks) == (16, [1, 2], 1)
    tsmp = recorded["net_model"]["tail_conv.tsmp"].flatten()
    assert torch.equal(scales(net)["head.conv"], tsmp)
    with pytest.raises(ValueError, match=r"tsm\.pt: time_steps=8: .* for 4 spiking"):
        sddpm.load_published(FILE, time_steps=8)


@pytest.mark.parametrize(
    ("key", "shape"),
    [("conv.tsmp", (0, 1, 1, 1, 1)), ("conv.tsmp", (4,) * 5), ("bn.weight", (3,)),
     ("upblocks.0.conv1.tsmp", (5, 1, 1, 1, 1)), ("tail_conv.tsmp", None)],
)  # fmt: skip
def test_other_shapes_are_named(
    key: str, shape: tuple[int, ...] | None, recorded: dict, tmp_path: Path
) -> None:
    state = dict(recorded["net_model"])
    if shape is None:
        del state[key]
    else:
        state[key] = torch.zeros(shape)
    torch.save({"net_model": state}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad\.pt: "):
        sddpm.load_published(tmp_path / "bad.pt")


def test_the_command_makes_a_folder_that_samples(recorded: dict, tmp_path: Path) -> None:
    out = tmp_path / "published"
    result = call("import", FILE, "--image-size", 16, "--dataset", "cifar10", "--out", out)
    assert result.exit_code == 0, result.output
    model = SDDPM.from_pretrained(out)
    assert model.facts["system"] == "sddpm_tsm"
    assert model.facts["config"]["time_steps"] == 4
    with torch.no_grad():
        y = model.denoiser.net(recorded["x"], recorded["t"])
    assert golden.distance(y, recorded["y"]) < 1e-4
    assert model.sample(2, steps=2).shape == (2, 3, 16, 16)
    refused(call("import", FILE, "--time-steps", 8, "--out", tmp_path / "other"), "tsm.pt", "4")
