"""A sweep as Ray tasks: trainings and cells on the cores and GPUs of one machine or of many.

A task is one training or one cell; a cell waits for its training, a training for its parent's.
Workers write what a local run writes, into the same folder, which all machines must share, so a
task whose worker is lost goes on where that one stopped. The driver alone writes records and
table. Ray is imported inside: it is an extra.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bench.machine import DeviceName, Machine
from bench.plan.cells import Cell, Training
from bench.plan.plan import Plan
from bench.records.record import Record
from bench.registry import choose
from bench.run.runner import TRAINING_FAILED, Runner
from sddpm.progress import progress_bar
from sddpm.threads import cores

RETRIES = 3
"""Number of new starts of a task whose worker or machine was lost."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Object store of a local cluster in bytes. Results go through files, so Ray transports very
little."""
ANSWER_SECONDS = 10.0
"""Seconds for which a cluster's address may stay silent."""

Failure = tuple[str, str]
"""Hash of the training that failed, and why."""


@dataclass(frozen=True)
class Needs:
    """Resources that one task occupies."""

    cpus: int = 1
    """Cores, and threads."""
    gpus: float = 1.0
    """Share of a GPU, or several, where the tasks run on GPUs."""


@dataclass(frozen=True)
class Job:
    """Instructions for every task of a sweep."""

    plan: Plan
    device: DeviceName
    cpus: int

    def runner(self) -> Runner:
        """Runner that does one task, in the worker."""
        torch.set_num_threads(self.cpus)
        return Runner(self.plan, Machine(self.device), progress=False)


def parse_workers(text: str) -> str:
    """The address in ``ray:ADDRESS``; ``local`` for ``ray``, a cluster of this machine alone.

    Raises:
        ValueError: it is neither.
    """
    kind, colon, address = text.partition(":")
    try:
        choose("kind of workers", kind, ["ray"])
    except ValueError as error:
        raise ValueError(f"--workers {text}: {error}") from error
    if colon and not address:
        raise ValueError(f"--workers {text}: expected ray or ray:ADDRESS, as ray:10.0.0.1:6379")
    return address or "local"


def on_ray(
    address: str,
    device: DeviceName,
    needs: Needs,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> Callable[[Runner], Iterator[Record]]:
    """Function for :meth:`bench.run.runner.Runner.run` that distributes its cells over a Ray
    cluster.

    Args:
        address: of a running cluster (``auto`` finds this machine's); ``local`` starts one here
            for the time of the run.
        device: ``auto`` takes GPUs where the cluster has any.
        folder: for the files of a cluster that is started here; Ray's own choice if None.

    Raises:
        ValueError: Ray is not installed, nothing answers at the address, or no machine of the
            cluster has what a task needs.
    """

    def spread(runner: Runner) -> Iterator[Record]:
        ray = _connect(address, folder)
        try:
            kind = _kind(ray, device, needs)
            yield from _sweep(ray, runner, kind, needs, progress)
        finally:
            ray.shutdown()

    return spread


def _sweep(
    ray: ModuleType, runner: Runner, device: DeviceName, needs: Needs, progress: bool
) -> Iterator[Record]:
    plan = runner.plan
    todo = []
    for cell in plan.cells:
        known = runner.known(cell)
        if known is None:
            todo.append(cell)
        else:
            runner.say(f"{cell.label}: done before")
            yield known

    gpus = needs.gpus if device == "cuda" else 0
    declared = {"num_cpus": needs.cpus, "num_gpus": gpus, "max_retries": RETRIES}
    train, make = ray.remote(_train), ray.remote(_make)
    job = ray.put(Job(_shared(runner), device, needs.cpus))
    trainings: dict[str, Any] = {}
    labels: dict[Any, str] = {}

    def trained(training: Training) -> Any:
        """The task of a training, submitted once, after its parent's."""
        if training.hash not in trainings:
            parent = trained(training.parent) if training.parent else None
            ref = train.options(name=training.name, **declared).remote(job, training, parent)
            trainings[training.hash], labels[ref] = ref, training.name
        return trainings[training.hash]

    cells = {
        make.options(name=cell.name, **declared).remote(job, cell, trained(cell.training)): cell
        for cell in todo
    }
    pending = [*labels, *cells]
    with progress_bar("ray", len(pending), "tasks", shown=progress) as bar:
        while pending:
            (ref,), pending = ray.wait(pending, num_returns=1)
            bar.advance()
            bar.update(note=labels.get(ref) or cells[ref].label)
            result = _result(ray, runner, ref)
            if ref in labels:
                continue
            cell = cells[ref]
            done = len(cells.keys() - set(pending))
            runner.say(f"[{done}/{len(cells)}] {cell.label}")
            if isinstance(result, Record):
                if result.status == "failed":
                    runner.say(f"  failed: {result.reason}")
                yield result
            else:
                yield runner.failure(cell, _told(result, cell, todo))


def _train(job: Job, training: Training, parent: Failure | None) -> Failure | None:
    """Run one training in a worker; its parent is there unless it failed."""
    if parent is not None:
        return parent
    runner = job.runner()
    try:
        runner.train(training)
    except Exception as error:
        return training.hash, runner.reason(error)
    return None


def _make(job: Job, cell: Cell, training: Failure | None) -> Record | Failure:
    """Make one cell in a worker; its training is there unless it failed."""
    return training or job.runner().make(cell)


def _result(ray: ModuleType, runner: Runner, ref: Any) -> Record | Failure | None:
    """Result of a task; a failure that no other cell shares if it returned nothing."""
    try:
        found: Record | Failure | None = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError) and error.cause.errno == errno.ENOSPC:
            raise error.cause from None
        return "", runner.reason(error.cause)
    except ray.exceptions.RayError as error:
        lost = str(error).strip().splitlines() or [type(error).__name__]
        return "", f"its worker was lost {RETRIES + 1} times: {lost[0]}"
    return found


def _told(failure: Failure | None, cell: Cell, cells: Sequence[Cell]) -> str:
    """A failed training's reason as a local run words it: whole for the first cell that it stops,
    as hearsay for the others."""
    training, reason = failure or ("", "its worker returned nothing")
    stopped = [other for other in cells if training in _chain(other.training)]
    return reason if not stopped or stopped[0] == cell else f"{TRAINING_FAILED}: {reason}"


def _chain(training: Training) -> list[str]:
    return [training.hash, *(_chain(training.parent) if training.parent else [])]


def _shared(runner: Runner) -> Plan:
    """The plan with paths that hold in any folder, and the extractor that the driver settled on."""
    plan = runner.plan
    root, weights = plan.options.data_root, plan.options.extractor_weights
    options = replace(
        plan.options,
        data_root=str(Path(root).expanduser().resolve()) if root else None,
        extractor=runner.extractor.name,
        extractor_weights=weights.expanduser().resolve() if weights else None,
    )
    return replace(plan, options=options, root=plan.root.resolve())


def _connect(address: str, folder: Path | None) -> ModuleType:
    # Ray would otherwise report the use of it to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError("--workers ray: Ray is not installed; pip install 'ray>=2.50'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        options["num_cpus"] = cores()  # Ray knows a container's quota, but not always the affinity
        if folder is not None:
            options["_temp_dir"] = str(folder.expanduser().resolve())
    else:
        _answers(address)
    try:
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if "AF_UNIX" in text:
            named = f"--ray-folder {folder}" if folder else "the temporary folder (TMPDIR)"
            raise ValueError(
                f"{named}: has too long a path for Ray, whose sockets in it may have names of at "
                "most 107 bytes; give a short one, as --ray-folder /tmp/ray"
            ) from error
        raise ValueError(f"--workers ray:{address}: no Ray cluster there ({text})") from error
    return ray


def _answers(address: str) -> None:
    """Raise ValueError if no server listens: Ray itself would try for minutes, then exit."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(f"--workers ray:{address}: nothing answers there ({error})") from error


def _kind(ray: ModuleType, device: DeviceName, needs: Needs) -> DeviceName:
    """Whether tasks run on ``cuda`` or ``cpu``, by the resources of the machines."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(machine.get("GPU") for machine in machines)
    kind: DeviceName = "cuda" if device != "cpu" and (has_gpus or device == "cuda") else "cpu"
    gpus = needs.gpus if kind == "cuda" else 0
    if not any(m.get("CPU", 0) >= needs.cpus and m.get("GPU", 0) >= gpus for m in machines):
        asked = f"{needs.cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        largest = max(int(machine.get("CPU", 0)) for machine in machines)
        most = max(machine.get("GPU", 0) for machine in machines)
        raise ValueError(
            f"--workers: a task needs {asked}, and no machine of the cluster has them (at most "
            f"{largest} CPUs, {most:g} GPUs); lower --worker-cpus or --worker-gpus, or --device cpu"
        )
    return kind
