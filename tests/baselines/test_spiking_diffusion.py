"""Spiking-Diffusion: sizes, losses by hand, and the training in two stages."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from baselines.spiking_diffusion import system as spiking_diffusion
from baselines.spiking_diffusion.autoencoder import (
    Encoder,
    Sizes,
    SpikingConv,
    VQAutoencoder,
    nearest,
    perplexity,
    spike_train_loss,
    vector_loss,
)
from sddpm.checkpoint import count_parameters
from sddpm.protocol import ImageShape, to_float
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages

SMOKE = spiking_diffusion.Config(**spiking_diffusion.PRESETS["smoke"])


def train(steps: int, folder: Path, **options) -> tuple[spiking_diffusion.SpikingDiffusion, dict]:
    images = GeneratedImages(64)
    torch.manual_seed(0)
    system = spiking_diffusion.build(replace(SMOKE, **options), images.shape)
    config = TrainConfig(steps=steps, batch_size=16, log_every=1)
    report = fit(system, images, config=config, folder=folder, description={}, progress=False)
    return system.eval(), report.losses


# Sizes.


def test_parameters_are_the_published_ones() -> None:
    system = spiking_diffusion.build(spiking_diffusion.Config(), ImageShape(1, 28))
    assert count_parameters(system.autoencoder) == 50_658
    assert count_parameters(system.denoiser) == 3_101_504
    encoder = count_parameters(system.autoencoder.encoder)
    assert count_parameters(system.generator) == 50_658 - encoder + 3_101_504
    assert system.diffusion_steps == 49


def test_only_the_first_layers_read_real_numbers() -> None:
    net = spiking_diffusion.build(SMOKE, ImageShape(3, 32)).net
    reads = {name: m.reads for name, m in net.named_modules() if hasattr(m, "reads")}
    real = {name for name, kind in reads.items() if kind == "real"}
    assert real == {"denoiser.enter.conv", "decoder.generate.conv"}


# Autoencoder.


def test_vectors_mix_the_leaky_membrane_and_the_rate() -> None:
    encoder = Encoder(Sizes((2, 2), 1, 4, 3), 1)
    encoder.layers = torch.nn.Identity()
    encoder.encode = None
    spikes = torch.tensor([2.0, 0.0, 2.0])[:, None, None, None]  # halved below: 1, 0, 1
    with torch.no_grad():
        encoder.mixing.fill_(0.25)
        # One image whose three "spiking steps" come out of the identity.
        vectors = encoder(spikes)[1]
    expected = 0.75 * (0.8**2 + 1) + 0.25 * 2 / 3
    assert vectors.item() == pytest.approx(expected)


def test_nearest_is_by_squared_distance() -> None:
    entries, vectors = torch.randn(7, 3), torch.randn(2, 3, 4, 5)
    expected = torch.cdist(vectors.movedim(1, -1).reshape(-1, 3), entries).argmin(1)
    assert torch.equal(nearest(vectors, entries).flatten(), expected)


def test_vector_loss_by_hand() -> None:
    h, q = (
        torch.tensor([1.0, 2.0], requires_grad=True),
        torch.tensor([0.0, 4.0], requires_grad=True),
    )
    loss = vector_loss(h, q)
    assert loss.item() == pytest.approx(1.25 * (1 + 4) / 2)
    loss.backward()
    assert q.grad is not None
    assert h.grad is not None
    assert q.grad.tolist() == [-1.0, 2.0]  # 2 (q - h) / 2
    assert h.grad.tolist() == [0.25, -0.5]


def test_spike_train_loss_by_hand() -> None:
    # PSPs of the encoder's spikes 1 0: .5 .25; of the generator's 0 1: 0 .5.
    s = torch.tensor([1.0, 0.0], requires_grad=True)
    g = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = spike_train_loss(s, g)
    assert loss.item() == pytest.approx(1.25 * (0.25 + 0.0625) / 2)
    loss.backward()
    assert g.grad is not None
    assert s.grad is not None
    # d/dg of ((p0 + .5)^2 + (p1 - .25)^2)/2, p0 = g0/2, p1 = g0/4 + g1/2.
    torch.testing.assert_close(g.grad, torch.tensor([-0.5 / 2 + 0.25 / 4, 0.25 / 2]))
    torch.testing.assert_close(s.grad, -0.25 * g.grad)


def test_the_encoders_gradient_passes_straight_through() -> None:
    net = VQAutoencoder(Sizes((4, 8), 6, 5, 3), ImageShape(1, 8)).train()
    vectors: list[Tensor] = []
    entered: list[Tensor] = []
    net.encoder.register_forward_hook(lambda m, i, o: vectors.append(o[1]))
    net.decoder.generate.register_forward_pre_hook(lambda m, i: entered.append(i[0]))
    passed = net(torch.rand(4, 1, 8, 8) * 2 - 1)
    for x in (*vectors, *entered):
        x.retain_grad()
    passed.rebuilt.square().sum().backward()
    torch.testing.assert_close(entered[0], passed.quantised)  # the decoder sees the entries
    assert entered[0].grad is not None
    assert entered[0].grad.abs().sum() > 0
    torch.testing.assert_close(vectors[0].grad, entered[0].grad)
    assert net.decoder.codebook.weight.grad is None


def test_perplexity_counts_codes_in_use() -> None:
    assert perplexity(torch.zeros(10, dtype=torch.long), 8).item() == pytest.approx(1)
    assert perplexity(torch.tensor([[3, 5], [5, 3]]), 8).item() == pytest.approx(2)


def test_running_statistics_start_as_a_plain_average() -> None:
    block = SpikingConv(torch.nn.Conv2d(1, 1, 1, bias=False), 2).train()
    torch.nn.init.ones_(block.conv.weight)
    for value, expected in [(4.0, 4.0), (0.0, 2.0), (0.0, 4 / 3)]:
        block(torch.full((4, 1, 3, 3), value))
        assert block.norm.running_mean is not None
        assert block.norm.running_mean.item() == pytest.approx(expected)


# The whole.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("trained")
    return train(290, folder, learning_rate=5e-3, autoencoder_share=0.6)


def test_it_learns_and_codes_depend_on_the_image(trained: tuple) -> None:
    system, losses = trained
    images = to_float(GeneratedImages(64).images)
    rebuilt = system.reconstruct(images)
    spread = (images - images.mean(0)).square().mean()
    assert (rebuilt - images).square().mean() < 0.5 * spread
    assert losses["perplexity"] > 3


@torch.no_grad()
def test_the_denoiser_reads_the_uncovered_codes(trained: tuple) -> None:
    system, _ = trained
    grid = system.autoencoder.encode(to_float(GeneratedImages(64).images))
    once = torch.ones(len(grid), dtype=torch.long)

    def bits(others: Tensor) -> float:
        """Of a code, where the codes around it are those of ``others``."""
        total = 0.0
        for y, x in itertools.product((0, 1), repeat=2):
            noisy = others.clone()
            noisy[:, y, x] = SMOKE.codes
            logits = system.denoiser(noisy, once)[:, :, y, x]
            total += functional.cross_entropy(logits, grid[:, y, x]).item() / math.log(2)
        return total / 4

    assert bits(grid) < math.log2(SMOKE.codes) - 1  # better than guessing
    assert bits(grid) < bits(grid.roll(1, 0)) - 0.15  # than with another image's codes


def test_samples_are_made_of_codes(trained: tuple) -> None:
    system, _ = trained
    seen: list[Tensor] = []
    handle = system.net.decoder.codebook.register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    images = system.sample(range(16))
    handle.remove()
    assert seen[0].shape == (16, 2, 2)
    assert seen[0].max() < SMOKE.codes  # no mask is left
    torch.testing.assert_close(images, system.autoencoder.decoder(seen[0]))


def test_the_second_stage_leaves_the_autoencoder_alone(tmp_path: Path) -> None:
    images = GeneratedImages(64)
    system = spiking_diffusion.build(SMOKE, images.shape)
    states: list[dict[str, Tensor]] = []
    stages: list[set[str]] = []
    inner = system.train_step

    def watched(batch: Tensor, step) -> dict[str, Tensor]:
        losses = inner(batch, step)
        states.append({k: v.clone() for k, v in system.autoencoder.state_dict().items()})
        stages.append(set(losses))
        return losses

    system.train_step = watched  # type: ignore[method-assign]
    config = TrainConfig(steps=6, batch_size=8)
    fit(system, images, config=config, folder=tmp_path, description={}, progress=False)
    assert ["bits" in losses for losses in stages] == [False, False, True, True, True, True]
    assert not torch.equal(states[0]["encoder.mixing"], states[1]["encoder.mixing"])
    for key, value in states[1].items():
        assert torch.equal(value, states[-1][key]), key


class Stops(GeneratedImages):
    """Raises where a kill would come."""

    left = 0

    def __getitems__(self, indices: list[int]) -> Tensor:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__getitems__(indices)


def test_a_resumed_training_is_the_whole_one(tmp_path: Path) -> None:
    """Stopped in the first stage, between the two, and in the second; codes are revived."""
    whole, _ = train(9, tmp_path / "whole", revive_after=1)
    images, folder = Stops(64), tmp_path / "parts"
    config = TrainConfig(steps=9, batch_size=16, log_every=1, checkpoint_seconds=0)
    done = 0
    for more in (2, 1, 3, 99):
        images.left = more
        torch.manual_seed(0)
        system = spiking_diffusion.build(replace(SMOKE, revive_after=1), images.shape)
        try:
            fit(system, images, config=config, folder=folder, description={}, progress=False)
        except KeyboardInterrupt:
            done += more
            assert (folder / "steps" / f"step-{done:09d}").is_dir()
    assert done == 6
    for key, value in whole.state_dict().items():
        assert torch.equal(value, system.state_dict()[key]), key


def test_the_step_size_falls_in_each_stage() -> None:
    system = spiking_diffusion.build(replace(SMOKE, decay="linear"), ImageShape(1, 8))
    rates: list[tuple[int, float]] = []
    system._train_autoencoder = lambda images, step, rate: rates.append((1, rate))
    system._train_denoiser = lambda images, step, rate: rates.append((2, rate))
    for number in range(6):
        system.train_step(torch.zeros(1), SimpleNamespace(number=number, total=6))
    expected = [(1, 1), (1, 1 / 2), (2, 1), (2, 3 / 4), (2, 2 / 4), (2, 1 / 4)]
    assert rates == [(stage, pytest.approx(share * 1e-3)) for stage, share in expected]


def test_the_variance_is_that_of_all_pixels_so_far() -> None:
    system = spiking_diffusion.build(SMOKE, ImageShape(1, 8))
    batches = torch.rand(3, 4, 1, 8, 8)
    for batch in batches:
        variance = system._variance(batch)
    torch.testing.assert_close(variance, (batches / 2).var(unbiased=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(codes=1), "codes=1: expected at least 2"),
        (dict(autoencoder_share=1.0), r"autoencoder_share=1\.0: expected a number between"),
        (dict(temperature=0.0), r"temperature=0\.0: expected a number above 0"),
        (dict(decay="cosine"), "decay='cosine': expected 'constant' or 'linear'"),
        (dict(weighting="plain"), "weighting='plain': expected 'reweighted' or 'elbo'"),
        (dict(time_steps=0), "time_steps=0"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spiking_diffusion.build(spiking_diffusion.Config(**options), ImageShape(1, 8))
    with pytest.raises(ValueError, match="image size 30: expected a multiple of 4"):
        spiking_diffusion.build(SMOKE, ImageShape(1, 30))
