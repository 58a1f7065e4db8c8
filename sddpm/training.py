"""Training: one loop on Lightning Fabric.

Fabric owns devices, precision, several GPUs and several machines. Everything random in step
``n`` comes from a stream seeded with (seed, n), and the order of the images from (seed, epoch),
so a run that was killed goes on from its last checkpoint exactly as if it had not been.
"""

from __future__ import annotations

import json
import re
import reprlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from sddpm.checkpoint import load_trainer, read_config, save_checkpoint
from sddpm.graphed import GraphedModule
from sddpm.precision import fabric_precision
from sddpm.progress import progress_bar
from sddpm.protocol import System, to_float
from sddpm.rng import mix
from sddpm.shared_norm import share_statistics

_DATA, _NOISE, _LAYERS = 1, 2, 3  # which stream of a step


class ImageSource(Protocol):
    """Source of images: a map-style data set that is read one batch at a time."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Tensor:
        """uint8 images ``[len(indices), C, H, W]``."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    steps: int
    """Updates."""
    batch_size: int
    """Images an update, over all processes."""
    seed: int = 0
    """Seed of the image order, the noise and the initial weights."""
    precision: str = "32-true"
    """Lightning Fabric's name: 32-true or bf16-mixed."""
    horizontal_flip: bool = False
    """Mirror every image with probability 1/2."""
    checkpoint_seconds: float = 120.0
    """Seconds between two checkpoints, which is the most work that a killed run loses."""
    log_every: int = 20
    """Steps between two points of the TensorBoard log."""
    workers: int = 0
    """Processes that decode images; 0 where the images are in memory."""


@dataclass(frozen=True)
class TrainReport:
    """Facts about a finished training."""

    checkpoint: Path
    steps: int
    train_images: int
    """Images seen, repeats counted."""
    seconds: float
    """Wall time of all the run's parts."""
    losses: dict[str, float]
    """Each loss averaged over the last tenth of the run."""


class TrainStep:
    """The :class:`sddpm.protocol.Step` of one update."""

    def __init__(
        self,
        number: int,
        total: int,
        fabric: Fabric,
        players: Mapping[str, tuple],
        seed: int,
        labels: Tensor | None = None,
    ) -> None:
        self.number, self.total, self.labels = number, total, labels
        self._fabric, self._players = fabric, players
        self._rng = torch.Generator(fabric.device).manual_seed(mix(seed, _NOISE, number))

    def module(self, name: str) -> Callable[..., Any]:
        return self._players[name][0]

    def update(self, name: str, loss: Tensor, *, lr: float, clip: float | None = None) -> None:
        module, optimizer = self._players[name]
        optimizer.zero_grad(set_to_none=True)
        self._fabric.backward(loss)
        if clip is not None:
            self._fabric.clip_gradients(module, optimizer, max_norm=clip, error_if_nonfinite=False)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        optimizer.step()

    def gather(self, values: Tensor) -> Tensor:
        if self._fabric.world_size == 1:
            return values
        return self._fabric.all_gather(values).flatten(0, 1)

    def randn(self, *shape: int) -> Tensor:
        return self._mine(torch.randn, shape)

    def rand(self, *shape: int) -> Tensor:
        return self._mine(torch.rand, shape)

    def randint(self, high: int, *shape: int) -> Tensor:
        def draw(size: tuple[int, ...], **options: Any) -> Tensor:
            return torch.randint(high, size, **options)

        return self._mine(draw, shape)

    def _mine(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        size = (shape[0] * self._fabric.world_size, *shape[1:])
        drawn = draw(size, generator=self._rng, device=self._fabric.device)
        return drawn[self._fabric.global_rank * shape[0] :][: shape[0]]


class StepSampler(Sampler[list[int]]):
    """Indices of this process's share of each step's batch.

    Epoch ``e`` is a permutation seeded with (seed, e); step ``n`` takes the ``n``-th run of
    ``batch_size`` images of the endless sequence of epochs.
    """

    def __init__(self, size: int, config: TrainConfig, start: int, rank: int, world: int) -> None:
        if size < 1:
            raise ValueError("the training set holds no images")
        if config.batch_size % world:
            raise ValueError(
                f"batch_size={config.batch_size} cannot be shared by {world} processes: "
                f"use a multiple of {world}"
            )
        self._size, self._config, self._start = size, config, start
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._config.steps - self._start

    def __iter__(self) -> Iterator[list[int]]:
        share = self._config.batch_size // self._world
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for step in range(self._start, self._config.steps):
            first = step * self._config.batch_size + self._rank * share
            indices = []
            for position in range(first, first + share):
                if position // self._size != epoch:
                    epoch = position // self._size
                    rng = torch.Generator().manual_seed(mix(self._config.seed, _DATA, epoch))
                    order = torch.randperm(self._size, generator=rng)
                indices.append(int(order[position % self._size]))
            yield indices


def fit(
    system: System,
    images: ImageSource,
    *,
    config: TrainConfig,
    folder: str | Path,
    description: Mapping[str, Any],
    fabric: Fabric | None = None,
    progress: bool = True,
) -> TrainReport:
    """Train ``system`` on ``images`` and leave its checkpoint in ``folder/checkpoint``.

    Resumes from ``folder/steps`` if the run was killed, and returns at once if it is done.

    Args:
        system: built, with its initial weights.
        images: uint8 images; for a system with classes, their ``labels`` as well.
        folder: receives ``steps/`` (while it runs), ``log/`` (TensorBoard) and ``checkpoint/``.
        description: facts for the checkpoint's ``config.json``: system, config, shape.
        fabric: devices and precision; by default one CPU or GPU process at ``config.precision``.
        progress: show a bar with loss and images a second on standard error.

    Raises:
        ValueError: a checkpoint in ``folder`` is of another run, the loss became NaN, or the images
            lack the classes that the system is told.
    """
    folder = Path(folder)
    final, steps_folder = folder / "checkpoint", folder / "steps"
    newest = _newest(steps_folder)
    for there in (final if final.exists() else None, newest):
        if there is not None:
            _check_own(there, description, config)
    if final.exists():
        return _report(final)
    if fabric is None:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        fabric = Fabric(devices=1, **fabric_precision(config.precision, kind))

    # Restore: optimisers keep references to the parameters, so state is loaded before Fabric wraps.
    start, seconds, recent = 0, 0.0, {}
    system.to(fabric.device)
    if newest is not None:
        state = load_trainer(system, newest)
        start, seconds, recent = state["step"], state["seconds"], state["losses"]

    labels = labels_for(system, images)
    players = set_up(system, fabric)
    sampler = StepSampler(len(images), config, start, fabric.global_rank, fabric.world_size)
    loader: DataLoader[Tensor] = DataLoader(
        images,  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=_as_is,  # type: ignore[arg-type]
        num_workers=config.workers,
        pin_memory=fabric.device.type == "cuda",
    )
    logger = TensorBoardLogger(folder, name=None, version="log") if fabric.is_global_zero else None

    def save(target: Path, step: int, elapsed: float) -> None:
        if fabric.is_global_zero:
            state = {"step": step, "seconds": elapsed, "losses": recent}
            facts = {**description, "training": asdict(config)}
            save_checkpoint(target, system, facts, trainer=state)
        fabric.barrier()

    # Train.
    system.train()
    begun = saved = time.monotonic()
    shown = progress and fabric.is_global_zero
    with progress_bar("train", config.steps, "steps", done=start, shown=shown) as bar:
        # The loader's order, once more: which images stand in each batch.
        batches = zip(loader, sampler, strict=True)
        for number, (batch, indices) in enumerate(batches, start=start):
            own = None if labels is None else labels[indices].to(fabric.device)
            step = TrainStep(number, config.steps, fabric, players, config.seed, own)
            # Layers such as dropout draw from the global generator.
            torch.manual_seed(mix(config.seed, _LAYERS, number, fabric.global_rank))
            x = to_float(batch.to(fabric.device, non_blocking=True))
            if config.horizontal_flip:
                x = torch.where(step.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
            losses = system.train_step(x, step)
            done = number + 1
            if done % config.log_every == 0 or done == config.steps:
                # Each process knows the loss of its share of the batch.
                losses = {name: fabric.all_reduce(value) for name, value in losses.items()}
                values = {name: float(value) for name, value in losses.items()}
                for name, value in values.items():
                    if value != value:
                        raise ValueError(f"{folder}: {name} is NaN at step {done}; lower the rate")
                    weight = config.log_every / max(config.log_every, config.steps / 10)
                    old = recent.get(name, value)
                    recent[name] = old + weight * (value - old)
                now = time.monotonic()
                speed = (done - start) * config.batch_size / (now - begun)
                if logger is not None:
                    logger.log_metrics({**values, "images_per_second": speed}, done)
                loss = " ".join(f"{name} {value:.4f}" for name, value in recent.items())
                bar.update(done=done, note=f"{speed:.0f} images/s {loss}")
            now = time.monotonic()
            # Every process must agree, so the first one's clock decides.
            if fabric.broadcast(now - saved > config.checkpoint_seconds) and done < config.steps:
                save(steps_folder / f"step-{done:09d}", done, seconds + now - begun)
                _keep_newest(steps_folder, fabric.is_global_zero)
                saved = time.monotonic()

    # Finish.
    _lay_out(system, torch.contiguous_format)
    save(final, config.steps, seconds + time.monotonic() - begun)
    if fabric.is_global_zero:
        shutil.rmtree(steps_folder, ignore_errors=True)
        if logger is not None:
            logger.finalize("success")
    return _report(final)


def labels_for(system: System, images: ImageSource) -> Tensor | None:
    """The class of every image, ``[len(images)]`` int64, if ``system`` is told classes; else None.

    Raises:
        ValueError: the images have no labels, or labels of more classes.
    """
    if not system.classes:
        return None
    labels: Tensor | None = getattr(images, "labels", None)
    expected = f"classes={system.classes}: expected images with labels"
    if labels is None:
        raise ValueError(f"{expected}, and this data set has none; use classes=0")
    most = int(labels.max()) + 1
    if most > system.classes or int(labels.min()) < 0:
        raise ValueError(f"{expected} from 0 to {system.classes - 1}; this data set has {most}")
    return labels


def set_up(system: System, fabric: Fabric) -> dict[str, tuple[Any, Any]]:
    """Wrap the networks and optimisers of ``system``, already on its device, for training steps.

    Networks become CUDA graphs where a GPU gains by them; several processes share the batch
    statistics of their normalisations.

    Returns:
        Player's name -> its network and its optimiser under Fabric, as :class:`TrainStep` takes
        them.
    """
    _lay_out(system, torch.channels_last)
    if fabric.world_size > 1:
        for name in system.optimizers:
            share_statistics(getattr(system, name))
    return {
        name: fabric.setup(_launched(system, name, fabric), optimizer, move_to_device=False)
        for name, optimizer in system.optimizers.items()
    }


def _lay_out(system: System, order: torch.memory_format) -> None:
    """Put the weights that are trained in channels-last memory into this order."""
    for name in system.channels_last:
        module = getattr(system, name)
        if module is not None:
            module.to(memory_format=order)


def _launched(system: System, name: str, fabric: Fabric) -> nn.Module:
    """The module ``name``, as graphs where a GPU gains by them."""
    module: nn.Module = getattr(system, name)
    # Gradients that several processes exchange need the hooks of each parameter.
    graphs = fabric.device.type == "cuda" and fabric.world_size == 1
    return GraphedModule(module) if graphs and name in system.graphable else module


def _as_is(batch: Tensor) -> Tensor:
    return batch


def precision_of(folder: Path) -> str | None:
    """Precision of the training in ``folder``, finished or not; None: there is none."""
    final = folder / "checkpoint"
    there = final if final.exists() else _newest(folder / "steps")
    return None if there is None else read_config(there)["training"]["precision"]


def _check_own(there: Path, description: Mapping[str, Any], config: TrainConfig) -> None:
    """Raise ValueError if the checkpoint ``there`` is of another training. What only one side
    states, as a field that an older version did not have, makes no other training."""
    facts = json.dumps({**description, "training": asdict(config)})
    stored, wanted = _identity(read_config(there)), _identity(json.loads(facts))
    for name, value in stored.items():
        if name in wanted and wanted[name] != value:
            raise ValueError(
                f"{there}: is of another training: its {name} is {reprlib.repr(value)}, not "
                f"{reprlib.repr(wanted[name])}; give another folder"
            )


def _identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that make a training this one, of the content of its checkpoint's config.json."""
    config, training = facts.get("config") or {}, facts.get("training") or {}
    whole = {name: facts[name] for name in ("hash", "system", "shape") if name in facts}
    run = {name: training[name] for name in ("steps", "batch_size", "seed") if name in training}
    return {**config, **run, **whole}


def _newest(steps_folder: Path) -> Path | None:
    found = sorted(p for p in steps_folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name))
    return found[-1] if found else None


def _keep_newest(steps_folder: Path, first_process: bool) -> None:
    if first_process:
        newest = _newest(steps_folder)
        for path in steps_folder.glob("step-*"):
            if path != newest:
                shutil.rmtree(path, ignore_errors=True)


def _report(checkpoint: Path) -> TrainReport:
    config = read_config(checkpoint)
    state, training = config["trainer"], config["training"]
    images = training["steps"] * training["batch_size"]
    return TrainReport(checkpoint, state["step"], images, state["seconds"], state["losses"])
