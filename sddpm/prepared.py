"""A network in the form that samples: unchanged, or prepared and reused while it stays the same.

What was prepared is a snapshot, so it may be used again only for the very same network. Every
number of it is compared with a copy, because no cheaper sign is safe: torch counts the changes
of a tensor, but not those made through ``.data`` or NumPy. The comparison takes a few
milliseconds for each million parameters, less than a tenth of evaluating one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from sddpm.engine.network import Denoise, optimize, preparable
from sddpm.guidance import Thresholds, guided
from sddpm.layers import check_finite, evaluating, tensors_of


class PreparedNetwork:
    """Keeps the last prepared form of a network. Copies and pickles of it are empty.

    Several threads may sample one network, each at thresholds of its own: those whose network
    runs as it is take turns, those with a prepared one run side by side.
    """

    def __init__(self) -> None:
        self._kept: tuple[str, _State, Denoise] | None = None
        # One thread may come again: what looks into a chain may draw images itself.
        self._lock = RLock()

    def __reduce__(self) -> tuple[type[PreparedNetwork], tuple[()]]:
        return type(self), ()

    @contextmanager
    def at(self, net: nn.Module, engine: str, thresholds: Thresholds | None) -> Iterator[Denoise]:
        """``eps = f(x, t)`` of ``net`` in evaluation mode at ``thresholds`` (None: its own), valid
        inside the block.

        Raises:
            ValueError: a weight is NaN or infinite, or a threshold is not one of ``net``.
        """
        with self._lock:
            if engine == "plain" or not preparable(net):
                check_finite(net)
                with evaluating(net), guided(net, thresholds):
                    yield net
                return
            with guided(net, thresholds):
                prepared = self.form(net, engine)
        yield prepared

    def form(self, net: nn.Module, engine: str) -> Denoise:
        """``net``, as it is now, in the form that ``engine`` names."""
        with self._lock:
            if engine == "plain":
                return net
            if not preparable(net):
                return optimize(net, engine)  # type: ignore[arg-type]
            kept = self._kept
            if kept is not None and kept[0] == engine and kept[1].still(net):
                return kept[2]
            check_finite(net)
            prepared = optimize(net, engine)  # type: ignore[arg-type]
            self._kept = engine, _State.of(net), prepared
            return prepared


@dataclass(frozen=True)
class _State:
    """All that a network's output depends on."""

    modules: tuple[nn.Module, ...]
    settings: tuple[Mapping[str, Any], ...]
    """Settings of each module."""
    tensors: Mapping[str, Tensor]
    """Copies."""

    @classmethod
    def of(cls, net: nn.Module) -> _State:
        modules = tuple(net.modules())
        copies = {name: tensor.detach().clone() for name, tensor in tensors_of(net).items()}
        return cls(modules, tuple(map(_settings, modules)), copies)

    def still(self, net: nn.Module) -> bool:
        """Whether ``net`` is in this state."""
        modules, tensors = tuple(net.modules()), tensors_of(net)
        return (
            len(modules) == len(self.modules)
            and all(now is then for now, then in zip(modules, self.modules, strict=True))
            and tuple(map(_settings, modules)) == self.settings
            and tensors.keys() == self.tensors.keys()
            and _equal([*tensors.values()], [*self.tensors.values()])
        )


def _settings(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module: strides, eps, time steps and the like."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name != "training"
        and (isinstance(value, bool | int | float | str | tuple | None) or is_dataclass(value))
    }


def _equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    if any((a.device, a.dtype, a.shape) != (b.device, b.dtype, b.shape) for a, b in pairs):
        return False
    if all(a.device.type == "cpu" for a in ours):
        return all(torch.equal(a, b) for a, b in pairs)
    # Asked for all tensors at once: a GPU is waited for once.
    return not torch.stack([(a != b).any() for a, b in pairs]).any()
