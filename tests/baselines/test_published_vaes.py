"""FSVAE and the VAE beside it, as their authors' code computed them."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from baselines.vaes import fsvae, vae
from baselines.vaes.fsvae import bernoulli_kl, pick
from sddpm.protocol import ImageShape
from tests.support import golden

SHAPE = ImageShape(1, 32)
LEVELS = 4


def fsvae_name(name: str) -> str:
    """The name that ``baselines.vaes.fsvae`` gives to a published layer's tensor."""
    fronts = [
        (rf"^decoder\.{LEVELS}\.", f"generator.decoder.levels.{LEVELS}."),
        (r"^encoder\.", "encoder.levels."),
        (r"^before_latent_layer\.", "encoder.out."),
        (r"^prior\.", "generator.prior."),
        (r"^decoder_input\.", "generator.decoder.read."),
        (r"^decoder\.", "generator.decoder.levels."),
        (r"^final_layer\.0\.", f"generator.decoder.levels.{LEVELS - 1}."),
        (r"^final_layer\.1\.", "generator.decoder.last."),
    ]
    front, ours = next(((f, o) for f, o in fronts if re.search(f, name)), ("^", ""))
    name = re.sub(front, ours, name)
    if ".bn." in name:
        return name.replace(".bn.", ".norm.")
    *path, kind = name.split(".")
    return ".".join([*path, kind] if path[-1] == "last" else [*path, "layer", kind])


@pytest.fixture(scope="module")
def spiking() -> dict:
    return golden.read("fsvae")


@pytest.fixture
def spiking_vae(spiking: dict) -> fsvae.FSVAE:
    system = fsvae.build(fsvae.Config(), SHAPE)
    weights = {**golden.draw(spiking["parameters"], spiking["first"]), **spiking["buffers"]}
    ours = {fsvae_name(name): golden.without_time(value) for name, value in weights.items()}
    golden.load(system.net, ours)
    return system


def time_first(value: Tensor) -> Tensor:
    """``[batch, ..., T]`` as ours, ``[T, batch, ...]``."""
    return value.movedim(-1, 0)


def test_fsvaes_training_pass(spiking: dict, spiking_vae: fsvae.FSVAE) -> None:
    """Spikes, losses and gradients, with the recorded draws in place of the harness's."""
    training, net = spiking["training"], spiking_vae.net.train()
    wanted = training["outputs"]
    picks, jitter = training["picks"].long(), training["jitter_scale"] * training["jitter"]
    rebuilt, posterior, prior = net(spiking["x"], picks, training["replaced"], jitter)
    assert golden.distance(rebuilt.detach(), wanted["recon"]) < 1e-5
    # Fractions of twenty copies that fire: equal if every spike is, or an even number is not.
    for ours, theirs in ((posterior, wanted["q"]), (prior, wanted["p"])):
        fired = (ours * spiking["config"]["k"]).round().long()
        assert torch.equal(fired, time_first(theirs.long().sum(2)))
    assert bernoulli_kl(posterior, prior).item() == pytest.approx(wanted["kl"], rel=1e-5)

    # The same pass, by the system's own step.
    batch_first = (picks.transpose(0, 1), training["jitter"].transpose(0, 1))
    replaced = torch.tensor(training["replaced"]).float()
    never_drawn = (1 - replaced).expand(2, -1)
    step = golden.RecordedStep(spiking_vae, *batch_first, never_drawn)
    losses = spiking_vae.train_step(spiking["x"], step)
    assert losses["reconstruction"].item() == pytest.approx(wanted["recon_loss"], abs=1e-5)
    assert losses["mmd"].item() == pytest.approx(wanted["mmd"], abs=1e-5)
    assert step.losses["net"] == pytest.approx(wanted["loss"], abs=1e-5)
    gradients = {
        fsvae_name(name): golden.without_time(value)
        for name, value in training["gradients"].items()
    }
    golden.gradients_agree(step.gradients["net"], gradients, 1e-4)
    norms = {fsvae_name(name): value for name, value in training["gradient_norms"].items()}
    golden.norms_agree(step.gradients["net"], norms)


def test_fsvaes_evaluation_and_sampling(spiking: dict, spiking_vae: fsvae.FSVAE) -> None:
    net = spiking_vae.net.eval()
    recorded = spiking["evaluation"]
    picks, wanted = recorded["picks"].long(), recorded["outputs"]
    still = torch.zeros(picks.shape)
    with torch.no_grad():
        rebuilt, posterior, prior = net(spiking["x"], picks, [False] * len(picks), still)
    assert golden.distance(rebuilt, wanted["recon"]) < 1e-5
    assert golden.distance(posterior, time_first(wanted["q_mean"])) < 1e-6
    assert golden.distance(prior, time_first(wanted["p_mean"])) < 1e-6

    recorded = spiking["sampling"]
    picks, wanted = recorded["picks"].long(), recorded["outputs"]
    bits = []
    hook = net.generator.decoder.register_forward_pre_hook(lambda _, given: bits.append(given[0]))
    with torch.no_grad():
        images = net.generator(picks)
    hook.remove()
    assert golden.distance(images, wanted["images"]) < 1e-5
    assert torch.equal(bits[0].to(torch.uint8), time_first(wanted["z"]))


def test_fsvaes_bits_are_those_of_the_picked_copies(spiking: dict) -> None:
    training = spiking["training"]
    copies = training["outputs"]["q"].permute(3, 0, 1, 2)
    assert torch.equal(pick(copies, training["picks"].long()), time_first(training["outputs"]["z"]))


def test_fsvaes_optimiser_is_the_published_one(spiking: dict) -> None:
    facts, config = spiking["facts"], fsvae.Config()
    assert config.learning_rate == facts["lr"]
    assert config.weight_decay == facts["weight_decay"]
    assert config.scheduled == (facts["scheduled_first"], facts["scheduled_last"])


def vae_name(name: str) -> str:
    """The name that ``baselines.vaes.vae`` gives to a published layer's tensor."""
    fronts = {
        "encoder.": "encoder.levels.",
        "fc_mu.": "encoder.mean.",
        "fc_var.": "encoder.log_variance.",
        "decoder_input.": "decoder.read.",
        "decoder.": "decoder.levels.",
        "final_layer.3.": "decoder.last.",
        "final_layer.": f"decoder.levels.{LEVELS - 1}.",
    }
    front = next(front for front in fronts if name.startswith(front))
    return fronts[front] + name[len(front) :]


def test_the_vaes_update_and_its_samples() -> None:
    """One update by the defaults, which are the published ones: AdamW decays weights by 0.01."""
    recorded = golden.read("vae")
    weights = {**golden.draw(recorded["parameters"], recorded["first"]), **recorded["buffers"]}
    ours = {vae_name(name): value for name, value in weights.items()}
    config = vae.Config()
    assert config.kl_weight == pytest.approx(recorded["config"]["kld_weight"])
    assert config.weight_decay == recorded["facts"]["weight_decay"]
    system = vae.build(config, SHAPE)
    golden.load(system.net, ours)
    with torch.no_grad():
        images = system.net.eval().decoder(recorded["sampling"]["z"])
    assert golden.distance(images, recorded["sampling"]["images"]) < 1e-4

    training = recorded["training"]
    wanted = training["outputs"]
    system.train()
    golden.load(system.net, ours)
    with torch.no_grad():
        rebuilt, mean, log_variance = system.net(recorded["x"], recorded["noise"])
    assert golden.distance(rebuilt, wanted["recon"]) < 1e-4
    assert golden.distance(mean, wanted["mu"]) < 1e-4
    assert golden.distance(log_variance, wanted["log_var"]) < 1e-4

    golden.load(system.net, ours)  # the pass moved the running statistics
    step = golden.RecordedStep(system, recorded["noise"])
    losses = system.train_step(recorded["x"], step)
    assert losses["reconstruction"].item() == pytest.approx(wanted["recon_loss"], rel=1e-6)
    assert losses["kl"].item() == pytest.approx(wanted["kld"], rel=1e-6)
    assert step.losses["net"] == pytest.approx(wanted["loss"], rel=1e-6)
    gradients = {vae_name(name): value for name, value in training["gradients"].items()}
    golden.gradients_agree(step.gradients["net"], gradients, 1e-4)
    norms = {vae_name(name): value for name, value in training["gradient_norms"].items()}
    golden.norms_agree(step.gradients["net"], norms)
    state = system.net.state_dict()
    for name, after in training["after_one_step"].items():
        solid = training["gradients"][name].abs() > 1e-6
        off = (state[vae_name(name)].double() - after).abs()
        assert off[solid].max() < 2e-6, name
        assert off.max() < 1.1 * config.learning_rate, name
    for name, after in training["running_statistics_after"].items():
        assert golden.distance(state[vae_name(name)], after) < 1e-5, name
