"""A training whose steps draw their number of spiking time steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines import ann_twin
from sddpm import taught
from sddpm.mixed_time import check_mixed, drawn, running_at
from sddpm.plus import Config, build
from sddpm.protocol import ImageShape
from sddpm.training import TrainConfig, fit
from sddpm.unet import UNet, UNetConfig
from tests.support.images import GeneratedImages

SHAPE = ImageShape(1, 8)
SMALL = Config(channels=8, multipliers=(1, 2), blocks=1)


def made(time_steps: int, neuron: str = "integer_if", **options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build(replace(SMALL, time_steps=time_steps, neuron=neuron, **options), SHAPE)
    # A head of weight 0 would hide what the network does.
    nn.init.normal_(
        system.net.head.conv.weight, std=0.1, generator=torch.Generator().manual_seed(1)
    )
    return system


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * 3, torch.tensor(
        [3, 300, 900]
    )


def gradients(net: UNet) -> dict[str, Tensor]:
    net.zero_grad()
    net(*inputs()).square().mean().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def read_out(net: UNet, time_steps: int | None = None) -> Tensor:
    """The quantity that the network predicts, before it is turned into noise."""
    kept: list[Tensor] = []
    hook = net.readout.register_forward_hook(lambda module, given, out: kept.append(out.detach()))
    with nullcontext() if time_steps is None else running_at(net, time_steps):
        net(*inputs())
    hook.remove()
    return kept[0]


@pytest.mark.parametrize("neuron", ["integer_if", "if", "lif", "plif", "soft_if", "ternary_if"])
@pytest.mark.parametrize("other", [2, 8])
def test_inside_the_context_the_network_is_one_that_was_built_with_the_other_number(
    neuron: str, other: int
) -> None:
    net, built = made(4, neuron).net.train(), made(other, neuron).net.train()
    before = read_out(net)
    # The read-out keeps the sum of its weights: 1, 0.8, 0.8^2, ... over 4 steps.
    scale = 1.0
    if neuron != "integer_if":
        scale = sum(0.8**s for s in range(4)) / sum(0.8**s for s in range(other))
    inside = read_out(net, other)
    torch.testing.assert_close(inside, scale * read_out(built), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(inside, before, atol=1e-3)
    torch.testing.assert_close(read_out(net), before)


def test_the_gradient_is_that_of_a_network_built_with_the_other_number() -> None:
    net = made(4).net.train()
    with running_at(net, 2):
        output = net(*inputs())
    output.square().mean().backward()  # outside of the context
    for name, wanted in gradients(made(2).net.train()).items():
        torch.testing.assert_close(net.get_parameter(name).grad, wanted, rtol=1e-4, atol=1e-6)


def test_an_error_inside_the_context_leaves_the_network_as_it_was() -> None:
    net = made(4, "if").net
    weights, steps = net.readout.weights, net.stem.act.time_steps

    def fail() -> None:
        assert net.stem.act.time_steps == 2
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), running_at(net, 2):
        fail()
    assert net.stem.act.time_steps == steps == 4
    assert net.readout.weights is weights


class CountingStep:
    """A training step of one process, or of the second of two."""

    def __init__(self, seed: int, others: int = 0) -> None:
        self.rng, self.others = torch.Generator().manual_seed(seed), others

    def randint(self, high: int, *shape: int) -> Tensor:
        self.all = torch.randint(high, (shape[0] * (1 + self.others),), generator=self.rng)
        return self.all[-shape[0] :]

    def gather(self, values: Tensor) -> Tensor:
        return self.all


def test_all_choices_are_drawn_equally_often_and_alike_in_every_process() -> None:
    choices = (2, 4, 8)
    alone = [drawn(choices, CountingStep(seed)) for seed in range(600)]  # type: ignore[arg-type]
    second = [drawn(choices, CountingStep(seed, 1)) for seed in range(600)]  # type: ignore[arg-type]
    assert alone == second
    # 200 each with a standard deviation of 11.5.
    assert all(abs(count - 200) < 50 for count in Counter(alone).values())
    assert set(alone) == set(choices)


def trained(folder: Path, mixed: Sequence[int], **options: Any) -> Any:
    system = made(4, mixed_time_steps=tuple(mixed), **options)
    config = TrainConfig(steps=6, batch_size=8, seed=5)
    fit(system, GeneratedImages(), config=config, folder=folder, description={}, progress=False)
    return system


def test_a_training_runs_at_the_drawn_numbers_and_samples_at_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = UNet.forward

    def watched(self: Any, x: Tensor, t: Tensor) -> Tensor:
        seen.append(self.stem.act.levels)
        return forward(self, x, t)

    monkeypatch.setattr(UNet, "forward", watched)
    system = trained(tmp_path / "mixed", (2, 8))
    assert set(seen) == {2, 8}
    assert len(seen) == 6
    seen.clear()
    system.eval().sample([0], {"sampler": "ddim", "steps": 2, "engine": "plain"})
    assert seen == [4, 4]


def test_one_choice_is_a_training_with_that_number(tmp_path: Path) -> None:
    mixed = trained(tmp_path / "mixed", (2,))
    plain = made(2)
    config = TrainConfig(steps=6, batch_size=8, seed=5)
    fit(
        plain, GeneratedImages(), config=config, folder=tmp_path / "p", description={},
        progress=False,
    )  # fmt: skip
    for name, weight in plain.net.state_dict().items():
        torch.testing.assert_close(mixed.net.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


def test_a_graph_of_one_number_is_not_replayed_at_another() -> None:
    assert not made(4, mixed_time_steps=(2, 4)).graphable
    assert made(4).graphable == {"net"}


@pytest.mark.parametrize(
    ("neuron", "choices", "message"),
    [
        ("integer_if", (2, 2), "expected different numbers"),
        ("integer_if", (2, 0), "time_steps=0: expected a whole number from 1"),
        ("integer_if", (2, 300), "levels=300: expected a whole number from 1 to 255"),
        ("parallel_if", (2, 4), "ParallelIF has a weight for each spiking step"),
        ("threshold_steps_if", (4,), "ThresholdStepsIF has a weight for each spiking step"),
    ],
)
def test_numbers_that_a_network_cannot_have_are_refused(
    neuron: str, choices: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match="mixed_time_steps=") as caught:
        made(4, neuron, mixed_time_steps=choices)
    assert message in str(caught.value)


def test_scales_of_each_step_are_refused() -> None:
    net = UNet(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, temporal_scaling=True))
    check_mixed(net, ())
    with pytest.raises(ValueError, match="TemporalConv2d has a weight for each spiking step"):
        check_mixed(net, (2, 4))


def test_features_of_a_twin_are_means_over_the_drawn_steps(tmp_path: Path) -> None:
    parent = ann_twin.build(ann_twin.Config(channels=8, multipliers=(1, 2), blocks=1), SHAPE)
    config = taught.Config(
        channels=8, multipliers=(1, 2), blocks=1, neuron="if", start_from_twin=False,
        feature_weight=0.1, mixed_time_steps=(2, 3),
    )  # fmt: skip
    system = taught.build(config, SHAPE, parent)
    report = fit(
        system, GeneratedImages(), config=TrainConfig(steps=4, batch_size=8), folder=tmp_path,
        description={}, progress=False,
    )  # fmt: skip
    assert report.losses["feature_distance"] > 0
