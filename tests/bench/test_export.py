"""Networks as NIR: rebuilt from the files alone, they send the same spikes."""

from __future__ import annotations

import copy
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based.nir_exchange import import_from_nir
from torch import Tensor, nn

from sddpm import plus
from sddpm.activations import ACTIVATIONS
from sddpm.checkpoint import find_checkpoint
from sddpm.export.files import write_nir
from sddpm.export.neurons import neuron_node
from sddpm.guidance import read_thresholds, spiking_layers
from sddpm.neurons import IF
from sddpm.pretrained import SDDPM
from sddpm.unet import UNet, Upsample
from tests.support.calling import call, refused
from tests.support.networks import inputs, network
from tests.support.nir_machine import Machine, Neurons
from tests.support.pages import ROOT, blocks
from tests.support.systems import model


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No guided thresholds of this machine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@torch.no_grad()
def evaluate(net: UNet, x: Tensor, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The noise of the network itself, its sums in float64 and its neurons in float32, and their
    spikes ``[time_steps, batch, ...]``."""
    spikes: dict[str, Tensor] = {}
    doubled = {f"{name}.act" for name, m in net.named_modules() if isinstance(m, Upsample)}
    net = copy.deepcopy(net).double()

    def watch(name: str, layer: nn.Module) -> None:
        def keep(module: nn.Module, args: tuple, sent: Tensor) -> Tensor:
            fired = sent.unflatten(0, (net.config.time_steps, -1)) > 0
            if name in doubled:  # the export doubles in front of the neurons
                fired = fired.repeat_interleave(2, -1).repeat_interleave(2, -2)
            spikes[name] = fired
            return sent.double()

        layer.float().register_forward_pre_hook(lambda module, args: args[0].float())
        layer.register_forward_hook(keep)

    for name, layer in spiking_layers(net).items():
        watch(name, layer)
    return net(x.double(), t), spikes


def export(net: UNet, folder: Path, size: int = 16) -> Machine:
    write_nir(net, size, folder / "model.nir")
    return Machine(folder / "model.json")


def check_equal(machine: Machine, net: UNet, x: Tensor, t: Tensor) -> None:
    made = machine(x, t)
    noise, spikes = evaluate(net, x, t)
    assert machine.spikes.keys() == spikes.keys() == read_thresholds(net).keys()
    for name, sent in spikes.items():
        assert torch.equal(machine.spikes[name], sent), name
    assert 0.01 < float(torch.cat([s.flatten() for s in spikes.values()]).double().mean()) < 0.99
    torch.testing.assert_close(made, noise, atol=1e-5, rtol=0)


SHAPES: list[dict[str, Any]] = [
    {},
    {"time_steps": 1, "prediction": "v_prediction", "image_channels": 1},
    {"multipliers": (1,), "blocks": 2, "time_steps": 3},
    {"stem_shortcut": True, "mean_shortcuts": True},
    {"stem_shortcut": True, "stem_gain": True, "prediction": "v_prediction"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: ",".join(shape) or "as published")
def test_the_files_alone_rebuild_the_network(shape: dict[str, Any], tmp_path: Path) -> None:
    net = network(**shape)
    check_equal(export(net, tmp_path), net, *inputs(2, net))


@pytest.mark.parametrize("activation", ["lif", "plif"])
def test_leaky_neurons(activation: str, tmp_path: Path) -> None:
    net = network(activation)
    check_equal(export(net, tmp_path), net, *inputs(2, net))


def test_layers_with_thresholds_and_leaks_of_their_own(tmp_path: Path) -> None:
    net = network("plif")
    with torch.no_grad():
        for number, layer in enumerate(spiking_layers(net).values()):
            layer.theta.fill_(0.75 + 0.0625 * number)
            layer.w.fill_(0.1 * number - 0.3)
    check_equal(export(net, tmp_path), net, *inputs(2, net))


@torch.no_grad()
def folded(net: UNet) -> UNet:
    """A copy whose convolutions hold their BatchNorms, rounded to float32, and whose BatchNorms
    change nothing: by ``BN(W x + b) = g W x + g (b - mean) + shift``, ``g = gain / sqrt(var +
    eps)``."""
    made = copy.deepcopy(net)
    modules = dict(made.named_modules())
    for name, norm in modules.items():
        before = name.replace("bn", "conv") if name != "stem.shortcut.1" else "stem.shortcut.0"
        if not isinstance(norm, nn.BatchNorm2d) or name == "head.bn":
            continue
        conv = modules[before]
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias = gain * (conv.bias.double() - norm.running_mean.double()) + norm.bias.double()
        conv.weight.copy_((conv.weight.double() * gain[:, None, None, None]).float())
        conv.bias.copy_(bias.float())
        norm.eps = 1e-30  # nothing beside a variance of 1
        for tensor, value in ((norm.weight, 1), (norm.bias, 0), (norm.running_var, 1)):
            tensor.fill_(value)
        norm.running_mean.zero_()
    return made


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_a_shipped_checkpoint(name: str, tmp_path: Path) -> None:
    """Its BatchNorms are trained. Folded weights are rounded to float32, which may flip a spike of
    the network in an image; beside its folded form no spike may differ."""
    done = call("export", "--ckpt", name, "--format", "nir", "--out", tmp_path / "model.nir")
    assert done.exit_code == 0, done.output
    machine = Machine(tmp_path / "model.json")
    net: Any = SDDPM.from_pretrained(find_checkpoint(name)).system.generator
    x = torch.randn(4, *machine.manifest["inputs"]["x"], generator=torch.manual_seed(1))
    t = torch.tensor([1, 20, 700, 999])
    check_equal(machine, folded(net), x, t)
    away = (machine(x, t) - evaluate(net, x, t)[0]).abs().amax((1, 2, 3))
    assert away.median() < 1e-5


def test_a_neuron_fires_at_its_threshold_and_not_below() -> None:
    layer = IF(1, threshold=0.7)
    theta = layer.theta.numpy()
    currents = np.stack([np.nextafter(theta, np.float32(0)), theta])
    node = neuron_node(layer, (2, 1, 1))
    fired = Neurons(node, 1 / 1e4)(torch.tensor(currents, dtype=torch.float64)[None, :, None, None])
    assert fired.flatten().tolist() == [0, 1]
    assert layer(torch.tensor(currents)).tolist() == [0, 1]


@pytest.mark.parametrize("activation", ["if", "lif"])
def test_spikingjelly_reads_every_graph_and_sends_the_same_spikes(
    activation: str, tmp_path: Path
) -> None:
    net = network(activation)
    machine = export(net, tmp_path)
    machine(*inputs(2, net))
    chips = [step for step in machine.manifest["steps"] if "chip" in step]
    assert len(chips) == len(machine.graphs) == len(read_thresholds(net))
    for step in chips:
        read = import_from_nir(machine.graphs[step["chip"]], dt=machine.manifest["dt"])
        sent: list[Tensor] = []
        neurons = read.get_submodule("neurons")
        neurons.register_forward_hook(lambda m, args, out, sent=sent: sent.append(out[0]))
        state = None
        for current in machine.entered[step["chip"]].float():
            _, state = read(current, state)
        assert torch.equal(torch.stack(sent) > 0, machine.spikes[step["neurons"]]), step["chip"]


def test_every_part_of_the_manifest_is_used(tmp_path: Path) -> None:
    net = network(stem_shortcut=True, stem_gain=True, mean_shortcuts=True)
    machine = export(net, tmp_path)
    steps, known = machine.manifest["steps"], {"x", "t"}
    for step in steps:
        assert set(step["reads"]) <= known, "reads what is not there yet"
        known.add(step["writes"])
    read = {name for step in steps for name in step["reads"]}
    assert known - read == {machine.manifest["output"]}
    used = {name for step in steps for name in step.get("tensors", {}).values()}
    assert used == machine.tensors.keys()
    chips = [step["chip"] for step in steps if "chip" in step]
    assert sorted(chips) == sorted(machine.graphs)
    assert {step["host"] for step in steps if "host" in step} == set(machine.manifest["operations"])
    assert {type(node) for graph in machine.graphs.values() for node in graph.nodes.values()} == {
        nir.Input, nir.Conv2d, nir.IF, nir.Output,
    }  # fmt: skip


REFUSED = {
    "soft_if": "soft reset",
    "rate_if": "soft reset",
    "signed_rate_if": "soft reset",
    "ternary_if": "both signs",
    "parallel_if": "matrix",
    "threshold_steps_if": "threshold for each spiking step",
    "integer_if": "counts of events",
    "relu": "real numbers",
    "quant_relu": "real numbers",
}


def test_every_activation_is_exported_or_refused() -> None:
    assert REFUSED.keys() | {"if", "lif", "plif"} == ACTIVATIONS.keys()


@pytest.mark.parametrize("activation", REFUSED)
def test_neurons_without_a_node_are_refused_with_the_reason(
    activation: str, tmp_path: Path
) -> None:
    one_step = activation in ("integer_if", "relu", "quant_relu")
    net = network(activation, 1 if one_step else 2)
    with pytest.raises(ValueError, match=f"NIR cannot hold stem.act .*{REFUSED[activation]}"):
        export(net, tmp_path)
    assert not list(tmp_path.iterdir())


def test_tsm_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stem.conv1: TSM scales .* do not change over time"):
        export(network(temporal_scaling=True), tmp_path)


def test_attention_is_refused_with_the_reason(tmp_path: Path) -> None:
    net = network(attention_heads=2)
    with pytest.raises(ValueError, match=r"middle.1: attention multiplies spikes by spikes"):
        export(net, tmp_path)


@pytest.mark.usefixtures("own_state")
def test_the_page_shows_what_the_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs/hardware.md"
    shown = blocks(page, "console")[0]
    command, *printed = shown.splitlines()
    monkeypatch.chdir(tmp_path)
    done = call(*shlex.split(command)[2:])
    assert done.stdout.splitlines() == printed
    written = (tmp_path / "model.json").read_text()
    (steps,) = blocks(page, "json")
    assert steps.strip() in "\n".join(line.strip() for line in written.splitlines())


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only the U-Net of SDDPM .* this is Linear"):
        write_nir(nn.Linear(2, 2), 8, tmp_path / "model.nir")


@pytest.mark.usefixtures("own_state")
def test_the_command_takes_time_steps_and_a_threshold(tmp_path: Path) -> None:
    out = tmp_path / "model.nir"
    how = ["--time-steps", 3, "--threshold", 0.5]
    done = call("export", "--ckpt", "fashion-mnist", "--out", out, *how)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.nir", "model.json", "model.safetensors",
    }  # fmt: skip
    manifest = json.loads((tmp_path / "model.json").read_text())
    assert manifest["time_steps"] == 3
    assert {step["threshold"] for step in manifest["steps"] if "chip" in step} == {0.5}
    assert manifest["system"] == "sddpm"
    thresholds = nir.read(out).nodes["stem.conv2"].nodes["neurons"].v_threshold
    assert np.unique(thresholds) == np.nextafter(np.float32(0.5), np.float32(0))


def test_what_the_command_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    integer = model(plus, "sddpm_plus")
    integer.facts["dataset"] = "digits"
    integer.save_pretrained(tmp_path / "plus")

    def export(*more: object, out: str = "model.nir") -> Any:
        return call("export", "--ckpt", tmp_path / "plus", "--out", tmp_path / out, *more)

    refused(export(), "NIR cannot hold stem.act (IntegerIF)", "counts of events")
    refused(export(out="model.h5"), "model.h5", ".nir")
    weights = (tmp_path / "plus/model.safetensors").read_bytes()
    refused(export(out="plus/model.nir"), "plus/model.nir", "holds a checkpoint")
    assert (tmp_path / "plus/model.safetensors").read_bytes() == weights
    (tmp_path / "folder.nir").mkdir()
    refused(export(out="folder.nir"), "--out", "folder")
    assert export("--format", "onnx").exit_code == 2
    monkeypatch.setitem(sys.modules, "nir", None)
    refused(export(), "pip install 'sddpm-bench[nir]'")
    assert {path.name for path in tmp_path.iterdir()} == {"plus", "folder.nir"}
