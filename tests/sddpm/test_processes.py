"""One training on several processes (gloo) is the training on one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from bench.machine import Machine
from sddpm.shared_norm import SharedBatchNorm2d

STEPS = 6
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from tests.support.images import GeneratedImages
from bench.machine import Machine
from sddpm.protocol import ImageShape
from sddpm.system import Config, build
from sddpm.training import TrainConfig, fit

folder, devices, nodes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
# In float64, rounding is too small for a spike to be there with two processes and not with one.
fabric = Machine("cpu", devices, nodes).fabric("64-true")
assert fabric.world_size == devices * nodes
config = TrainConfig(
    steps={steps}, batch_size=8, precision="64-true", horizontal_flip=True, log_every=1
)
torch.manual_seed(0)
settings = Config(time_steps=2, channels=4, multipliers=(1, 2), blocks=1, learning_rate=1e-2,
                  warmup_steps=2, ema_decay=0.9)
system = build(settings, ImageShape(1, 8)).double()
fit(system, GeneratedImages(), config=config, folder=folder, description={{}}, fabric=fabric)
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def train(script: Path, folder: Path, devices: int, nodes: int) -> None:
    """Run the script as a user would: once on each machine."""
    machines, port = [], free_port()
    for number in range(nodes):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "NODE_RANK": str(number),
        }
        command = [sys.executable, str(script), str(folder), str(devices), str(nodes)]
        output = folder.with_name(f"{folder.name}-{number}.log")
        with output.open("w") as log:
            machines.append((subprocess.Popen(command, env=environment, stderr=log), output))
    for process, output in machines:
        assert process.wait(timeout=400) == 0, output.read_text()


def losses(folder: Path) -> list[float]:
    """The loss of every step, as TensorBoard's log has it."""
    log = EventAccumulator(str(folder / "log")).Reload()
    events = log.Scalars("loss")
    assert [event.step for event in events] == list(range(1, STEPS + 1))
    return [event.value for event in events]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processes") / "train.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parents[2]), steps=STEPS))
    return path


@pytest.fixture(scope="module")
def alone(script: Path) -> Path:
    folder = script.with_name("alone")
    train(script, folder, 1, 1)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (1, 2)])
def test_two_processes_give_the_loss_curve_and_weights_of_one(
    script: Path, alone: Path, devices: int, nodes: int
) -> None:
    """The spiking network, whose BatchNorm would differ if each process normalised by itself."""
    folder = script.with_name(f"{devices}x{nodes}")
    train(script, folder, devices, nodes)
    expected = losses(alone)
    assert losses(folder) == pytest.approx(expected, rel=1e-6)  # the log keeps float32
    assert len({round(value, 6) for value in expected}) == STEPS, "the curve is not flat"
    one, other = (
        load_file(path / "checkpoint" / "trainer.safetensors") for path in (alone, folder)
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_of_one_process_it_is_batch_norm(
    momentum: float | None, affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sddpm.shared_norm.all_reduce", lambda values: values.clone())
    monkeypatch.setattr("sddpm.shared_norm.get_world_size", lambda: 1)
    reference = nn.BatchNorm2d(3, momentum=momentum, affine=affine).double()
    shared = SharedBatchNorm2d(3, momentum=momentum, affine=affine).double()
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5, dtype=torch.float64) * 3 + 1
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [norm(y) for norm, y in zip((reference, shared), inputs, strict=True)]
        torch.testing.assert_close(outputs[1], outputs[0])
        weights = torch.randn_like(x)
        for output in outputs:
            (output * weights).sum().backward()
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    assert reference.state_dict().keys() == shared.state_dict().keys()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value)
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(shared.eval()(x), reference.eval()(x))


def test_a_machine_that_does_not_know_its_number_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"--nodes 2.*NODE_RANK.*MASTER_ADDR"):
        Machine("cpu", 1, 2)
