"""Where weights start, as published and otherwise, and BatchNorm over parts of the batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from baselines import ann_ddpm
from sddpm import system
from sddpm.checkpoint import count_parameters
from sddpm.engine.network import optimize
from sddpm.protocol import ImageShape
from sddpm.split_norm import SplitBatchNorm2d

COLOUR = ImageShape(3, 8)
SMALL = dict(time_steps=2, channels=128, multipliers=(1,), blocks=1)


def sddpm_net(initialisation: str) -> nn.Module:
    torch.manual_seed(0)
    return system.build(system.Config(**SMALL, initialisation=initialisation), COLOUR).net


def xavier_bound(layer: nn.Conv2d) -> float:
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    return math.sqrt(6 / (taps * (layer.in_channels + layer.out_channels)))


FORGOTTEN = ("stem.conv2", "head.temporal_conv")
"""Convolutions that the published code does not initialise."""


def test_the_published_code_leaves_two_convolutions_at_torchs_default() -> None:
    """Deviations of its release at 128 channels: 0.0170 for Xavier's 0.0294 in the stem, and
    bounds of 1 / sqrt(fan in); its biases are not 0."""
    published, xavier = sddpm_net("published"), sddpm_net("xavier")
    stem = published.get_submodule("stem.conv2").weight.std().item()
    assert stem == pytest.approx(0.0170, rel=0.01)
    stem = xavier.get_submodule("stem.conv2").weight.std().item()
    assert stem == pytest.approx(0.0294, rel=0.01)
    for net, as_published in ((published, True), (xavier, False)):
        for name, layer in net.named_modules():
            if not isinstance(layer, nn.Conv2d) or name == "head.conv":
                continue
            left = as_published and name in FORGOTTEN
            taps = layer.kernel_size[0] * layer.kernel_size[1]
            bound = 1 / math.sqrt(taps * layer.in_channels) if left else xavier_bound(layer)
            assert 0.9 * bound < layer.weight.abs().max() <= bound, name
            assert (layer.bias.abs().max() > 0) == left, name


def test_the_heads_gain_is_small_in_both() -> None:
    for initialisation in ("published", "xavier"):
        head = sddpm_net(initialisation).get_submodule("head.conv")
        assert head.weight.abs().max() <= 1e-5 * xavier_bound(head)


def test_another_initialisation_is_named() -> None:
    with pytest.raises(ValueError, match="initialisation='he': expected"):
        sddpm_net("he")
    with pytest.raises(ValueError, match="initialisation='he': expected"):
        ann_ddpm.build(ann_ddpm.Config(initialisation="he"), ImageShape(3, 32))  # type: ignore[arg-type]


def test_ddpm_is_the_authors_network() -> None:
    """Their count includes the fixed table of the time embedding; a million is 2^20 in theirs."""
    counts = {}
    for attention in (True, False):
        with torch.device("meta"):
            config = ann_ddpm.Config(middle_attention=attention, initialisation="torch")
            counts[attention] = count_parameters(ann_ddpm.build(config, ImageShape(3, 32)).net)
    table = 1000 * 128
    assert counts == {True: 67_602_691 - table, False: 66_423_043}
    assert round(67_602_691 / 2**20, 2) == 64.47
    # Four 1x1 convolutions of 512 channels with biases, and a GroupNorm.
    assert counts[True] - counts[False] == 4 * (512 * 512 + 512) + 2 * 512


def test_ddpms_residual_branches_start_at_next_to_nothing() -> None:
    torch.manual_seed(0)
    config = ann_ddpm.Config(channels=32, multipliers=(1, 2), blocks=1)
    net = ann_ddpm.build(config, ImageShape(1, 8)).net.eval()
    small = []
    for name, layer in net.unet.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        fan_out, fan_in = layer.weight.shape[:2]
        bound = math.sqrt(6 / (layer.weight[0, 0].numel() * (fan_in + fan_out)))
        gain = layer.weight.abs().max().item() / bound
        if gain < 0.5:
            small.append(name)
            assert gain <= 1.0001e-5, name
        assert gain <= 1.0001, name
        assert layer.bias is None or (layer.bias == 0).all(), name
    blocks = 1 + 1 + 2 + 2 + 2  # down, down, middle, and one more a level up
    assert len(small) == blocks + 1 + 1  # and the attention's, and the network's
    with torch.no_grad():
        eps = net(torch.randn(2, 1, 8, 8), torch.tensor([3, 900]))
    assert eps.abs().max() < 1e-3


def each_group_by_itself(x: Tensor, norm: nn.BatchNorm2d, images: int, steps: int) -> Tensor:
    """The definition: torch's BatchNorm on the images of one group after another."""
    unfolded = x.unflatten(0, (steps, -1))
    groups = [
        norm(part.flatten(0, 1)).unflatten(0, (steps, -1)) for part in unfolded.split(images, 1)
    ]
    return torch.cat(groups, 1).flatten(0, 1)


def test_a_group_of_images_is_normalised_by_itself_with_all_its_steps() -> None:
    torch.manual_seed(0)
    steps, images = 3, 2
    split, plain = SplitBatchNorm2d(5, images=images, time_steps=steps), nn.BatchNorm2d(5)
    with torch.no_grad():
        for parameter in split.parameters():
            parameter.normal_()
    plain.load_state_dict(split.state_dict())
    x = torch.randn(steps * 6, 5, 4, 4).mul(3).add(1)
    x, same = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn_like(x)
    (split(x) * weights).sum().backward()
    (each_group_by_itself(same, plain, images, steps) * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, same.grad, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(split.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)

    # The running statistics are those of the first group, as DataParallel keeps them.
    first = nn.BatchNorm2d(5)
    first(x.detach().unflatten(0, (steps, -1))[:, :images].flatten(0, 1))
    torch.testing.assert_close(split.running_mean, first.running_mean)
    torch.testing.assert_close(split.running_var, first.running_var)
    assert split.num_batches_tracked == 1
    with pytest.raises(ValueError, match=r"norm_images=2 must divide .* 3 images"):
        split(torch.randn(steps * 3, 5, 4, 4))


def test_norm_images_is_an_option_of_sddpm() -> None:
    torch.manual_seed(0)
    config = system.Config(**{**SMALL, "channels": 8}, norm_images=2)
    net = system.build(config, COLOUR).net.train()
    x, t = torch.randn(4, 3, 8, 8), torch.tensor([1, 50, 400, 900])
    with torch.no_grad():
        nn.init.ones_(net.head.conv.weight)
        both = net(x, t)
        assert torch.allclose(both[:2], net(x[:2], t[:2]), atol=1e-4)
        whole = system.build(system.Config(**{**SMALL, "channels": 8}), COLOUR).net.train()
        whole.load_state_dict(net.state_dict())
        assert not torch.allclose(both, whole(x, t), atol=1e-2)
        # At evaluation nothing is split, and the engine folds it like any other.
        net.eval(), whole.eval()
        whole.load_state_dict(net.state_dict())
        assert torch.equal(net(x, t), whole(x, t))
    engine = optimize(net)
    assert type(engine) is type(optimize(whole))
    assert (engine(x, t) - net(x, t).detach()).abs().max() < 1e-3
    with pytest.raises(ValueError, match="norm_images=-1"):
        system.build(system.Config(norm_images=-1), COLOUR)
