"""TSM: unchanged at the moment it is inserted, by hand after that, and only from its parent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sddpm import system, tsm
from sddpm.protocol import ImageShape
from sddpm.temporal import TemporalConv2d
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages

WIDTHS = dict(time_steps=4, channels=4, multipliers=(1, 2), blocks=1)
SHAPE = ImageShape(1, 8)


def trained_parent(folder: Path):
    torch.manual_seed(0)
    parent = system.build(system.Config(**WIDTHS, learning_rate=1e-2), SHAPE)
    fit(parent, GeneratedImages(), config=TrainConfig(20, 8), folder=folder, description={},
        progress=False)  # fmt: skip
    return parent.eval()


def test_output_is_unchanged_when_tsm_is_inserted(tmp_path: Path) -> None:
    parent = trained_parent(tmp_path)
    child = tsm.build(tsm.Config(**WIDTHS), SHAPE, parent).eval()
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 500, 999])
    with torch.no_grad():
        expected = parent.generator(x, t)
        torch.testing.assert_close(child.generator(x, t), expected, rtol=0, atol=1e-5)


def test_fine_tuning_moves_every_scale(tmp_path: Path) -> None:
    parent = trained_parent(tmp_path / "parent")
    child = tsm.build(tsm.Config(**WIDTHS, learning_rate=1e-3), SHAPE, parent)
    fit(child, GeneratedImages(), config=TrainConfig(2, 8), folder=tmp_path / "child",
        description={}, progress=False)  # fmt: skip
    scales = tsm.scales(child.generator)
    # 2 of the stem, 2 a block and 1 a shortcut, down, up and the head's convolution.
    blocks = 2 + 2 + 4
    shortcuts = 1 + 4
    assert len(scales) == 2 + 2 * blocks + shortcuts + 1 + 1 + 1
    for name, p in scales.items():
        assert p.shape == (4,)
        assert (p != 1).any(), name


def test_p_rate_moves_p_that_much_faster_and_weights_as_before(tmp_path: Path) -> None:
    """Adam's first step is its step size in every number that has a gradient."""
    parent = trained_parent(tmp_path / "parent")
    moved = {}
    for rate in (1.0, 50.0):
        child = tsm.build(tsm.Config(**WIDTHS, learning_rate=1e-4, p_rate=rate), SHAPE, parent)
        before = {name: value.clone() for name, value in child.net.named_parameters()}
        fit(child, GeneratedImages(), config=TrainConfig(1, 8), folder=tmp_path / str(rate),
            description={}, progress=False)  # fmt: skip
        moved[rate] = {
            n: float((v - before[n]).abs().max().detach()) for n, v in child.net.named_parameters()
        }
    for name, distance in moved[50.0].items():
        assert distance <= 1.01 * (5e-3 if name.endswith(".p") else 1e-4), name
    scales = [name for name in moved[1.0] if name.endswith(".p")]
    assert max(moved[1.0][name] for name in scales) == pytest.approx(1e-4, rel=0.05)
    assert max(moved[50.0][name] for name in scales) == pytest.approx(5e-3, rel=0.05)


def test_p_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="p_rate"):
        tsm.build(tsm.Config(**WIDTHS, p_rate=0.0), SHAPE)


def test_current_is_scaled_step_by_step_bias_included() -> None:
    conv = TemporalConv2d(1, 1, 1, time_steps=3)
    with torch.no_grad():
        conv.weight.fill_(2.0)
        conv.bias.fill_(1.0)
        conv.p.copy_(torch.tensor([1.0, 10.0, 100.0]))
    x = torch.arange(6.0).view(6, 1, 1, 1)  # two images, three steps
    assert conv(x).flatten().tolist() == [1, 3, 50, 70, 900, 1100]


def test_constant_input_is_multiplied_once_and_encoded() -> None:
    plain = TemporalConv2d(1, 2, 3, padding=1, time_steps=3)
    once = TemporalConv2d(1, 2, 3, padding=1, time_steps=3, constant=True)
    once.load_state_dict(plain.state_dict())
    nn.init.normal_(plain.p)
    once.p.data.copy_(plain.p)
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(once(x), plain(x.repeat(3, 1, 1, 1)))


def test_paper_size_has_67_scaled_convolutions() -> None:
    with torch.device("meta"):
        child = tsm.build(tsm.Config(time_steps=8), ImageShape(3, 32))
    assert sum(p.numel() for n, p in child.net.named_parameters() if n.endswith(".p")) == 67 * 8


def test_a_parent_of_another_width_is_refused() -> None:
    parent = system.build(system.Config(**{**WIDTHS, "channels": 8}), SHAPE)
    with pytest.raises(ValueError, match="another network"):
        tsm.build(tsm.Config(**WIDTHS), SHAPE, parent)


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ({"prediction": "v_prediction"}, "prediction=v_prediction: the parent has epsilon"),
        ({"neuron": "lif"}, "activation=lif: the parent has if"),
    ],
)
def test_a_parent_that_means_something_else_is_refused(ours: dict[str, str], words: str) -> None:
    """Its weights have the same shapes."""
    parent = system.build(system.Config(**WIDTHS), SHAPE)
    with pytest.raises(ValueError, match=words):
        tsm.build(tsm.Config(**WIDTHS, **ours), SHAPE, parent)
