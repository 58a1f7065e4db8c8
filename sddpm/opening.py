"""Opens a checkpoint folder of any system, as a system that samples.

What a file says is believed only after it was checked: the configuration's types and ranges,
the network that it describes against the tensors in the file (before memory is taken for
either), and every number of those tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch.overrides import TorchFunctionMode

from sddpm.checkpoint import (
    CONFIG,
    MODEL,
    check_generator,
    load_generator,
    read_config,
    tensor_facts,
)
from sddpm.configuration import complete
from sddpm.denoising import DenoiserTraining
from sddpm.guidance import spiking_layers
from sddpm.layers import check_finite
from sddpm.neurons import check_threshold, trained_as
from sddpm.protocol import ImageShape, PointShape, System

_CALLS_PER_TENSOR = 200
"""Calls of torch that building a network may take for each tensor of the file; it takes 20."""


def open_checkpoint(
    folder: str | Path,
    find_module: Callable[[str], ModuleType],
    changed: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    facts: Mapping[str, Any] | None = None,
) -> System:
    """The system of a checkpoint folder, ready to sample.

    A membrane read-out weighs the sum over spiking time; at other time steps than the
    checkpoint's it is scaled to the sum that was trained.

    Args:
        find_module: name of a system -> its module, with ``Config`` and ``build``.
        changed: fields of the configuration that differ from the checkpoint's.
        facts: content of its ``config.json``, where the caller has read it.

    Raises:
        FileNotFoundError: no checkpoint is there.
        ValueError: it is damaged, or the changed configuration is of another network.
    """
    folder = Path(folder)
    facts = read_config(folder) if facts is None else facts
    try:
        module = find_module(str(facts.get("system")))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    config = _read(folder, facts, "config", module.Config, changed or {})
    points = isinstance(facts.get("shape"), Mapping) and "manifold" in facts["shape"]
    shape = _read(folder, facts, "shape", PointShape if points else ImageShape, {})
    if isinstance(config, DenoiserTraining):
        # The weights are the ones that sample: no second, averaged network beside them.
        config = replace(config, ema_decay=0.0)
    calls = _CALLS_PER_TENSOR * (100 + len(tensor_facts(folder)))
    try:
        with torch.device("meta"), _AtMost(calls, folder):
            planned = module.build(config, shape)
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        if str(error).startswith(str(folder)):
            raise
        raise ValueError(f"{folder / CONFIG}: {_line(error)}") from error
    trained, asked = facts["config"].get("time_steps"), (changed or {}).get("time_steps")
    other = isinstance(trained, int) and asked not in (None, trained)
    try:
        check_generator(planned, folder)
    except ValueError as error:
        if not other:
            raise
        raise ValueError(
            f"time_steps={asked}: the weights are of {trained} spiking time steps, and a network "
            f"with weights for each step runs at those only ({error})"
        ) from error
    system: System = module.build(config, shape)
    load_generator(system, folder)
    check_numbers(system, folder)
    if other:
        with torch.device("meta"):
            original = module.build(replace(config, time_steps=trained), shape)
        trained_as(system, original)
    return system.to(device).eval()


def check_numbers(system: System, folder: Path) -> None:
    """Raise ValueError, naming file and tensor, where a weight or a threshold cannot be one."""
    try:
        check_finite(system.generator)
        for name, layer in spiking_layers(system.generator).items():
            for value in layer.theta.flatten().unique().tolist():
                check_threshold(value, f"{name}.theta")
    except ValueError as error:
        raise ValueError(f"{folder / MODEL}: {error}") from error


class _AtMost(TorchFunctionMode):
    """Limit on the calls of torch. A network with more layers than the file has tensors stops at
    ``calls`` calls."""

    def __init__(self, calls: int, folder: Path) -> None:
        super().__init__()
        self.left, self.folder = calls, folder

    def __torch_function__(
        self, function: Any, types: Iterable[type], args: tuple = (), kwargs: Any = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(
                f"{self.folder / CONFIG}: config: describes a network of far more layers than "
                f"{MODEL} has tensors"
            )
        return function(*args, **(kwargs or {}))


def _read(
    folder: Path, facts: Mapping[str, Any], name: str, kind: type[Any], changed: Mapping[str, Any]
) -> Any:
    """Read ``facts[name]`` as the dataclass ``kind``; unknown fields are left out."""
    values = facts.get(name)
    try:
        if not isinstance(values, Mapping):
            raise ValueError(f"expected an object, found {values!r}")
        known = {field.name for field in fields(kind)}
        kept = {k: v for k, v in complete(kind, values).items() if k in known} | dict(changed)
        if kind in (
            ImageShape,
            PointShape,
        ):  # a size is a number, not a text of one; fields may be converted
            return TypeAdapter(kind).validate_json(json.dumps(kept), strict=True)
        return TypeAdapter(kind).validate_python(kept)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, (name, *problem["loc"])))
        message = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"{folder / CONFIG}: {field}: {message}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG}: {name}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
