"""What was prepared for sampling follows the network, its users and torch's settings."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune

from sddpm import system
from sddpm.denoising import Denoiser
from sddpm.engine.network import OptimizedUNet
from sddpm.protocol import ImageShape

WIDTHS = dict(time_steps=2, channels=8, multipliers=(1, 2), blocks=1, threshold=0.3)
OPTIONS = {"sampler": "ddim", "steps": 3}


def made(seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    denoiser = system.build(system.Config(**WIDTHS), ImageShape(1, 8)).eval()
    nn.init.normal_(denoiser.net.head.conv.weight, std=0.2)
    return denoiser


def draw(denoiser: Denoiser, engine: str = "exact", **options: object) -> Tensor:
    return denoiser.sample(range(3), {**OPTIONS, "engine": engine, **options})


def near(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding, which may flip a spike."""
    return bool((a - b).abs().mean() < 0.02)


def add_noise(denoiser: Denoiser) -> None:
    noise = torch.Generator().manual_seed(1)
    for p in denoiser.net.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=noise) * p.data.std(correction=0)


def write_numpy(denoiser: Denoiser) -> None:
    denoiser.net.head.conv.weight.detach().numpy()[:] *= -2


def other_net(denoiser: Denoiser) -> None:
    denoiser.net = made(1).net


def other_layer(denoiser: Denoiser) -> None:
    denoiser.net.down[0] = copy.deepcopy(made(1).net.down[0])


def other_data(denoiser: Denoiser) -> None:
    weight = denoiser.net.head.conv.weight
    weight.data = -2 * weight.data


def swap_weights(denoiser: Denoiser) -> None:
    """The same numbers in another order, which a plain checksum would not see."""
    weight = denoiser.net.stem.conv1.weight
    weight.data.copy_(weight.data.flip(0).clone())


def hook(denoiser: Denoiser) -> None:
    denoiser.net.head.conv.register_forward_hook(lambda module, inputs, output: -2 * output)


def thresholds(denoiser: Denoiser) -> None:
    for name, buffer in denoiser.net.named_buffers():
        if name.endswith("theta"):
            buffer.data.fill_(0.5)


def running_mean(denoiser: Denoiser) -> None:
    denoiser.net.head.bn.running_mean.data.add_(3.0)


def own_forward(denoiser: Denoiser) -> None:
    conv = denoiser.net.head.conv
    conv.forward = lambda x, own=conv.forward: -2 * own(x)


def epsilon(denoiser: Denoiser) -> None:
    denoiser.net.head.bn.eps = 10.0


CHANGES = [
    add_noise, write_numpy, other_net, other_layer, other_data, swap_weights, hook, thresholds,
    running_mean, own_forward, epsilon,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_draws_as_a_fresh_one_would(change: Callable[[Denoiser], None]) -> None:
    denoiser = made()
    before = draw(denoiser)
    change(denoiser)
    fresh = made()
    change(fresh)
    after = draw(denoiser)
    assert near(after, draw(fresh, "plain"))
    assert near(draw(denoiser, "plain"), draw(fresh, "plain"))
    assert not near(after, before)


def test_an_unchanged_network_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made_anew = []
    original = OptimizedUNet.__init__

    def counted(self: OptimizedUNet, *arguments: object) -> None:
        made_anew.append(1)
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(OptimizedUNet, "__init__", counted)
    denoiser = made()
    for _ in range(3):
        draw(denoiser, threshold=0.9)
    assert len(made_anew) == 1
    draw(denoiser)
    assert len(made_anew) == 2


@pytest.mark.parametrize("engine", ["plain", "exact"])
def test_threads_do_not_mix_their_thresholds(engine: str) -> None:
    denoiser = made()
    values = [0.2, 0.4, 0.8, 1.6] * 2
    alone = {value: draw(made(), engine, threshold=value) for value in set(values)}
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda value: draw(denoiser, engine, threshold=value), values))
    for value, images in zip(values, drawn, strict=True):
        assert near(images, alone[value]), value
    assert not near(alone[0.2], alone[1.6])


def test_a_chain_may_be_looked_into_with_the_same_network() -> None:
    denoiser = made()
    inside: list[Tensor] = []
    options = {**OPTIONS, "engine": "plain"}
    denoiser.sample([0], options, lambda *seen: inside.append(draw(denoiser)))
    assert len(inside) == 3


def test_a_network_that_has_drawn_can_be_copied_and_written() -> None:
    denoiser = made()
    images = draw(denoiser)
    written = io.BytesIO()
    torch.save(denoiser, written)
    written.seek(0)
    for other in (
        copy.deepcopy(denoiser),
        pickle.loads(pickle.dumps(denoiser)),
        torch.load(written, weights_only=False),
    ):
        assert near(draw(other), images)
        add_noise(other)
        assert not near(draw(other), images)
    assert near(draw(denoiser), images)


def test_tools_of_torch_take_the_weights() -> None:
    denoiser = made()
    images = draw(denoiser)
    assert len(parameters_to_vector(denoiser.net.parameters())) > 1000
    conv = denoiser.net.down[0].conv1
    prune.l1_unstructured(conv, "weight", amount=0.9)
    pruned = draw(denoiser)
    assert not near(pruned, images)
    prune.remove(conv, "weight")
    assert (conv.weight == 0).float().mean() > 0.89
    assert near(draw(denoiser), pruned)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("engine", ["plain", "exact"])
def test_torch_s_default_type_changes_no_image(engine: str, request: pytest.FixtureRequest) -> None:
    state, images = made().state_dict(), draw(made(), engine)
    request.getfixturevalue("float64")
    denoiser = made()
    denoiser.load_state_dict(state)
    assert near(draw(denoiser, engine), images)


def test_a_first_image_may_be_drawn_in_autocast() -> None:
    denoiser = made()
    with torch.autocast("cpu", torch.bfloat16):
        inside = draw(denoiser)
    assert near(inside, draw(made()))


@pytest.mark.parametrize("engine", ["plain", "exact"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(engine: str, value: float) -> None:
    denoiser = made()
    denoiser.net.middle[0].conv1.weight.data[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"middle\.0\.conv1\.weight: 1 of 2304 numbers are NaN"):
        draw(denoiser, engine)
