"""Threshold guidance: thresholds move and return, and the loss finds a better one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sddpm.diffusion import Diffusion, DiffusionConfig
from sddpm.guidance import (
    HeldOut,
    choose_by_gradient,
    choose_by_loss,
    denoising_losses,
    guided,
    read_thresholds,
    threshold_gradient,
)
from sddpm.neurons import IF
from sddpm.unet import UNet, UNetConfig

DIFFUSION = Diffusion(DiffusionConfig())


@pytest.fixture
def net() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(1, channels=4, multipliers=(1,), blocks=1)).eval()


def test_thresholds_move_inside_the_block_only(net: UNet) -> None:
    before = read_thresholds(net)
    assert set(before.values()) == {1.0}
    with guided(net, 0.9):
        assert all(v == pytest.approx(0.9) for v in read_thresholds(net).values())
    assert read_thresholds(net) == before
    with guided(net, {"stem.act": 2.0}):
        moved = read_thresholds(net)
        assert moved.pop("stem.act") == 2.0
        assert set(moved.values()) == {1.0}
    with pytest.raises(RuntimeError), guided(net, 0.5):
        raise RuntimeError
    assert read_thresholds(net) == before


def test_guidance_by_none_changes_nothing(net: UNet) -> None:
    with guided(nn.ReLU(), None), guided(net, None):
        assert set(read_thresholds(net).values()) == {1.0}


class Offset(nn.Module):
    """Predicts noise from spikes of a constant current: the loss depends on theta alone.

    Current 0.6 over 4 steps: theta in (0.6, 1.2] fires twice, (1.2, 1.8] once, above never
    within 2.4; the target is half a spike a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.act = IF(4, threshold=2.0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        current = torch.full((4 * len(x), *x.shape[1:]), 0.6)
        return self.act(current).unflatten(0, (4, -1)).mean(0)


def test_the_loss_finds_the_threshold_that_is_right() -> None:
    target = torch.full((16, 1, 2, 2), 0.5)
    held_out = HeldOut(target, target, torch.zeros(16, dtype=torch.long))
    choice = choose_by_loss(Offset(), held_out, [0.5, 1.0, 1.5, 3.0])
    assert choice.thresholds == 1.0
    losses = [row["loss"] for row in choice.curve]
    assert losses == pytest.approx([0.25, 0.0, 0.0625, 0.25])
    assert choice.network_evaluations == 5 * 16


def test_the_gradient_points_the_same_way() -> None:
    target = torch.full((16, 1, 2, 2), 0.5)
    held_out = HeldOut(target, target, torch.zeros(16, dtype=torch.long))
    module = Offset()
    assert threshold_gradient(module, held_out)["act"] > 0  # too few spikes: lower the threshold
    assert not module.act.theta.requires_grad
    choice = choose_by_gradient(module, held_out, [0.5, 1.0])
    assert choice.thresholds == {"act": pytest.approx(1.0)}


def test_gradient_equals_a_finite_difference_of_the_smooth_network() -> None:
    """With the surrogate's primitive in place of the step, the slope is an ordinary derivative."""
    torch.manual_seed(1)
    module = Offset().double()
    module.act.surrogate.set_spiking_mode(False)
    module.act._fused = lambda x: None  # the kernels fire; only the loop is smooth
    target = torch.rand(8, 1, 2, 2)
    held_out = HeldOut(target, target, torch.zeros(8, dtype=torch.long))
    slope = threshold_gradient(module, held_out)["act"]
    losses = []
    for shift in (-1e-2, 1e-2):
        with guided(module, 2.0 + shift):
            losses.append(denoising_losses(module, held_out).mean().item())
    assert slope == pytest.approx((losses[1] - losses[0]) / 2e-2, rel=1e-2)


def test_held_out_levels_cover_the_process_and_repeat() -> None:
    images = torch.zeros(16, 1, 4, 4)
    held_out = HeldOut.draw(images, DIFFUSION, levels=4)
    assert sorted(set(held_out.t.tolist())) == [125, 375, 625, 875]
    assert torch.equal(held_out.noise, HeldOut.draw(images, DIFFUSION, levels=4).noise)
    abar = DIFFUSION.alphas_cumprod[held_out.t].view(-1, 1, 1, 1)
    torch.testing.assert_close(held_out.noisy, (1 - abar).sqrt() * held_out.noise)


def test_few_held_out_images_cover_the_process_too() -> None:
    held_out = HeldOut.draw(torch.zeros(2, 1, 4, 4), DIFFUSION)
    assert held_out.t.tolist() == [250, 750]


def test_every_layer_of_the_unet_gets_a_gradient(net: UNet) -> None:
    nn.init.normal_(net.head.conv.weight)
    held_out = HeldOut.draw(torch.randn(4, 1, 8, 8), DIFFUSION)
    slope = threshold_gradient(net, held_out)
    assert slope.keys() == read_thresholds(net).keys()
    assert all(value != 0 for value in slope.values())


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [(0.0, "threshold=0"), ({"stem.act": -1.0}, "threshold=-1"), ({"no.such": 1.0}, "no.such")],
)
def test_bad_thresholds_are_named(net: UNet, thresholds, message: str) -> None:
    with pytest.raises(ValueError, match=message), guided(net, thresholds):
        pass


def test_networks_without_neurons_cannot_be_guided() -> None:
    with pytest.raises(ValueError, match="no spiking neurons"), guided(nn.ReLU(), 0.9):
        pass
