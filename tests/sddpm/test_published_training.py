"""Two updates of the published SDDPM network, as its authors' code made them."""

from __future__ import annotations

import pytest
from torch import Tensor

import sddpm
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.protocol import ImageShape
from tests.support import golden

NAME = golden.sddpm_name


@pytest.fixture(scope="module")
def recorded() -> dict:
    return golden.read("sddpm_training")


@pytest.fixture
def denoiser(recorded: dict) -> Denoiser:
    """The network before the first update, with the published optimiser."""
    net = sddpm.load_published(golden.FOLDER / "sddpm_training.pt", time_steps=4)
    facts = recorded["optimizer"]
    training = DenoiserTraining(
        learning_rate=facts["lr"], gradient_clip=facts["gradient_clip"], warmup_steps=0
    )
    return Denoiser(net, ImageShape(3, 16), training).train()


def renamed(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {NAME(name): golden.without_time(value) for name, value in values.items()}


def test_the_forward_process_is_the_published_one(recorded: dict, denoiser: Denoiser) -> None:
    x_t = denoiser.diffusion.add_noise(recorded["x_0"], recorded["noise"], recorded["t"])
    assert golden.distance(x_t, recorded["x_t"]) < 1e-5


def test_output_and_firing_rates_in_training_mode(recorded: dict, denoiser: Denoiser) -> None:
    rates: dict[str, float] = {}
    for name, module in denoiser.net.named_modules():
        if getattr(module, "emits", None) == "spikes":
            module.register_forward_hook(
                lambda _m, _i, out, name=name: rates.__setitem__(name, out.double().mean().item())
            )
    y = denoiser.net(recorded["x_t"], recorded["t"])
    assert golden.distance(y.detach(), recorded["training"]["y"]) < 1e-4
    wanted = {NAME(name): rate for name, rate in recorded["training"]["firing_rates"].items()}
    assert rates == pytest.approx(wanted, abs=1e-5)


def test_two_updates_are_the_published_ones(recorded: dict, denoiser: Denoiser) -> None:
    """Loss, gradients, weights and running statistics; the second shows that the gradient is
    clipped, because Adam's first step does not depend on a gradient's scale."""
    training = recorded["training"]
    step = golden.RecordedStep(denoiser, recorded["t"], recorded["noise"])
    denoiser.train_step(recorded["x_0"], step)
    assert step.losses["net"] == pytest.approx(training["loss"], rel=1e-5)
    assert step.gradient_norm["net"] == pytest.approx(training["gradient_norm"], rel=1e-5)

    zero = set(map(NAME, training["zero_gradients"]))
    wanted = renamed(training["gradients"])
    assert step.gradients["net"].keys() == wanted.keys()
    solid = {name: value for name, value in wanted.items() if name not in zero}
    golden.gradients_agree(step.gradients["net"], solid, 1e-4)
    largest = max(value.abs().max().item() for value in wanted.values())
    for name in zero:
        assert step.gradients["net"][name].abs().max() < 1e-5 * largest, name

    parameters = dict(denoiser.net.named_parameters())
    for name, after in renamed(recorded["after_one_step"]).items():
        moves = (wanted[name] / training["gradient_norm"]).abs() > 1e-5
        off = (parameters[name].detach() - after).abs()
        assert not moves.any() or off[moves].max() < 1e-6, name
        assert moves.all() or off[~moves].max() < 2e-4, name
    state = denoiser.net.state_dict()
    for name, after in renamed(recorded["batch_norm_after"]).items():
        assert golden.distance(state[name], after) < 1e-5, name

    second = recorded["second_step"]
    denoiser.diffusion.add_noise = lambda *_: second["x_t"]  # type: ignore[method-assign]
    step = golden.RecordedStep(denoiser, second["t"], second["noise"])
    denoiser.train_step(second["x_t"], step)
    assert step.losses["net"] == pytest.approx(second["loss"], rel=1e-4)
    assert step.gradient_norm["net"] == pytest.approx(second["gradient_norm"], rel=1e-4)
    for name, after in renamed(second["after"]).items():
        assert golden.distance(parameters[name].detach(), after) < 2e-5, name
