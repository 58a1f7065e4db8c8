"""Devices of a run, through Lightning Fabric, and the facts about them that a record keeps."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

from sddpm.hardware import processor_name
from sddpm.precision import fabric_precision
from sddpm.threads import cores, share

DeviceName = Literal["auto", "cpu", "cuda"]
_NODE_NUMBERS = ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID")
"""Variables in which Fabric, torchrun and SLURM give a machine's number."""
_PACKAGES = ("torch", "spikingjelly", "diffusers", "torch-fidelity", "sddpm-bench")


class Machine:
    """The devices of one run.

    Args:
        device: ``auto`` takes CUDA where there is one.
        devices: processes on each machine, one a device. With more than one, Fabric starts this
            command again for each, and every process must come to the same calls.
        nodes: machines, on each of which this command was started.

    Raises:
        ValueError: :func:`check_devices` refuses them, or nothing tells which of several machines
            this is.
    """

    def __init__(self, device: DeviceName = "auto", devices: int = 1, nodes: int = 1) -> None:
        self.kind = check_devices(device, devices)
        if nodes > 1 and not any(name in os.environ for name in _NODE_NUMBERS):
            raise ValueError(
                f"--nodes {nodes}: which machine is this? set NODE_RANK (from 0), MASTER_ADDR and "
                "MASTER_PORT, or start it with torchrun or srun"
            )
        self.devices, self.nodes = devices, nodes
        if each := share(devices):
            torch.set_num_threads(each)
        self._fabrics: dict[str, Fabric] = {}
        self._main = self.fabric("32-true")

    def fabric(self, precision: str) -> Fabric:
        """Fabric at ``precision``, its processes started."""
        if precision not in self._fabrics:
            # One process looks for no others, whatever a scheduler's variables say.
            alone = [LightningEnvironment()] if self.devices * self.nodes == 1 else []
            options = fabric_precision(precision, self.kind)
            fabric = Fabric(
                accelerator=self.kind,
                devices=self.devices,
                num_nodes=self.nodes,
                **{**options, "plugins": [*alone, *options.get("plugins", [])]},
            )
            fabric.launch()
            self._fabrics[precision] = fabric
        return self._fabrics[precision]

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return self._main.device

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self._main.global_rank)

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self._main.world_size)

    @property
    def first(self) -> bool:
        """Whether this process is the one that scores, records and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for the other processes."""
        self._main.barrier()

    @property
    def name(self) -> str:
        """The GPU's or the processor's name."""
        if self.kind == "cuda":
            count = f"{self.world} x " if self.world > 1 else ""
            return count + torch.cuda.get_device_name(self.device)
        return processor_name()

    @property
    def cores(self) -> int:
        """Processor cores that this process may use, by its affinity and its container's quota."""
        return cores()

    def peak_memory_mib(self) -> float:
        """Most memory held so far: by the device's allocator, or by this process on a CPU."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def check_devices(device: DeviceName, devices: int = 1) -> Literal["cpu", "cuda"]:
    """Kind of device that ``device`` means here; starts nothing.

    Raises:
        ValueError: CUDA is asked for and absent, or fewer devices are there than asked for.
    """
    available = torch.cuda.device_count()
    if device == "cuda" and not available:
        raise ValueError("--device cuda: no CUDA device is visible; use --device cpu or auto")
    if device == "cpu" or not available:
        return "cpu"
    if devices > available:
        raise ValueError(f"--devices {devices}: {available} CUDA devices are visible")
    return "cuda"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def git_commit() -> str:
    """Commit of the checkout that this code runs from, ``-dirty`` appended if it was changed;
    ``unknown`` where the code is installed outside one."""
    root = Path(__file__).resolve().parents[1]
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        # An environment inside another project's checkout must not report that project.
        if Path(top).resolve() != root:
            return "unknown"
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("-dirty" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()
