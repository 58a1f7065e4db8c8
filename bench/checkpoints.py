"""A checkpoint folder as the harness uses it: the facts of its config.json, its network, the
images that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.data.datasets import load
from bench.data.pictures import Images
from bench.files import read_json, write_json
from bench.machine import Machine
from bench.plan.cells import Training
from bench.registry import SYSTEMS, SystemEntry, choose, find, load_hook, load_module
from sddpm.checkpoint import CONFIG, find_checkpoint, read_config
from sddpm.opening import open_checkpoint
from sddpm.protocol import ImageShape, Shape, System, shape_from


@dataclass(frozen=True)
class Checkpoint:
    """A folder that holds a trained network, its config.json read and checked."""

    folder: Path
    facts: Mapping[str, Any]
    """Content of config.json; :func:`describe` lists the fields that a run writes."""
    network: System | None = None
    """The network of a folder in another project's format, whose facts only the network tells."""

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """The checkpoint in ``folder``.

        Raises:
            FileNotFoundError: no checkpoint is there.
            ValueError: it is damaged, or was not written by this harness.
        """
        facts = read_config(folder)
        wanted = ("system", "config", "shape", "dataset")
        lacking = [key for key in wanted if key not in facts]
        if lacking:
            raise ValueError(f"{folder}: its config.json does not say {', '.join(lacking)}")
        shape = facts["shape"]
        try:
            shape_from(shape if isinstance(shape, dict) else {})
        except ValueError as error:
            raise ValueError(f"{folder}: config.json: shape: {error}") from error
        choose(f"system in {folder}:", str(facts["system"]), SYSTEMS)
        return cls(folder, facts)

    @classmethod
    def find(cls, name: str | Path) -> Checkpoint:
        """The checkpoint that ``--ckpt`` names: a folder, also one in diffusers' format, or a
        shipped one's name.

        Raises:
            FileNotFoundError, ValueError: as :meth:`read`.
        """
        folder = find_checkpoint(name)
        try:
            return cls.read(folder)
        except (FileNotFoundError, ValueError):
            if not is_foreign(folder):
                raise
        system, read_foreign = load_hook("foreign")
        network: Any = read_foreign(folder)
        facts = {
            "system": system,
            "config": asdict(network.training_config),
            "shape": asdict(network.shape),
            "dataset": None,
        }
        return cls(folder, facts, network)

    @property
    def system(self) -> str:
        """Registered name of the system."""
        return str(self.facts["system"])

    @property
    def entry(self) -> SystemEntry:
        """The system's registry entry."""
        return find(self.system)

    @property
    def config(self) -> Mapping[str, Any]:
        """Fields of the system's Config, as JSON holds them."""
        config: Mapping[str, Any] = self.facts["config"]
        return config

    @property
    def shape(self) -> Shape:
        """Shape of the images, or of the points, that the network makes."""
        return shape_from(self.facts["shape"])

    @property
    def time_steps(self) -> int | None:
        """Spiking time steps of its configuration; None for systems without spiking time."""
        return self.config.get("time_steps")

    @property
    def train_seconds(self) -> float:
        """Duration of the training in seconds; ValueError if the checkpoint does not state it."""
        trainer = self.facts.get("trainer")
        seconds = trainer.get("seconds") if isinstance(trainer, dict) else None
        if not isinstance(seconds, int | float):
            raise ValueError(
                f"{self.folder}: its config.json does not say trainer.seconds; delete the folder "
                "to train it again"
            )
        return float(seconds)

    def load(self, machine: Machine, config: Mapping[str, Any] | None = None) -> System:
        """The system with its trained weights, on the machine's device, ready to sample.

        Args:
            config: fields of the system's Config that differ from the checkpoint's.

        Raises:
            ValueError, FileNotFoundError: the weights are damaged, missing or another network's.
        """
        if self.network is not None:
            return self.network.to(machine.device).eval()
        return open_checkpoint(self.folder, load_module, config, machine.device, self.facts)

    def images(
        self,
        split: str,
        data_root: str | Path | None,
        limit: int | None = None,
        dataset: str | None = None,
    ) -> Images:
        """A split of the data set that it was trained on, at its image size.

        Args:
            split: train or test.
            data_root: folder with a folder per data set; None is the Hub.
            limit: most images.
            dataset: in place of the one that it was trained on.

        Raises:
            ValueError: the checkpoint names no data set.
            FileNotFoundError: the data is not there.
        """
        dataset = dataset or self.facts["dataset"]
        if dataset is None:
            raise ValueError(
                f"{self.folder}: names no data set; import it with --dataset NAME, or give "
                "evaluate --dataset NAME"
            )
        if not isinstance(self.shape, ImageShape):
            raise ValueError(f"{self.folder}: makes points of a manifold, expected images")
        return load(dataset, split, image_size=self.shape.size, data_root=data_root, limit=limit)


def describe(training: Training) -> dict[str, Any]:
    """Facts of a training for its checkpoint's config.json, so that it can be used by itself."""
    return {
        "system": training.system,
        "config": dict(training.config),
        "shape": asdict(training.data.shape),
        "dataset": training.data.dataset,
        "dataset_label": training.data.label,
        "hash": training.hash,
        "parent_hash": training.parent.hash if training.parent else None,
    }


def claim(folder: Path, training: Training) -> None:
    """Mark ``folder`` as ``training``'s, so that another one is not taken for it.

    Raises:
        ValueError: it is another training's, or the file that says whose it is is damaged.
    """
    path = folder / "training.json"
    if path.is_file():
        if read_json(path, ("hash",))["hash"] != training.hash:
            raise ValueError(f"--out {folder}: holds a training with other settings")
        return
    found = _json(folder / "checkpoint" / CONFIG)
    if found and found.get("hash") != training.hash:
        raise ValueError(f"--out {folder}: holds the checkpoint of another training")
    facts = {**describe(training), "steps": training.steps, "seed": training.seed}
    write_json(path, facts)


def is_foreign(folder: Path) -> bool:
    """Whether ``folder`` holds a network in diffusers' format."""
    homes = (folder / "model_index.json", folder / "unet" / CONFIG)
    return any(home.is_file() for home in homes) or "_class_name" in _json(folder / CONFIG)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
