"""On a GPU: the same numbers as on the processor. Skipped, with the reason, where there is none."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from bench.energy.meter import Meter
from bench.energy.prices import TABLES, strict_mj
from bench.registry import SYSTEMS
from sddpm.checkpoint import load_generator
from sddpm.engine.cuda import CapturedNetwork
from sddpm.engine.network import optimize
from sddpm.kernels.fused_neuron import fire_cuda
from sddpm.neurons import IF, LIF, ParametricLIF, SpikingNeuron
from sddpm.protocol import ImageShape, Step
from sddpm.published import load_published
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages
from tests.support.networks import GOLDEN, inputs, network
from tests.support.systems import make, options

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

NEURONS = {"if": IF, "lif": LIF, "plif": ParametricLIF}


@pytest.fixture(autouse=True)
def _float32() -> Iterator[None]:
    """Whole float32 in convolutions and products: TF32 keeps ten bits, which flips spikes."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def run(neuron: SpikingNeuron, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    x = x.clone().requires_grad_()
    neuron.zero_grad()
    spikes = neuron(x)
    (spikes.float() * weights).sum().backward()
    assert x.grad is not None
    return spikes.detach(), x.grad, [p.grad for p in neuron.parameters() if p.grad is not None]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", NEURONS)
def test_a_neuron_fires_and_learns_as_on_the_processor(
    kind: str, dtype: torch.dtype, channels_last: bool
) -> None:
    steps, batch = 4, 3
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(steps * batch, 16, 8, 8, generator=generator) * 1.5).to(dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    weights = torch.randn(x.shape, generator=generator)
    there = NEURONS[kind](steps)
    here = copy.deepcopy(there)
    there.to("cuda")
    dynamics = there.dynamics()
    assert dynamics is not None
    assert fire_cuda(x.cuda(), steps, dynamics, getattr(there, "w", None)) is not None, (
        "the loop ran, not a kernel"
    )
    spikes, grad, others = run(there, x.cuda(), weights.cuda())
    wanted, wanted_grad, wanted_others = run(here, x, weights)
    assert spikes.dtype == dtype
    assert torch.equal(spikes.cpu(), wanted)
    assert 0.05 < wanted.float().mean() < 0.95
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(grad.cpu(), wanted_grad, rtol=tolerance, atol=tolerance)
    for found, expected in zip(others, wanted_others, strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)


def test_the_golden_file_comes_out() -> None:
    golden = torch.load(GOLDEN, weights_only=True)
    net = load_published(GOLDEN).cuda()
    x, t = golden["x"].cuda(), golden["t"].cuda()
    for run in (net, optimize(net)):
        with torch.no_grad():
            torch.testing.assert_close(run(x, t).cpu(), golden["y"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("activation", ["if", "lif", "relu"])
def test_a_captured_graph_is_the_network(activation: str) -> None:
    net = network(activation, 1 if activation == "relu" else 4)
    engine = optimize(copy.deepcopy(net).cuda())
    assert isinstance(engine, CapturedNetwork)
    for batch in (2, 3, 2):  # the last on a graph that is there already
        x, t = inputs(batch, net)
        with torch.no_grad():
            wanted = net(x, t)
        torch.testing.assert_close(engine(x.cuda(), t.cuda()).cpu(), wanted, atol=1e-4, rtol=1e-4)
    assert engine.capturable
    assert len(engine.captured) == 2


def test_the_fast_engine_is_near() -> None:
    net = network("relu", 1)
    x, t = inputs(4, net)
    with torch.no_grad():
        wanted = net(x, t)
    found = optimize(copy.deepcopy(net).cuda(), "fast")(x.cuda(), t.cuda()).cpu()
    assert (found - wanted).norm() / wanted.norm() < 0.03


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_trains_samples_and_is_measured(name: str, precision: str, tmp_path: Path) -> None:
    entry, images = SYSTEMS[name], GeneratedImages(32, 3, 32)
    system = make(name, images.shape)
    before = {k: v.clone() for k, v in system.state_dict().items()}
    config = TrainConfig(steps=3, batch_size=8, log_every=1, precision=precision)
    fabric = Fabric(accelerator="cuda", devices=1, precision=precision)  # type: ignore[arg-type]
    report = fit(
        system, images, config=config, folder=tmp_path, description={}, fabric=fabric,
        progress=False,
    )  # fmt: skip
    assert all(value == value and abs(value) < 1e6 for value in report.losses.values())
    after = system.state_dict()
    assert all(value.is_cuda for value in after.values())
    assert any(not torch.equal(value.cpu(), before[k]) for k, value in after.items())

    system.eval()
    drawn = system.sample([3, 1, 4, 1], options(entry)).cpu()
    assert drawn.isfinite().all()
    torch.testing.assert_close(drawn[1], drawn[3], rtol=0, atol=1e-3)
    with Meter(system.generator) as meter:
        system.sample([3, 1], options(entry, engine="plain"))
    there = strict_mj(meter.counts(images=2), next(iter(TABLES.values())))

    # The checkpoint draws the same pictures on the processor, where no spike is on the edge.
    here = make(name, images.shape, seed=9).eval()
    load_generator(here, report.checkpoint)
    again = here.sample([3, 1, 4, 1], options(entry))
    close = (again - drawn).abs() < 1e-2
    assert close.float().mean() > (0.99 if entry.time_axis == "none" else 0.5)
    with Meter(here.generator) as meter:
        here.sample([3, 1], options(entry, engine="plain"))
    assert there == pytest.approx(
        strict_mj(meter.counts(images=2), next(iter(TABLES.values()))), rel=0.02
    )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["sddpm", "sddpm_tsm", "ann_twin", "ddpm", "fsddim"])
def test_graphs_train_what_launches_train(
    name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = GeneratedImages(32, 3, 32)
    config = TrainConfig(steps=6, batch_size=8, log_every=1, precision=precision)
    seen: dict[str, list[float]] = {}
    for way in ("graphs", "launches"):
        system = make(name, images.shape)
        assert "net" in system.graphable
        if way == "launches":
            monkeypatch.setattr(type(system), "graphable", frozenset())
        step, losses = system.train_step, []

        def spy(x: Tensor, number: Step, step=step, losses=losses) -> dict[str, Tensor]:
            values = step(x, number)
            losses.append(float(values["loss"]))
            return values

        monkeypatch.setattr(system, "train_step", spy)
        fabric = Fabric(accelerator="cuda", devices=1, precision=precision)  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="no CUDA graph")
            fit(
                system, images, config=config, folder=tmp_path / way, description={},
                fabric=fabric, progress=False,
            )  # fmt: skip
        seen[way] = losses
        tracked = [b for n, b in system.net.named_buffers() if n.endswith("num_batches_tracked")]
        assert all(int(b) == config.steps for b in tracked)  # a capture leaves them alone
    # The first loss is of equal weights; later ones let rounding grow.
    assert seen["graphs"][0] == pytest.approx(seen["launches"][0], rel=2e-3)
    assert seen["graphs"] == pytest.approx(seen["launches"], rel=0.1)


def test_a_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    images = GeneratedImages(32, 1, 8)
    config = TrainConfig(steps=6, batch_size=8, log_every=1, checkpoint_seconds=0)

    class Stops:
        def __init__(self, after: int) -> None:
            self.left = after
            self.shape = images.shape

        def __len__(self) -> int:
            return len(images)

        def __getitems__(self, indices: list[int]) -> Tensor:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return images.__getitems__(indices)

    def trained(folder: Path, source: object) -> dict[str, float]:
        system = make("ann_twin", ImageShape(1, 8))
        fabric = Fabric(accelerator="cuda", devices=1)
        return fit(
            system, source, config=config, folder=folder, description={}, fabric=fabric,  # type: ignore[arg-type]
            progress=False,
        ).losses  # fmt: skip

    whole = trained(tmp_path / "whole", images)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", Stops(4))
    assert trained(tmp_path / "parts", images) == pytest.approx(whole, rel=1e-4)
