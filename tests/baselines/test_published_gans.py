"""SGAN, SWGAN and SGAD, as their authors' code computed and updated them."""

from __future__ import annotations

import re
from functools import cache
from types import ModuleType

import pytest
import torch
from torch import Tensor

from baselines.gans import sgad, sgan, swgan
from baselines.gans.training import SpikingGAN
from sddpm.protocol import ImageShape
from tests.support import golden

ALL = pytest.mark.parametrize("module", [sgan, swgan, sgad], ids=lambda m: m.__name__)


def generator_name(name: str) -> str:
    """The name that our generators give to a published tensor; two levels, as at 28 pixels."""
    for pattern, ours in (
        (r"^fc(\d)\.", r"stack.fc\1.layer."),
        (r"^br(\d)\.0\.", r"stack.fc\1.norm."),
        (r"^conv1\.0\.", "stack.levels.0.layer."),
        (r"^conv1\.1\.", "stack.levels.0.norm."),
        (r"^conv2\.0\.", "stack.last."),
        (r"^conv2\.2\.scoring_function\.W_q\.", "scoring.query."),
        (r"^conv2\.2\.scoring_function\.W_k\.", "scoring.key."),
    ):
        if re.search(pattern, name):
            return re.sub(pattern, ours, name)
    raise KeyError(name)


def critic_name(name: str) -> str:
    """The same of the critics."""
    for pattern, ours in (
        (r"^conv(\d)\.0\.", r"conv\1.layer."),
        (r"^conv(\d)\.1\.", r"conv\1.norm."),
        (r"^fc(\d)\.0\.", r"fc\1."),
        (r"^net\.0\.", "fc1."),
        (r"^net\.2\.", "fc2."),
    ):
        if re.search(pattern, name):
            return re.sub(pattern, ours, name)
    raise KeyError(name)


NAMES = {"net": generator_name, "critic": critic_name}


@cache
def recording(module: ModuleType) -> tuple[dict, dict[str, dict[str, Tensor]]]:
    """What was recorded, and each player's weights by our names."""
    recorded = golden.read(module.__name__.split(".")[-1])
    weights = {}
    for player, letter in (("net", "G"), ("critic", "D")):
        drawn = golden.draw(recorded[f"net_{letter}"], recorded[f"first_{letter}"])
        weights[player] = {NAMES[player](name): value for name, value in drawn.items()}
    return recorded, weights


def open_recorded(module: ModuleType) -> tuple[dict, SpikingGAN]:
    recorded, weights = recording(module)
    system = module.build(module.Config(), ImageShape(1, 28)).train()
    for player, ours in weights.items():
        golden.load(getattr(system, player), ours, ("running_mean", "running_var"))
    return recorded, system


def probabilities(module: ModuleType, scores: Tensor) -> Tensor:
    """What the published critic gives: SGAN's has a sigmoid, ours has it in the loss."""
    return scores.sigmoid() if module is sgan else scores


@ALL
def test_images_and_scores(module: ModuleType) -> None:
    recorded, system = open_recorded(module)
    forward = recorded["forward"]
    output = system.net(recorded["z"])
    if module is sgan:
        assert torch.equal(output.detach().to(torch.uint8), forward["spikes"])
    images = system.pictures(output).detach()
    assert golden.distance(images, forward["images"]) < 1e-5
    for given, scores in ((recorded["x"], "score_real"), (output.detach(), "score_fake")):
        ours = probabilities(module, system.critic(given)).detach()
        assert golden.distance(ours, forward[scores]) < 1e-6

    loss = system.generator_loss(system.critic(system.net(recorded["z"])))
    alone = recorded["generator_alone"]
    loss.backward()
    assert loss.item() == pytest.approx(alone["loss"], rel=1e-4)
    found = {name: value.grad for name, value in system.net.named_parameters()}
    wanted = {generator_name(name): value for name, value in alone["gradients"].items()}
    golden.gradients_agree(found, wanted, 2e-4)
    norms = {generator_name(name): value for name, value in alone["gradient_norms"].items()}
    golden.norms_agree(found, norms)


@ALL
def test_one_update_of_both_players(module: ModuleType) -> None:
    """SGAN's critic starts afresh for the generated images, which the recording has as well."""
    recorded, system = open_recorded(module)
    wanted = recorded["step_with_reset" if module is sgan else "step"]
    step = golden.RecordedStep(system, recorded["z"])
    losses = system.train_step(2 * recorded["x"] - 1, step)
    assert losses["critic"].item() == pytest.approx(wanted["losses"]["critic_loss"], rel=1e-4)
    assert losses["generator"].item() == pytest.approx(wanted["losses"]["generator_loss"], rel=1e-4)
    for player, theirs in (("critic", wanted["critic"]), ("net", wanted["generator"])):
        rename, found = NAMES[player], step.gradients[player]
        gradients = {rename(name): value for name, value in theirs["gradients"].items()}
        golden.gradients_agree(found, gradients, 2e-4)
        norms = {rename(name): value for name, value in theirs["gradient_norms"].items()}
        golden.norms_agree(found, norms)
        state = getattr(system, player).state_dict()
        # RMSprop's first step moves an element by ten times the rate, whatever its gradient, so
        # those with next to none may go either way.
        for name, after in theirs["after"].items():
            gradient = theirs["gradients"][name].abs()
            solid = gradient > 1e-3 * gradient.max()
            off = (state[rename(name)].double() - after).abs()
            assert off[solid].max() < (1e-6 if player == "critic" else 1e-4), name
            assert off.max() < 5e-3, name


def test_sgans_published_update_carries_membranes_over() -> None:
    """The recording of the update as shipped is another one, which the gradients tell."""
    recorded, system = open_recorded(sgan)
    step = golden.RecordedStep(system, recorded["z"])
    system.train_step(2 * recorded["x"] - 1, step)
    shipped = recorded["step"]["critic"]["gradients"]
    apart = [
        golden.distance(step.gradients["critic"][critic_name(name)], theirs) / theirs.abs().max()
        for name, theirs in shipped.items()
    ]
    assert 5e-4 < max(apart) < 1e-2


@ALL
def test_step_sizes_are_the_published_ones(module: ModuleType) -> None:
    facts, config = golden.read(module.__name__.split(".")[-1])["facts"], module.Config()
    assert config.learning_rate == facts["lr_G"]
    assert config.critic_learning_rate == facts["lr_D"]
    system = module.build(config, ImageShape(1, 28))
    for optimizer in system.optimizers.values():
        (group,) = optimizer.param_groups
        assert (group["alpha"], group["eps"]) == (facts["alpha"], facts["eps"])
        assert (group["momentum"], group["weight_decay"]) == (0, 0)
