"""The spiking GANs: sizes, neuron and norm against references, losses and read-outs by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from spikingjelly.activation_based import functional, surrogate
from spikingjelly.activation_based.neuron import LIFNode
from torch import Tensor, nn

from baselines.gans import hybrid_gan, sgad, sgan, swgan
from baselines.gans.parts import AttentionScoring, LastMembrane, StepBatchNorm, neuron
from baselines.gans.training import SpikingCritic, SpikingGAN, earth_mover, says
from sddpm.checkpoint import count_parameters
from sddpm.protocol import ImageShape, to_float
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages

ALL = [sgan, swgan, sgad, hybrid_gan]
BLOBS = GeneratedImages(64)


def smoke(module: ModuleType, seed: int = 0, **options: float) -> SpikingGAN:
    torch.manual_seed(seed)
    return module.build(module.Config(**{**module.PRESETS["smoke"], **options}), BLOBS.shape)


# Sizes.


@pytest.mark.parametrize(
    ("module", "shape", "latent", "generator", "critic"),
    [
        (sgad, ImageShape(1, 28), 10, 6_988_865, 1_102_913),
        (sgad, ImageShape(3, 64), 20, 21_711_139, 22_209_153),
        (sgad, ImageShape(2, 28), 10, 8_719_426, 1_103_713),
        (swgan, ImageShape(1, 28), 10, 6_586_945, 1_102_913),
        (swgan, ImageShape(3, 64), 20, 8_602_403, 22_209_153),
        (sgan, ImageShape(1, 28), 100, 6_679_105, 314_401),
    ],
)
def test_parameters_are_those_of_the_published_code(
    module: ModuleType, shape: ImageShape, latent: int, generator: int, critic: int
) -> None:
    system = module.build(module.Config(latent=latent), shape)
    assert count_parameters(system.generator) == generator
    assert count_parameters(system.critic) == critic


def test_the_defaults_are_the_published_ones() -> None:
    for module, latent, rate in ((sgan, 100, 4e-4), (swgan, 10, 2e-4), (sgad, 10, 2e-4)):
        config = module.Config(**module.PRESETS["paper"])
        assert (config.time_steps, config.latent) == (16, latent)
        assert (config.learning_rate, config.critic_learning_rate) == (2e-4, rate)


@pytest.mark.parametrize("size", [8, 28, 32, 64])
@pytest.mark.parametrize("module", ALL, ids=lambda m: m.__name__)
def test_generator_and_critic_meet_at_every_size(module: ModuleType, size: int) -> None:
    shape = ImageShape(3, size)
    system = module.build(module.Config(**module.PRESETS["smoke"]), shape)
    output = system.net(torch.randn(2, system.config.latent))
    assert system.pictures(output).shape == (2, 3, size, size)
    assert system.critic(output).shape == system.critic(torch.rand(2, 3, size, size)).shape == (2,)


def test_only_latents_and_the_scoring_are_real_in_the_generator() -> None:
    net = smoke(sgad).net
    reads = {name: m.reads for name, m in net.named_modules() if hasattr(m, "reads")}
    assert {name for name, kind in reads.items() if kind == "real"} == {
        "stack.fc1.layer",
        "scoring",
    }
    assert {m.layer.weight.shape[0] for m in net.modules() if hasattr(m, "repeat")} == {32}


# Parts.


def test_the_neuron_is_spikingjellys_in_value_and_gradient() -> None:
    reference = LIFNode(
        tau=2.0, decay_input=True, v_threshold=1.0, v_reset=0.0, detach_reset=True,
        surrogate_function=surrogate.ATan(alpha=2.0), step_mode="m",
    )  # fmt: skip
    x = (3 * torch.randn(7 * 5, 40)).requires_grad_()
    ours, theirs = neuron(7)(x), reference(x.unflatten(0, (7, 5))).flatten(0, 1)
    functional.reset_net(reference)
    assert 0.1 < ours.mean() < 0.9
    assert torch.equal(ours, theirs)
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(spikes, x, upstream)[0] for spikes in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_the_threshold_is_strict() -> None:
    # Half of the input is charged: 2 reaches the threshold of 1 and does not pass it.
    assert neuron(1)(torch.tensor([[2.0, 2.001]])).tolist() == [[0.0, 1.0]]


def test_a_membrane_is_read_at_the_last_step() -> None:
    # v: 2, 3, then 1.5 + 0.5 = 2.
    x = torch.tensor([[4.0], [4.0], [1.0]])
    torch.testing.assert_close(LastMembrane(3, divided=False)(x), torch.tensor([[2.0]]))
    torch.testing.assert_close(LastMembrane(3, divided=True)(x), torch.tensor([[2.0 / 3]]))
    # The trap: of a constant c the neuron averages to c, and is divided by T all the same.
    constant = torch.full((16, 1), 80.0)
    torch.testing.assert_close(
        LastMembrane(16, divided=True)(constant), torch.tensor([[5.0]]), rtol=1e-4, atol=0
    )


def test_each_step_is_normalised_by_itself() -> None:
    norm, references = StepBatchNorm(3, 2), [nn.BatchNorm2d(3, momentum=1.0) for _ in range(2)]
    with torch.no_grad():
        for m in (norm, *references):
            m.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            m.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    steps = torch.randn(2, 6, 3, 4, 4) * torch.tensor([1.0, 9.0])[:, None, None, None, None]
    expected = torch.cat([ref(x) for ref, x in zip(references, steps, strict=True)])
    torch.testing.assert_close(norm(steps.flatten(0, 1)), expected)
    # After one batch the running statistics are that batch's, a row a step.
    for row, ref in zip(norm.running_mean, references, strict=True):
        torch.testing.assert_close(row, ref.running_mean)
    expected = torch.cat([ref.eval()(x) for ref, x in zip(references, steps, strict=True)])
    torch.testing.assert_close(norm.eval()(steps.flatten(0, 1)), expected)


def test_running_statistics_average_evenly_then_exponentially() -> None:
    norm = StepBatchNorm(1, 1, momentum=0.5)
    for value, expected in [(4.0, 4.0), (0.0, 2.0), (0.0, 1.0), (0.0, 0.5)]:
        norm(torch.full((4, 1), value))
        assert norm.running_mean.item() == expected


def test_attention_scoring_by_hand() -> None:
    scoring = AttentionScoring(3, ImageShape(1, 1), width=4)
    with torch.no_grad():
        for layer, weight, bias in ((scoring.query, 2.0, 0.0), (scoring.key, 1.0, 1.0)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    frames = torch.tensor([0.5, 1.0, 0.25]).view(3, 1, 1, 1)
    # q = 2 m, k = x + 1 in each of four dimensions, over sqrt(4): the scores are 4 m (x + 1).
    m = 0.5
    for y in (1.0, 0.25):
        w1, w2 = math.exp(4 * m * (m + 1)), math.exp(4 * m * (y + 1))
        m = (w1 * m + w2 * y) / (w1 + w2)
    assert scoring(frames).item() == pytest.approx(m, rel=1e-5)
    assert AttentionScoring(1, ImageShape(1, 1))(frames[:1]).item() == 0.5


def test_attention_scoring_of_colour_follows_its_definition() -> None:
    scoring = AttentionScoring(4, ImageShape(3, 2), width=8, projected=5)
    frames = torch.rand(4, 6, 3, 2, 2)

    def f(images: Tensor) -> Tensor:
        return scoring.project[0](images.flatten(1)).relu()

    m = frames[0]
    for y in frames[1:]:
        q, k1, k2 = scoring.query(f(m)), scoring.key(f(m)), scoring.key(f(y))
        scores = torch.stack([(q * k1).sum(1), (q * k2).sum(1)]) / math.sqrt(8)
        w = scores.exp() / scores.exp().sum(0)
        m = w[0, :, None, None, None] * m + w[1, :, None, None, None] * y
    torch.testing.assert_close(scoring(frames.flatten(0, 1)), m)


def test_a_spiking_critic_forgets_the_images_before() -> None:
    """There, SGAN's fake pass started from the membranes that the real pass had left."""
    config = sgad.Config(time_steps=4, critic_channels=8, critic_hidden=32)
    for critic in (SpikingCritic(config, BLOBS.shape).eval(), smoke(sgan).critic):
        x = torch.rand(2, 1, 8, 8)
        first = critic(x)
        critic(torch.rand(2, 1, 8, 8))
        assert torch.equal(critic(x), first)


@pytest.mark.parametrize("module", [swgan, sgad, hybrid_gan])
def test_a_critic_with_spectral_norm_is_bounded(module: ModuleType) -> None:
    """Its last map moves a score by no more than its input moves, however long it is trained."""
    config = module.Config(**{**module.PRESETS["smoke"], "critic_norm": "spectral"})
    system = module.build(config, BLOBS.shape)
    critic = system.critic.train()
    optimizer = system.optimizers["critic"]
    last = critic.last if module is hybrid_gan else critic.fc2
    images = torch.rand(8, 1, 8, 8)
    for _ in range(30):
        optimizer.zero_grad()
        (critic(images).mean() - critic(1 - images).mean()).backward()
        optimizer.step()
    assert torch.linalg.matrix_norm(last.weight.flatten(1), 2) <= 1.02
    plain = module.build(module.Config(**module.PRESETS["smoke"]), BLOBS.shape).critic
    assert not any("parametrizations" in name for name, _ in plain.named_parameters())


def test_sgans_critic_takes_an_image_as_its_frames() -> None:
    system = smoke(sgan)
    x = torch.rand(3, 1, 8, 8)
    frames = x.expand(system.config.time_steps, *x.shape)
    torch.testing.assert_close(system.critic(frames), system.critic(x))


# Losses.


def test_losses_by_hand() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.0])
    assert earth_mover(real, fake).item() == 3.0  # low says real: this critic is wrong
    system = smoke(sgad)
    assert system.critic_loss(real, fake).item() == 3.0
    assert system.generator_loss(fake).item() == -1.0
    # Cross entropy: -log sigmoid(x) for real, -log(1 - sigmoid(x)) for fake, summed and halved.
    log = math.log1p
    of_real, of_fake = log(math.exp(-1)) + log(math.exp(-3)), log(math.exp(-2)) + log(1.0)
    as_real = log(math.exp(2)) + log(1.0)
    system = smoke(sgan)
    assert system.critic_loss(real, fake).item() == pytest.approx((of_real + of_fake) / 2)
    assert system.generator_loss(fake).item() == pytest.approx(as_real)
    assert says(fake, True).item() == pytest.approx(as_real / 2)


class Recorder:
    """A step that descends at once and remembers what it was asked for."""

    number, total = 0, 1

    def __init__(self, system: SpikingGAN) -> None:
        self.system, self.updates, self.drawn = system, [], []

    def module(self, name: str) -> nn.Module:
        return getattr(self.system, name)

    def randn(self, *shape: int) -> Tensor:
        self.drawn.append(torch.randn(shape))
        return self.drawn[-1]

    def update(self, name: str, loss: Tensor, *, lr: float, clip: float | None = None) -> None:
        self.system.zero_grad()
        loss.backward()
        grads = {k: p.grad for k, p in self.system.named_parameters() if p.grad is not None}
        self.updates.append((name, lr, {k for k, g in grads.items() if g.abs().max() > 0}))
        self.system.optimizers[name].step()


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.__name__)
def test_one_step_is_one_update_of_each(module: ModuleType) -> None:
    system = smoke(module, critic_learning_rate=3e-4).train()
    if hasattr(system.critic, "fc1"):  # silent at first, as published: its inputs are below 1
        with torch.no_grad():
            system.critic.fc1.weight.mul_(20)
    step = Recorder(system)
    losses = system.train_step(to_float(BLOBS.images[:16]), step)
    rate = system.config.learning_rate
    assert [update[:2] for update in step.updates] == [("critic", 3e-4), ("net", rate)]
    assert len(step.drawn) == 1  # both on the same latents
    of_critic, of_net = (update[2] for update in step.updates)
    assert all(name.startswith("critic.") for name in of_critic)
    every = {name for name, _ in system.named_parameters()}
    # Biases that a norm or a difference takes out again.
    idle = {name for name in every if name.endswith((".layer.bias", "fc2.bias", "key.bias"))}
    assert {n for n in every if n.startswith("critic.")} - idle <= of_critic | NORMED
    assert {n for n in every if n.startswith("net.")} - idle <= of_net
    assert all(not value.requires_grad for value in losses.values())


NORMED = {f"critic.levels.{level}.0.bias" for level in (1, 2, 3)}
"""Of the discriminator: biases in front of a norm, whose gradients are rounding only."""


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.__name__)
def test_evaluation_looks_like_training_and_the_images_move_to_the_data(
    module: ModuleType, tmp_path: Path
) -> None:
    """Silence, running statistics of another thing, or a wrong sign would show here."""
    real = (to_float(BLOBS.images) + 1) / 2
    system = smoke(module, learning_rate=1e-2, critic_learning_rate=1e-3)
    with torch.no_grad():
        before = error(system, real)
    config = TrainConfig(steps=60, batch_size=16, log_every=1)
    report = fit(system, BLOBS, config=config, folder=tmp_path, description={}, progress=False)
    with torch.no_grad():
        z = torch.randn(256, system.config.latent)
        trained = system.pictures(system.net.train()(z)).mean(0)
        evaluated = system.pictures(system.net.eval()(z)).mean(0)
        assert error(system, real) < 0.75 * before
    assert (trained - evaluated).abs().mean() < 0.05
    assert report.losses["relative_spread"] > 0.1


def error(system: SpikingGAN, real: Tensor) -> float:
    """Mean distance of the mean sample from the mean image."""
    samples = (system.sample(range(128)) + 1) / 2
    return (samples.mean(0) - real.mean(0)).abs().mean().item()


@torch.no_grad()
def test_sgans_pixels_are_counts_of_spikes() -> None:
    system = smoke(sgan)
    system.net.stack.last.bias.fill_(1.5)
    spikes = system.net.train()(torch.randn(8, system.config.latent))
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    quarters = system.pictures(spikes) * system.config.time_steps
    assert torch.equal(quarters, quarters.round())
    assert quarters.unique().numel() > 2


def test_wrong_shapes_and_batches_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image size 30: expected a multiple of 4 from 8 to 32"):
        swgan.build(swgan.Config(), ImageShape(1, 30))
    with pytest.raises(ValueError, match="channels=3: expected a multiple of 2"):
        sgad.build(sgad.Config(channels=3), ImageShape(1, 28))
    with pytest.raises(ValueError, match="raise batch_size"):
        fit(
            smoke(sgad), GeneratedImages(4), folder=tmp_path, progress=False,
            config=TrainConfig(steps=1, batch_size=1), description={},
        )  # fmt: skip


def test_layers_of_the_discriminator_double() -> None:
    critic = hybrid_gan.build(hybrid_gan.Config(), ImageShape(1, 28)).critic
    widths = [conv.out_channels for conv in critic.modules() if isinstance(conv, nn.Conv2d)]
    assert widths == [64, 128, 256, 1]
    assert all(b == 2 * a for a, b in pairwise(widths[:-1]))
    assert critic.last.kernel_size == (3, 3)
