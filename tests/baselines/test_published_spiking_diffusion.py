"""Spiking-Diffusion's autoencoder and denoiser, as the authors' code computed them."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.spiking_diffusion import system as spiking_diffusion
from baselines.spiking_diffusion.absorbing import Weighting, mask_codes, masked_loss, uncover
from baselines.spiking_diffusion.autoencoder import spike_train_loss, vector_loss
from sddpm.protocol import ImageShape
from tests.support import golden

RULES = [
    (r"^((?:en|de)coder)\.snn_convs\.([036])\.", lambda m: f"{m[1]}.layers.{int(m[2]) // 3}.conv."),
    (r"^((?:en|de)coder)\.snn_convs\.([147])\.", lambda m: f"{m[1]}.layers.{int(m[2]) // 3}.norm."),
    (r"^vq_layer\.alpha$", lambda m: "encoder.mixing"),
    (r"^vq_layer\.embeddings\.", lambda m: "decoder.codebook."),
    (r"^vq_layer\.poisson\.0\.", lambda m: "decoder.generate.conv."),
    (r"^vq_layer\.poisson\.1\.", lambda m: "decoder.generate.norm."),
    (r"^conv1\.0\.", lambda m: "enter.conv."),
    (r"^conv1\.1\.", lambda m: "enter.norm."),
    (r"^conv([2-5])\.0\.", lambda m: f"layers.{int(m[1]) - 2}.conv."),
    (r"^conv([2-5])\.1\.", lambda m: f"layers.{int(m[1]) - 2}.norm."),
    (r"^conv6\.0\.", lambda m: "leave."),
]


def renamed(name: str) -> str:
    """Our name of a published tensor."""
    (rule,) = [rule for rule in RULES if re.search(rule[0], name)]
    return re.sub(*rule, name).replace("decoder.layers.2.conv.", "decoder.layers.2.")


@pytest.fixture(scope="module")
def recorded() -> dict:
    return golden.read("spiking_diffusion")


@pytest.fixture
def system() -> spiking_diffusion.SpikingDiffusion:
    return spiking_diffusion.build(spiking_diffusion.Config(), ImageShape(1, 28))


def load(module: nn.Module, part: dict) -> None:
    weights = {**golden.draw(part["parameters"], part["first"]), **part["buffers"]}
    golden.load(module, {renamed(name): value for name, value in weights.items()})


def check_gradients(module: nn.Module, training: dict) -> None:
    found = {name: value.grad for name, value in module.named_parameters()}
    wanted = {renamed(name): value for name, value in training["gradients"].items()}
    golden.gradients_agree(found, wanted, 1e-4)
    norms = {renamed(name): value for name, value in training["gradient_norms"].items()}
    golden.norms_agree(found, norms)


def test_the_autoencoders_training_pass(
    recorded: dict, system: spiking_diffusion.SpikingDiffusion
) -> None:
    part, net = recorded["autoencoder"], system.autoencoder.train()
    load(net, part)
    wanted = part["training"]["outputs"]
    images = 2 * part["x"] - 1
    passed = net(images)
    assert torch.equal(passed.codes, wanted["codes"])
    assert torch.equal(passed.encoded.detach().to(torch.uint8), wanted["encoder_spikes"])
    assert torch.equal(passed.generated.detach().to(torch.uint8), wanted["generated_spikes"])
    assert golden.distance(passed.vectors.detach().movedim(1, -1), wanted["vectors"]) < 1e-5
    assert golden.distance(passed.rebuilt.detach(), wanted["rebuilt"]) < 1e-5

    mse = functional.mse_loss(passed.rebuilt, images / 2)
    both = vector_loss(passed.vectors, passed.quantised)
    both = both + spike_train_loss(passed.encoded, passed.generated)
    loss = mse / recorded["config"]["data_variance"] + both
    assert mse.item() == pytest.approx(wanted["mse"], rel=1e-5)
    assert both.item() == pytest.approx(wanted["loss_vq_and_spikes"], rel=1e-5)
    assert loss.item() == pytest.approx(wanted["loss"], rel=1e-5)
    loss.backward()
    check_gradients(net, part["training"])


def test_the_autoencoders_evaluation(
    recorded: dict, system: spiking_diffusion.SpikingDiffusion
) -> None:
    part, net = recorded["autoencoder"], system.autoencoder.eval()
    load(net, part)
    with torch.no_grad():
        codes = net.encode(2 * part["x"] - 1)
        decoder = net.decoder
        rebuilt = decoder.render(decoder.generate(decoder.look_up(codes)))
    assert torch.equal(codes, part["evaluation"]["codes"])
    assert golden.distance(rebuilt, part["evaluation"]["rebuilt"]) < 1e-5


WEIGHTINGS: list[Weighting] = ["reweighted", "elbo"]


def test_the_denoisers_pass_and_its_losses(
    recorded: dict, system: spiking_diffusion.SpikingDiffusion
) -> None:
    part, net, config = recorded["denoiser"], system.denoiser, recorded["config"]
    load(net, part)
    wanted, steps, mask = part["training"]["outputs"], config["num_timesteps"], config["mask_id"]
    codes, t = part["codes"].flatten(1), part["t"]
    noisy = mask_codes(codes, t, part["uniform"].flatten(1), steps=steps, mask=mask)
    assert torch.equal(noisy, wanted["x_t"].flatten(1))
    grid = noisy.view(-1, 7, 7)
    with torch.no_grad():
        assert golden.distance(net.eval()(grid, t), part["evaluation_logits"]) < 1e-5
    logits = net.train()(grid, t)
    assert golden.distance(logits.detach(), wanted["logits"]) < 1e-5

    def loss(weighting: Weighting) -> Tensor:
        return masked_loss(
            logits.flatten(2), codes, noisy, t, steps=steps, mask=mask, weighting=weighting
        )

    for weighting in WEIGHTINGS:
        assert loss(weighting).item() == pytest.approx(wanted[f"loss_{weighting}"], rel=1e-5)
    loss("reweighted").backward()
    check_gradients(net, part["training"])


def test_greedy_codes(recorded: dict, system: spiking_diffusion.SpikingDiffusion) -> None:
    """Six steps from a full mask; next to no temperature is the largest logit."""
    part, net, mask = recorded["denoiser"], system.denoiser.eval(), recorded["config"]["mask_id"]
    load(net, part)
    greedy = part["greedy"]
    codes = torch.full((2, 49), mask)
    for t in range(greedy["steps"], 0, -1):
        with torch.no_grad():
            logits = net(codes.view(-1, 7, 7), torch.full((2,), t)).flatten(2)
        chosen = greedy["uniform"][t - 1].flatten(1)
        uniform = torch.stack([chosen, torch.full_like(chosen, 0.5)])
        codes = uncover(codes, logits, t, uniform, mask=mask, temperature=1e-6)
    assert torch.equal(codes, greedy["codes"].flatten(1))


def test_the_optimiser_is_the_published_one(recorded: dict) -> None:
    facts, config = recorded["facts"], spiking_diffusion.Config()
    assert config.learning_rate == facts["lr"]
    assert config.weight_decay == facts["weight_decay"]
