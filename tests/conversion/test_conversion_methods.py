"""Conversion methods beyond one threshold a layer: channels, balancing, clips, windows, blocks,
schedules, distillation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from spikingjelly.activation_based.ann2snn.recipes.local_threshold_balancing import (
    LocalThresholdBalancingHook,
)
from torch import nn

from baselines import ann_ddpm, ann_twin, pixel_gaussian
from baselines.fsddim import system as fsddim
from bench.convert.run import DIFFUSION_STEPS
from bench.energy.meter import Meter
from conversion import distilled, qcfs
from conversion.calibrate import (
    ChannelLeastSquares,
    Largest,
    LocalBalancing,
    activations,
    nearest_threshold,
    read_thetas,
)
from conversion.channels import ChannelRateIF, SignedChannelRateIF, shared
from conversion.command import needs_clips, prediction_error, prepare
from conversion.compare import compare
from conversion.convert import build, config_of, convertible
from conversion.finetune import averaged, blocks_of, finetune_blocks, run_until
from conversion.methods import METHODS, Method
from conversion.readout import WindowReadout, fit_window
from conversion.schedule import ScheduledUNet, mean_time_steps
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import Diffusion, DiffusionConfig
from sddpm.guidance import HeldOut
from sddpm.neurons import RateIF, SignedRateIF
from sddpm.protocol import ImageShape, to_float
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages

SHAPE = ImageShape(1, 8)
WIDTHS = dict(channels=8, multipliers=(1, 2), blocks=1)


@pytest.fixture(scope="module")
def twin():
    """A ReLU twin with BatchNorm statistics of its own inputs."""
    torch.manual_seed(0)
    system = ann_twin.build(ann_twin.Config(**WIDTHS, ema_decay=0.0), SHAPE)
    torch.nn.init.xavier_uniform_(system.net.head.conv.weight)
    system.train()
    with torch.no_grad():
        for _ in range(30):
            system.net(torch.randn(16, 1, 8, 8), torch.randint(1000, (16,)))
    return system.eval()


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 8, 8, generator=rng) * 2 - 1
    return HeldOut.draw(images, Diffusion(DiffusionConfig()))


def converted(twin, held_out: HeldOut, time_steps, **options):
    options = {"method": "rate-max", "signed": True, "percentile": 99.9, "seed": 0, **options}
    return prepare(twin, held_out.noisy, **options).at(time_steps)


def error(twin, child, held_out: HeldOut) -> float:
    return compare(twin.net, child.unet, held_out).relative_error


# A threshold a channel.


@pytest.mark.parametrize(
    ("kind", "plain"), [(ChannelRateIF, RateIF), (SignedChannelRateIF, SignedRateIF)]
)
def test_a_channel_fires_like_a_layer_with_its_threshold(kind: type, plain: type) -> None:
    x = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    layer = kind(4, threshold=0.5, channels=3)
    layer.balance.copy_(torch.tensor([0.5, 1.0, 4.0])[:, None, None])
    spikes = layer(x)
    for channel, theta in enumerate((0.25, 0.5, 2.0)):
        alone = plain(4, threshold=theta)(x[:, channel])
        assert torch.equal(spikes[:, channel], alone)
        assert alone.count_nonzero() > 0


class HalfOfTheLargest(Largest):
    """A statistic that the package does not have."""

    def measure(self, out: torch.Tensor) -> torch.Tensor:
        return super().measure(out) / 2


def test_a_method_is_an_entry_and_its_statistic(
    twin, held_out: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"signed": False, "percentile": 99.9, "seed": 0}
    monkeypatch.setitem(METHODS, "half-max", Method("half", f"{__name__}:HalfOfTheLargest"))
    images = held_out.noisy.clamp(-1, 1)
    half, whole = (
        read_thetas(prepare(twin, images, method=method, **given).at(2).unet)
        for method in ("half-max", "rate-max")
    )
    for name, theta in whole.items():
        torch.testing.assert_close(half[name], theta / 2)


def test_weak_channels_are_rounded_less() -> None:
    values = torch.rand(64, 2, 8, 8) * torch.tensor([1.0, 10.0])[:, None, None]
    found = ChannelLeastSquares(time_steps=4)
    found.see("layer", values, values)
    by_hand = [nearest_threshold(values[:, c].flatten(), 4) for c in range(2)]
    assert torch.allclose(found.values["layer"], torch.stack(by_hand))

    def rounding(theta: torch.Tensor) -> float:
        levels = (values / theta * 4 + 0.5).floor().clamp(0, 4) * theta / 4
        return (levels - values)[:, 0].square().mean().item()

    layer = nearest_threshold(values.flatten(), 4)
    assert rounding(found.values["layer"][:, None, None]) < 0.05 * rounding(layer)


def test_balancing_is_spikingjellys(twin, held_out: HeldOut) -> None:
    found = LocalBalancing()
    hooks = {layer: LocalThresholdBalancingHook() for layer in activations(twin.net)}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, hook=hooks[layer]: hook(out))
        for layer, module in activations(twin.net).items()
    ]
    with torch.no_grad():
        for _ in range(3):
            twin.net(held_out.noisy, held_out.t)
    for handle in handles:
        handle.remove()
    for _ in range(3):
        found.update(twin.net, held_out.noisy, held_out.t)
    for layer, hook in hooks.items():
        torch.testing.assert_close(found.values[layer], hook.compute_threshold())
    child = converted(twin, held_out, 4, method="ltb")
    assert all(theta.ndim == 3 for theta in read_thetas(child.unet).values())
    twin.net.load_state_dict(shared(child.unet.state_dict()), strict=True)
    with Meter(child.net) as meter, torch.no_grad():
        child.net(held_out.noisy, held_out.t)
    assert meter.counts(images=8).acs > 0, "one constant a channel is spikes to the meter"


# The readout.


def test_the_window_averages_the_last_membranes_out() -> None:
    x = torch.linspace(0.1, 0.9, 4001)
    errors = {}
    for time_steps in (4, 16, 64):
        spikes = SignedRateIF(time_steps)(x.repeat(time_steps, 1)).reshape(time_steps, len(x))
        read = WindowReadout(time_steps)(spikes)[0]
        errors[time_steps] = (read - x).square().mean().sqrt().item()
        if time_steps == 16:
            assert errors[16] < 0.35 * (spikes.mean(0) - x).square().mean().sqrt()
    # As T^-3/2: by 8 for four times the steps, where a mean gains 4.
    assert errors[4] / errors[16] == pytest.approx(8, rel=0.3)
    assert errors[16] / errors[64] == pytest.approx(8, rel=0.3)


@pytest.mark.parametrize("time_steps", [1, 2, 3, 4, 64])
def test_the_window_is_a_mean(time_steps: int) -> None:
    assert WindowReadout(time_steps)(torch.ones(time_steps, 1)).item() == pytest.approx(1, abs=1e-6)


def test_a_fitted_window_brings_the_network_nearer(twin, held_out: HeldOut) -> None:
    plain = converted(twin, held_out, 16)
    fitted = converted(twin, held_out, 16, readout="window")
    assert error(twin, fitted, held_out) < 0.95 * error(twin, plain, held_out)
    # Least squares: no other coefficients bring the last features nearer on what they saw.
    batches = [(held_out.noisy, held_out.t)]
    seen: dict[str, torch.Tensor] = {}
    fitted.unet.readout.register_forward_hook(lambda _m, _i, out: seen.update(child=out))
    handle = twin.net.head.register_forward_pre_hook(lambda _m, x: seen.update(parent=x[0]))
    fit_window(twin.net, fitted.unet, batches)
    coefficients = fitted.unet.readout.coefficients
    best = coefficients.clone()

    def distance() -> float:
        with torch.no_grad():
            twin.net(*batches[0]), fitted.unet(*batches[0])
        return (seen["child"] - seen["parent"]).double().square().sum().item()

    least = distance()
    for k in range(4):
        for move in (-0.05, 0.05):
            coefficients.copy_(best)
            coefficients[k] += move
            assert distance() > least
    handle.remove()
    with Meter(fitted.net) as meter, torch.no_grad():
        fitted.net(*batches[0])
    rows = {row.name: row for row in meter.counts(images=8).layers}
    assert rows["readout"].ops == 16 * 8 * 8 * 8, "T products a feature are paid"
    with pytest.raises(ValueError, match="plain mean"):
        fit_window(twin.net, plain.unet, batches)


# Fine-tuning by blocks.


def test_blocks_are_trained_in_turn_on_the_parents_outputs(twin, held_out: HeldOut) -> None:
    child = converted(twin, held_out, 2)
    x, t = held_out.noisy, held_out.t
    given, out = run_until(child.unet, "down.0", x, t)
    assert len(given[0]) == len(out) == 2 * len(x)
    assert torch.equal(averaged(out, len(x)), out.unflatten(0, (2, -1)).mean(0))
    before = copy.deepcopy(child.unet)
    parent = {name: value.clone() for name, value in twin.net.state_dict().items()}

    def block_error(net, name: str) -> float:
        _, wanted = run_until(twin.net, name, x, t)
        _, fired = run_until(net, name, x, t)
        return (averaged(fired, len(x)) - wanted).square().mean().item()

    steps: list[float] = []
    finetune_blocks(twin.net, child.unet, lambda number: (x, t), steps=8, learning_rate=2e-3,
                    on_step=steps.append)  # fmt: skip
    names = list(blocks_of(child.unet))
    assert len(steps) == 8 * len(names)
    for name in (names[0], names[-1]):
        assert block_error(child.unet, name) < block_error(before, name)
    assert all(torch.equal(value, parent[k]) for k, value in twin.net.state_dict().items())
    for name in ("head.conv.weight", "time_embedding.linear1.weight"):
        assert torch.equal(child.unet.state_dict()[name], parent[name])


# Learned clips.


def test_clips_are_trained_beside_their_parent(twin, tmp_path) -> None:
    config = qcfs.config_for(twin, levels=4, learning_rate=2e-3, parent_weight=1.0)
    assert needs_clips(twin, "qcfs")
    assert not needs_clips(twin, "rate-max")
    images = GeneratedImages(32, 1, 8)
    short, long = (qcfs.build(config, SHAPE, twin) for _ in range(2))
    for system, steps in ((short, 1), (long, 30)):
        settings = TrainConfig(steps=steps, batch_size=32)
        fit(system, images, config=settings, folder=tmp_path / str(steps), description={},
            progress=False)  # fmt: skip
    rng = torch.Generator().manual_seed(5)
    noise, t = torch.randn(32, 1, 8, 8, generator=rng), torch.randint(1000, (32,), generator=rng)
    noisy = twin.diffusion.add_noise(to_float(images.images), noise, t)
    with torch.no_grad():
        wanted = twin.net(noisy, t)
        away = [(s.net.eval()(noisy, t) - wanted).norm().item() for s in (short, long)]
    assert away[1] < 0.9 * away[0]
    assert not needs_clips(long, "qcfs")
    statistics = [name for name in twin.net.state_dict() if "running" in name]
    for name in statistics:
        assert torch.equal(long.net.state_dict()[name], twin.net.state_dict()[name])
    with pytest.raises(ValueError, match="takes fast-snn, qcfs"):
        build(config_of(long, method="rate-max"), SHAPE, long)
    with pytest.raises(ValueError, match="levels=0"):
        qcfs.build(qcfs.config_for(twin, levels=0), SHAPE, twin)


# A number of steps that depends on the diffusion step.


@pytest.mark.parametrize("schedule", [(1, 2), (8, 32, 8), (4, 8, 16, 32, 64), (1,) * 7])
def test_held_out_images_weigh_every_part_of_a_schedule_alike(
    twin, held_out: HeldOut, schedule: tuple[int, ...]
) -> None:
    levels = math.lcm(DIFFUSION_STEPS, len(schedule))
    by_t = converted(twin, held_out, schedule)
    t = HeldOut.draw(torch.zeros(levels, 1, 8, 8), twin.diffusion, levels).t
    assert len(t.unique()) == levels
    steps = [by_t.unet.steps_at(step) for step in t]
    assert sum(steps) / levels == sum(schedule) / len(schedule)


def test_a_schedule_integrates_as_long_as_it_says(twin, held_out: HeldOut) -> None:
    by_t = converted(twin, held_out, (2, 3, 7))
    assert isinstance(by_t.unet, ScheduledUNet)
    assert by_t.config.time_steps == mean_time_steps((2, 3, 7)) == 4
    t = torch.tensor([999, 700, 500, 0])
    assert [by_t.unet.steps_at(step) for step in t] == [2, 2, 3, 7], "noise first"
    x = held_out.noisy[:4]
    with torch.no_grad():
        mixed = by_t.unet(x, t)
        for k, steps in enumerate((2, 2, 3, 7)):
            same = build(config_of(twin, method="rate-max", signed=True, time_steps=steps), SHAPE)
            same.unet.load_state_dict(by_t.unet.state_dict(), strict=True)
            expected = same.unet.eval()(x[k : k + 1], t[k : k + 1])
            torch.testing.assert_close(mixed[k : k + 1], expected)
    found = compare(twin.net, by_t.unet, held_out)
    one = [compare(twin.net, converted(twin, held_out, n).unet, held_out) for n in (2, 7)]
    assert one[1].relative_error < found.relative_error < one[0].relative_error
    # A window is fitted through it as well, and state keys are a plain child's.
    windowed = converted(twin, held_out, (2, 6), readout="window")
    plain = converted(twin, held_out, 4, readout="window")
    assert windowed.unet.state_dict().keys() == plain.unet.state_dict().keys()
    with pytest.raises(ValueError, match="whose mean is 5"):
        build(config_of(twin, schedule=(2, 8), time_steps=4), SHAPE, twin)
    with pytest.raises(ValueError, match="not a schedule"):
        finetune_blocks(twin.net, by_t.unet, lambda number: (x, t), steps=1)


# Distillation.


class Opposite(nn.Module):
    """``-x / 2``: of the other sign than the noise in ``x``."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(-0.5))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.scale * x


def test_a_twin_learns_what_its_teacher_says_and_not_the_noise(tmp_path) -> None:
    teacher = Denoiser(Opposite(), SHAPE, DenoiserTraining())
    config = distilled.Config(**WIDTHS, ema_decay=0.0, learning_rate=5e-3, decay="linear")
    torch.manual_seed(0)
    student, images = distilled.build(config, SHAPE, teacher), GeneratedImages(32, 1, 8)
    nn.init.xavier_uniform_(student.net.head.conv.weight)  # starts near 0: learns slowly
    fit(student, images, config=TrainConfig(steps=60, batch_size=32), folder=tmp_path,
        description={}, progress=False)  # fmt: skip
    assert prediction_error(teacher, student.eval(), to_float(images.images), seed=0) < 0.9
    assert teacher.net.scale == -0.5


def test_a_twin_is_distilled_from_denoisers_of_its_kind_only() -> None:
    teacher = ann_ddpm.build(ann_ddpm.Config(**ann_ddpm.PRESETS["smoke"]), ImageShape(1, 16))
    config = distilled.Config(**WIDTHS)
    floor = pixel_gaussian.build(pixel_gaussian.Config(), SHAPE)
    for parent, words in ((floor, "predicts no noise"), (teacher, "1 x 16 x 16")):
        with pytest.raises(ValueError, match=words):
            distilled.build(config, SHAPE, parent)
    other = distilled.Config(**WIDTHS, diffusion_steps=500)
    with pytest.raises(ValueError, match=r"diffusion_steps=1000.*only .*diffusion_steps=500"):
        distilled.build(other, ImageShape(1, 16), teacher)
    # Its chain runs on currents, by another schedule of as many steps.
    currents = fsddim.build(fsddim.Config(**fsddim.PRESETS["smoke"]), ImageShape(1, 16))
    with pytest.raises(ValueError, match="CosineSchedule"):
        distilled.build(config, ImageShape(1, 16), currents)
    student = distilled.build(config, ImageShape(1, 16), teacher)
    owned = sum(p.numel() for p in student.net.parameters())
    kept = student.averaged
    assert kept is not None
    assert sum(p.numel() for p in student.parameters()) == 2 * owned, "the teacher is not its own"


def test_a_twin_with_a_shortcut_in_its_stem_is_refused() -> None:
    config = ann_twin.Config(channels=4, multipliers=(1,), blocks=1, stem_shortcut=True)
    parent = ann_twin.build(config, ImageShape(1, 8))
    with pytest.raises(ValueError, match="stem_shortcut=True"):
        convertible(parent)
