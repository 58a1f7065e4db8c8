"""Training on CUDA: a network's forward and backward pass as one graph each.

A step of a spiking U-Net is some thousands of short kernels, and launching them one by one takes
several times as long as running them. Captured once and replayed, they are launched together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class GraphedModule(nn.Module):
    """``net`` in training, replayed from CUDA graphs after its first call.

    For a network that a training step calls once, on tensors whose shapes never change, and whose
    ``forward`` reads no value back from the device. Its output is overwritten by the next call.
    Evaluation, other shapes, and a network whose capture is refused (with a warning) run launch
    by launch.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._shapes: list[torch.Size] | None = None
        self._replay: Callable[..., Any] | None = None

    def forward(self, *inputs: Tensor) -> Any:
        if not (self.net.training and torch.is_grad_enabled()):
            return self.net(*inputs)
        shapes = [x.shape for x in inputs]
        if self._shapes is None:
            self._shapes = shapes
            self._replay = self._capture(inputs)
        if self._replay is None or shapes != self._shapes:
            return self.net(*inputs)
        return self._replay(*inputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> Callable[..., Any] | None:
        kind = inputs[0].device.type
        # Weights cast once a step belong to a cache that the graph would not see again.
        casts = torch.autocast(
            kind,
            torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=False,
        )
        whole = _Whole(self.net)
        try:
            with _undisturbed(self.net), casts:
                torch.cuda.make_graphed_callables(
                    whole, tuple(x.clone() for x in inputs), allow_unused_input=True
                )
            return whole.forward
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f"no CUDA graph, training is slower: {reason}", stacklevel=2)
            return None


class _Whole(nn.Module):
    """Another module with the same network, because the capture replaces the module's
    ``forward``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Any:
        return self.net(*inputs)


@contextmanager
def _undisturbed(net: nn.Module) -> Iterator[None]:
    """Leave BatchNorm's statistics and the random numbers as they were: a capture runs the
    network several times."""
    kept = [buffer.clone() for buffer in net.buffers()]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in zip(net.buffers(), kept, strict=True):
                    buffer.copy_(before)
