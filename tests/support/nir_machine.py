"""A chip and a host that know NIR's specification and the manifest, and nothing of the networks.

Sums are computed in float64 on plain torch operators; currents and membranes are float32. The
neurons follow the equations of NIR's documentation by Euler steps: ``dv/dt = r I``, or ``tau dv/dt
= (v_leak - v) + r I``; a spike where ``v > v_threshold``, which sets ``v`` to ``v_reset``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nir
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d


def number(array: Any) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float64)


class Neurons:
    """One layer of ``nir.IF`` or ``nir.LIF``, from a membrane of 0."""

    def __init__(self, node: nir.IF | nir.LIF, dt: float) -> None:
        self.node, self.dt = node, dt
        self.v = torch.zeros(1)
        self.spikes: list[Tensor] = []

    def __call__(self, current: Tensor) -> Tensor:
        node, v, current = self.node, self.v.double(), current.float().double()
        if isinstance(node, nir.LIF):
            change = (number(node.v_leak) - v + number(node.r) * current) / number(node.tau)
        else:
            change = number(node.r) * current
        v = (v + self.dt * change).float()
        fired = v > number(node.v_threshold)
        self.v = torch.where(fired, number(node.v_reset), v).float()
        self.spikes.append(fired)
        return fired.double()


class Chip:
    """A graph of one input, one output and a chain between them, fresh."""

    def __init__(self, graph: nir.NIRGraph, dt: float) -> None:
        after = dict(graph.edges)
        assert len(after) == len(graph.edges), "a node with two successors"
        (name,) = (name for name, node in graph.nodes.items() if isinstance(node, nir.Input))
        self.nodes: list[Any] = []
        while name in after:
            name = after[name]
            self.nodes.append(graph.nodes[name])
        assert isinstance(self.nodes.pop(), nir.Output)
        assert len(self.nodes) == len(graph.nodes) - 2
        self.neurons = [
            Neurons(node, dt) for node in self.nodes if isinstance(node, nir.IF | nir.LIF)
        ]

    def step(self, value: Tensor) -> Tensor:
        """Output of one spiking step for ``[batch, channels, H, W]``."""
        neurons = iter(self.neurons)
        for node in self.nodes:
            if isinstance(node, nir.Conv2d):
                stride, padding, dilation = (
                    tuple(int(n) for n in x) for x in (node.stride, node.padding, node.dilation)
                )
                weight, bias = number(node.weight), number(node.bias)
                value = conv2d(value, weight, bias, stride, padding, dilation, int(node.groups))
            else:
                value = next(neurons)(value)
        return value


def host(name: str, read: list[Tensor], p: dict[str, Tensor]) -> Tensor:
    """An operation of the manifest on arrays ``[batch, ...]``, or with a first dimension of the
    spiking steps."""
    a, b, c = [*read, *[torch.empty(0)] * 3][:3]

    def over_channels(x: Tensor, like: Tensor) -> Tensor:
        return x[..., None, None] if x.ndim < 4 <= like.ndim else x

    match name:
        case "look_up":
            return p["table"][a]
        case "linear":
            return a @ p["weight"].T + p["bias"]
        case "silu":
            return a / (1 + torch.exp(-a))
        case "exp":
            return torch.exp(a)
        case "affine":
            return p["scale"][:, None, None] * a + p["shift"][:, None, None]
        case "conv2d":
            padding = p["weight"].shape[-1] // 2
            flat = conv2d(a.reshape(-1, *a.shape[-3:]), p["weight"], p["bias"], padding=padding)
            return flat.reshape(*a.shape[:-3], *flat.shape[1:])
        case "add":
            return a + over_channels(b, a)
        case "multiply":
            return a * over_channels(b, a)
        case "concatenate":
            return torch.cat([a, b], dim=-3)
        case "double":
            return a.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
        case "mean":
            return a.mean(0)
        case "read_out":
            return torch.einsum("s,s...->...", p["weights"], a)
        case "noise_of_v":
            x, t = b, c
            factors = (p[key][t][:, None, None, None] for key in ("signal", "noise_level"))
            signal, noise_level = factors
            return noise_level * x + signal * a
    raise AssertionError(f"the manifest names an unknown operation {name}")


class Machine:
    """An exported network, rebuilt from its files alone."""

    def __init__(self, manifest: Path) -> None:
        self.manifest = json.loads(manifest.read_text())
        read = nir.read(manifest.with_name(self.manifest["graphs"])).nodes
        # Reading puts an input and an output around every graph.
        self.graphs = {k: node for k, node in read.items() if isinstance(node, nir.NIRGraph)}
        stored = load_file(manifest.with_name(self.manifest["tensors"]))
        self.tensors = {name: tensor.double() for name, tensor in stored.items()}
        self.spikes: dict[str, Tensor] = {}
        """Spikes of the last evaluation, ``[time_steps, batch, ...]``, by the neurons' name."""
        self.entered: dict[str, Tensor] = {}
        """Input of each graph in the last evaluation, ``[time_steps, batch, ...]``."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        values: dict[str, Tensor] = {"x": x.double(), "t": t}
        per_step = {"x": False, "t": False}
        for step in self.manifest["steps"]:
            read = [values[name] for name in step["reads"]]
            if "chip" in step:
                assert step["per_step"]
                made = self._run(step, read[0], per_step[step["reads"][0]])
            else:
                tensors = {k: self.tensors[name] for k, name in step.get("tensors", {}).items()}
                made = host(step["host"], read, tensors)
            steps = [self.manifest["time_steps"]] if step["per_step"] else []
            assert list(made.shape) == [*steps, len(x), *step["shape"]], step
            assert step["writes"] not in values
            values[step["writes"]], per_step[step["writes"]] = made, step["per_step"]
        return values[self.manifest["output"]]

    def _run(self, step: dict[str, Any], value: Tensor, per_step: bool) -> Tensor:
        chip = Chip(self.graphs[step["chip"]], self.manifest["dt"])
        time_steps = self.manifest["time_steps"]
        entered = value if per_step else value.expand(time_steps, *value.shape)
        self.entered[step["chip"]] = entered
        left = torch.stack([chip.step(one) for one in entered])
        (neurons,) = chip.neurons
        self.spikes[step["neurons"]] = torch.stack(neurons.spikes)
        return left
