"""Checkpoints: a folder of safetensors and one JSON configuration, written atomically.

``config.json`` says what the weights are (system, configuration, image shape, training),
``model.safetensors`` holds the generator, and a checkpoint that training can go on from has
``trainer.safetensors`` besides: every network of the system and its optimisers' state.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sddpm.protocol import System
from sddpm.replacing import atomic_directory, recover_folder

FORMAT = 1
CONFIG, MODEL, TRAINER = "config.json", "model.safetensors", "trainer.safetensors"
REAL = {"F64", "F32", "F16", "BF16"}
"""Types, in safetensors' words, in which a file may hold real numbers."""
WHOLE = {"I64", "I32", "I16", "I8", "U8"}
"""The same of whole numbers."""
TensorFacts = tuple[tuple[int, ...], str]
"""Shape and type."""


def save_checkpoint(
    folder: str | Path,
    system: System,
    description: Mapping[str, Any],
    *,
    trainer: Mapping[str, Any] | None = None,
    half: bool = False,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write ``system`` to ``folder``, atomically.

    Args:
        description: JSON-ready facts for ``config.json`` (system, config, shape, training).
        trainer: JSON-ready state of the training loop; given, the checkpoint can be resumed.
        half: store the generator's weights in float16.
        extra: further text files, by name.
    """
    with atomic_directory(folder) as temporary:
        config = {"format": FORMAT, **description}
        weights = system.generator.state_dict()
        if half:
            weights = {k: _halved(k, v) for k, v in weights.items()}
        _save(weights, temporary / MODEL)
        for name, text in (extra or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        if trainer is not None:
            tensors, optimizers = _flatten(system)
            _save(tensors, temporary / TRAINER)
            config["trainer"] = {**trainer, "optimizers": optimizers}
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        # safetensors lets the owner alone read what it writes.
        for file in temporary.glob("*.safetensors"):
            shutil.copymode(temporary / CONFIG, file)


def _halved(key: str, value: Tensor) -> Tensor:
    if value.dtype != torch.float32:
        return value
    half = value.half()
    if not half.isfinite().all():
        raise ValueError(f"{key}: holds numbers above 65,504, which float16 cannot; save in full")
    return half


def check_plain(value: Tensor) -> None:
    """Raise ValueError if a tensor does not hold each of its numbers as such; the message follows
    the tensor's name."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        kind = "quantised" if value.is_quantized else "meta" if value.is_meta else "sparse"
        raise ValueError(f"is a {kind} tensor, expected plain numbers")


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    for key, value in tensors.items():
        try:
            check_plain(value)
        except ValueError as error:
            raise ValueError(f"{path.name}: {key} {error}") from error
    # Copies: safetensors refuses tensors that share memory (an EMA module and its parent do not,
    # a generator that is also a player does).
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    try:
        save_file(plain, path)
    except SafetensorError as error:  # it reports a full disk as text
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def shipped_checkpoints() -> dict[str, Path]:
    """Name -> folder of the checkpoints inside the package."""
    home = Path(str(resources.files("sddpm") / "checkpoints"))
    return {path.parent.name: path.parent for path in sorted(home.glob(f"*/{CONFIG}"))}


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a checkpoint: a path, or the name of a shipped one.

    Raises:
        FileNotFoundError: it is neither.
    """
    shipped = shipped_checkpoints()
    recover_folder(Path(name))
    if Path(name).is_dir():
        return Path(name)
    if str(name) in shipped:
        return shipped[str(name)]
    raise FileNotFoundError(
        f"{name}: not a checkpoint folder, nor one that is shipped "
        f"({', '.join(shipped) or 'none is'})"
    )


def read_config(folder: str | Path) -> dict[str, Any]:
    """The JSON configuration of a checkpoint folder.

    Raises:
        FileNotFoundError: ``folder`` is not there or holds no checkpoint.
        ValueError: its configuration is damaged or of a newer format.
    """
    recover_folder(Path(folder))
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: not a checkpoint folder (expected {CONFIG} and {MODEL} inside)"
        )
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: JSON nested too deeply for a configuration") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path}: format {found!r}, expected {FORMAT}")
    return config


def check_generator(system: System, folder: str | Path) -> None:
    """Compare the names and shapes of ``folder``'s weights with those of ``system.generator``.

    Args:
        system: its tensors are not read, and may be on the meta device.

    Raises:
        ValueError: the file is truncated, or its names or shapes are another network's.
    """
    _compare_file(Path(folder) / MODEL, system.generator.state_dict())


def load_generator(system: System, folder: str | Path) -> None:
    """Load ``folder``'s weights into ``system.generator``, strictly.

    Raises:
        ValueError: the file is truncated, or its names or shapes are another network's.
    """
    path = Path(folder) / MODEL
    generator = system.generator
    generator.load_state_dict(_read(path, generator.state_dict()), strict=True)


def load_trainer(system: System, folder: str | Path) -> dict[str, Any]:
    """Load everything training needs into ``system`` and return the loop's own state."""
    trainer = read_config(folder).get("trainer")
    path = Path(folder) / TRAINER
    if trainer is None:
        raise ValueError(f"{folder}: holds weights only, training cannot go on from it")
    tensors = _read(path, None)
    networks = {k.removeprefix("system."): v for k, v in tensors.items() if k[:7] == "system."}
    _compare(path, _shapes(networks), _shapes(system.state_dict()))
    system.load_state_dict(networks, strict=True)
    for name, optimizer in system.optimizers.items():
        saved = trainer["optimizers"].get(name)
        if saved is None:
            raise ValueError(f"{path}: no state of the optimiser {name!r}")
        state: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{name}."):
                index, field = key.removeprefix(f"optimizer.{name}.").split(".", 1)
                state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": saved})
    return trainer


def _flatten(system: System) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"system.{k}": v for k, v in system.state_dict().items()}
    groups: dict[str, Any] = {}
    for name, optimizer in system.optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for index, fields in state["state"].items():
            for field, value in fields.items():
                tensors[f"optimizer.{name}.{index}.{field}"] = torch.as_tensor(value)
    return tensors, groups


def _read(path: Path, expected: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    if expected is not None:
        _compare_file(path, expected)  # before memory is taken
    with _readable(path):
        return load_file(path)


def tensor_facts(folder: str | Path) -> dict[str, TensorFacts]:
    """Shape and type of every tensor in ``folder``'s weights, by name; none is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    return _facts(Path(folder) / MODEL)


def _facts(path: Path) -> dict[str, TensorFacts]:
    with _readable(path), safe_open(path, "pt") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        return {key: (tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}


def _compare_file(path: Path, expected: Mapping[str, Tensor]) -> None:
    found = _facts(path)
    _compare(path, {key: shape for key, (shape, _) in found.items()}, _shapes(expected))
    for key, tensor in expected.items():
        kinds = REAL if tensor.is_floating_point() else WHOLE
        if found[key][1] not in kinds:
            raise ValueError(
                f"{path}: {key} holds numbers of type {found[key][1]}, expected one of "
                f"{', '.join(sorted(kinds))}"
            )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name ``path`` if it is not there or damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the checkpoint folder is incomplete")
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from error


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def _compare(path: Path, found: dict[str, tuple], expected: dict[str, tuple]) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise ValueError(
            f"{path}: weights of another network: {len(missing)} names are missing "
            f"({', '.join(missing[:2])}) and {len(extra)} are unknown ({', '.join(extra[:2])})"
        )
    for key, shape in expected.items():
        if found[key] != shape:
            raise ValueError(f"{path}: {key} has shape {found[key]}, expected {shape}")


def count_parameters(module: nn.Module) -> int:
    """Numbers in a module's parameters and fixed embedding tables (the paper counts both)."""
    tables = sum(b.numel() for name, b in module.named_buffers() if name.endswith("table"))
    return sum(p.numel() for p in module.parameters()) + tables
