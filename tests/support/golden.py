"""Recordings of the published implementations, as tests read them (tests/golden/README.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from sddpm.protocol import System

FOLDER = Path(__file__).parents[1] / "golden"

_SDDPM = {
    "time_embedding.timembedding.0.weight": "time_embedding.table",
    "time_embedding.timembedding.1": "time_embedding.linear1",
    "time_embedding.timembedding.3": "time_embedding.linear2",
    "conv": "stem.conv1",
    "bn": "stem.bn1",
    "neuron": "stem.act",
    "conv_identity": "stem.conv2",
    "bn_identity": "stem.bn2",
    "downblocks": "down",
    "middleblocks": "middle",
    "upblocks": "up",
    "tail_bn": "head.bn",
    "tail_conv": "head.conv",
    "T_output_layer": "head.temporal_conv",
    "last_bn": "head.temporal_bn",
}


def read(name: str) -> dict[str, Any]:
    """The recording ``name`` of tests/golden."""
    found: dict[str, Any] = torch.load(FOLDER / f"{name}.pt", weights_only=True)
    return found


def draw(rows: Sequence[Sequence[Any]], first: Mapping[str, float]) -> dict[str, Tensor]:
    """Weights by the recording's recipe, by their published names; element 0 of each must be
    ``first``'s exactly."""
    weights = {}
    for name, shape, seed, base, scale in rows:
        u = numpy.random.RandomState(seed).random_sample(tuple(shape))
        weights[name] = torch.from_numpy(numpy.asarray(base + scale * (2 * u - 1), numpy.float32))
        assert weights[name].flatten()[0].item() == first[name], name
    return weights


def without_time(value: Tensor) -> Tensor:
    """A published weight whose last axis is a kernel of size 1 over spiking time, without it."""
    return value.squeeze(-1) if value.ndim == 5 else value


def sddpm_name(name: str) -> str:
    """The name that ``sddpm.unet`` gives to a published SDDPM or TSM layer or tensor."""
    name = name.replace(".tsmconv", "").replace(".tsmp", ".p").replace(".temb_proj.1", ".embed")
    name = re.sub(r"\.neuron", ".act", name)
    front = max((key for key in _SDDPM if f"{name}.".startswith(f"{key}.")), key=len)
    return _SDDPM[front] + name[len(front) :]


def load(module: nn.Module, weights: Mapping[str, Tensor], fresh: Sequence[str] = ()) -> None:
    """Load ``weights`` into ``module``, which must hold nothing else but counters, tables that
    follow from its sizes, thresholds, and tensors whose names end in one of ``fresh``."""
    ends = ("updates", "num_batches_tracked", "table", "theta", *fresh)
    rest = {k: v for k, v in module.state_dict().items() if k.split(".")[-1] in ends}
    module.load_state_dict({**rest, **weights}, strict=True)


def distance(found: Tensor, wanted: Tensor) -> float:
    """Largest absolute difference."""
    assert found.shape == wanted.shape
    return (found.double() - wanted.double()).abs().max().item()


def gradients_agree(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float
) -> None:
    """Every gradient of ``wanted`` in ``found``, relative to its largest element."""
    for name, theirs in wanted.items():
        assert distance(found[name], theirs) <= tolerance * theirs.abs().max().item(), name


def norms_agree(
    found: Mapping[str, Tensor], wanted: Mapping[str, float], tolerance: float = 1e-3
) -> None:
    """The norm of every gradient; where it is 0 in exact arithmetic, against the largest."""
    assert found.keys() == wanted.keys()
    largest = max(wanted.values())
    for name, theirs in wanted.items():
        ours = found[name].double().norm().item()
        assert abs(ours - theirs) <= tolerance * (theirs + 1e-2 * largest), name


class RecordedStep:
    """The :class:`sddpm.protocol.Step` of an update whose random draws were recorded.

    Args:
        system: the one that is trained.
        draws: what each call of ``randn``, ``rand`` and ``randint`` gives, in turn.
    """

    number, total = 0, 1

    def __init__(self, system: System, *draws: Tensor) -> None:
        self.system, self._draws = system, list(draws)
        self.losses: dict[str, float] = {}
        self.gradients: dict[str, dict[str, Tensor]] = {}
        """Of each player's parameters, before clipping."""
        self.gradient_norm: dict[str, float] = {}
        """Of each player that is clipped, before clipping."""

    def module(self, name: str) -> nn.Module:
        module: nn.Module = getattr(self.system, name)
        return module

    def update(self, name: str, loss: Tensor, *, lr: float, clip: float | None = None) -> None:
        module, optimizer = self.module(name), self.system.optimizers[name]
        self.system.zero_grad(set_to_none=True)
        loss.backward()
        self.losses[name] = loss.item()
        self.gradients[name] = {
            key: torch.zeros_like(value) if value.grad is None else value.grad.clone()
            for key, value in module.named_parameters()
        }
        if clip is not None:
            norm = nn.utils.clip_grad_norm_(module.parameters(), clip)
            self.gradient_norm[name] = norm.item()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()

    def gather(self, values: Tensor) -> Tensor:
        return values

    def randn(self, *shape: int) -> Tensor:
        return self._next(shape)

    def rand(self, *shape: int) -> Tensor:
        return self._next(shape)

    def randint(self, high: int, *shape: int) -> Tensor:
        return self._next(shape)

    def _next(self, shape: tuple[int, ...]) -> Tensor:
        drawn = self._draws.pop(0)
        assert tuple(drawn.shape) == shape
        return drawn
