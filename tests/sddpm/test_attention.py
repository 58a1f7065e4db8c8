"""Spiking self-attention in the U-Net's middle: against a loop, its counts, and where it runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.energy.meter import Meter
from sddpm import system, tsm
from sddpm.attention import SpikingAttention
from sddpm.configuration import storable
from sddpm.engine.network import preparable
from sddpm.protocol import ImageShape
from sddpm.unet import Recipe, UNet, UNetConfig

SHAPE = ImageShape(1, 8)
WIDTHS = dict(time_steps=2, channels=8, multipliers=(1, 2), blocks=1)


def attention(channels: int = 8, heads: int = 2, **options: object) -> SpikingAttention:
    """With norms that are not the identity, so that about half of the neurons fire."""
    torch.manual_seed(0)
    made = SpikingAttention(channels, heads, Recipe(UNetConfig(time_steps=2, **options)))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.02, 0.1)
            nn.init.uniform_(module.bias, -0.2, 0.8)
    return made.eval()


def denoiser(heads: int, module=system, seed: int = 0, parent=None):
    torch.manual_seed(seed)
    config = module.Config(**WIDTHS, attention_heads=heads)
    made = module.build(config, SHAPE, parent)
    if parent is None:
        nn.init.normal_(made.net.head.conv.weight)
        # Running statistics as after a training: with fresh ones the attention is silent.
        with torch.no_grad():
            for _ in range(30):
                made.net.train()(torch.randn(8, 1, 8, 8), torch.randint(1000, (8,)))
    return made.eval()


def test_it_is_the_loop_over_pixels_and_heads() -> None:
    made = attention()
    x = torch.randn(6, 8, 3, 4) * 2
    spikes = made.act(x)
    q, k, v = (layer(spikes).flatten(2).tolist() for layer in (made.query, made.key, made.value))
    pixels, width = 12, 4
    mixed = torch.zeros(6, 8, 12)
    for n in range(6):
        for head in range(2):
            channels = range(head * width, (head + 1) * width)
            for i in range(pixels):
                for j in range(pixels):
                    score = sum(q[n][c][i] * k[n][c][j] for c in channels)
                    for c in channels:
                        mixed[n, c, i] += score * v[n][c][j]
    assert mixed.max() > 2  # counts, not bits
    sent = made.mixed_act(made.mixed_bn(mixed.view(6, 8, 3, 4)))
    assert 0 < sent.mean() < 1
    torch.testing.assert_close(made(x), x + made.bn(made.project(sent)))


def test_pixels_have_no_order() -> None:
    made = attention()
    x, order = torch.randn(4, 8, 2, 6) * 2, torch.randperm(12)

    def ordered(y: Tensor) -> Tensor:
        return y.flatten(2)[..., order].view_as(y)

    torch.testing.assert_close(made(ordered(x)), ordered(made(x)))
    # but pixels do see each other
    x2 = x.clone()
    x2[:, :, 0, 0] += 3
    assert not torch.equal(made(x2)[:, :, 1:], made(x)[:, :, 1:])


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_its_products_are_accumulates(heads: int) -> None:
    made = attention(heads=heads)
    x = torch.randn(4, 8, 2, 6) * 2
    with Meter(made) as meter, torch.no_grad():
        made(x)
    counts = meter.counts(images=2)
    assert counts.macs == 0
    spikes = made.act(x)
    ops = {row.name: row.ops * 2 for row in counts.layers}
    dense = {row.name: row.dense_macs * 2 for row in counts.layers}
    # A spike of a key or a value: one sum for each of the 12 pixels.
    assert ops["scores"] == 12 * made.key(spikes).sum()
    assert ops["mixing"] == 12 * made.value(spikes).sum()
    assert ops["query.0"] == ops["key.0"] == 8 * spikes.sum()
    assert dense["scores"] == dense["mixing"] == 4 * 12 * 12 * 8


def test_off_by_default_and_then_nothing_changes() -> None:
    plain, own = denoiser(0), system.Config(**WIDTHS)
    assert own.attention_heads == 0
    assert "attention_heads" not in storable(system.Config, vars(own))
    assert storable(system.Config, {**vars(own), "attention_heads": 2})["attention_heads"] == 2
    assert len(plain.net.middle) == 2
    assert not any(isinstance(m, SpikingAttention) for m in plain.net.modules())


def test_it_learns_and_matters() -> None:
    made = denoiser(2)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4])
    made.net(x, t).square().mean().backward()
    inside = made.net.middle[1]
    assert isinstance(inside, SpikingAttention)
    weights = [p for name, p in inside.named_parameters() if name.endswith("weight")]
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)
    with torch.no_grad():
        before = made.net(x, t)
        inside.bn.weight.zero_()
        inside.bn.bias.zero_()
        torch.testing.assert_close(inside(torch.ones(2, 16, 4, 4)), torch.ones(2, 16, 4, 4))
        assert not torch.allclose(made.net(x, t), before)


@pytest.mark.parametrize("engine", ["exact", "fast"])
def test_the_engine_leaves_it_to_the_network(engine: str) -> None:
    made, plain = denoiser(2), denoiser(0)
    assert preparable(plain.net)
    assert not preparable(made.net)
    options = {"sampler": "ddim", "steps": 3}
    drawn = made.sample([1, 2], {**options, "engine": engine})
    assert torch.equal(drawn, made.sample([1, 2], {**options, "engine": "plain"}))


def test_tsm_starts_equal_to_a_parent_with_attention() -> None:
    parent = denoiser(2)
    child = denoiser(2, tsm, seed=1, parent=parent)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([5, 50, 500])
    torch.testing.assert_close(child.net(x, t), parent.net(x, t))
    assert {f"middle.1.{name}" for name in ("query.0", "key.0", "value.0", "project")} <= set(
        tsm.scales(child.net)
    )
    with pytest.raises(ValueError, match="attention_heads=4: the parent has 2"):
        denoiser(4, tsm, parent=parent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(attention_heads=3), r"attention_heads=3: expected 0 \(none\) or a divisor of .* 16 "),
        (dict(attention_heads=-1), "attention_heads=-1: expected 0"),
        (dict(attention_heads=True), "attention_heads=True: expected 0"),
        (dict(attention_heads=2, activation="relu", time_steps=1), "'relu' sends others"),
        (dict(attention_heads=2, activation="rate_if"), "'rate_if' sends others"),
        (dict(attention_heads=2, activation="integer_if", time_steps=1), "'integer_if' sends"),
    ],
)
def test_what_cannot_be_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(UNetConfig(**{"channels": 8, "multipliers": (1, 2), **options}))
