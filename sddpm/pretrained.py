"""SDDPM with the usual interface of models: ``from_pretrained``, ``sample``, ``save_pretrained``.

A folder is a checkpoint of :mod:`sddpm.checkpoint` (``config.json``, ``model.safetensors``)
with a model card beside it. Checkpoints that come with the package are opened by name, those on the
Hugging Face Hub by ``owner/name``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor

from sddpm import plus, system, taught, tsm
from sddpm.card import LIBRARY, PAPER, TAGS, TASK, model_card
from sddpm.checkpoint import CONFIG, MODEL, TRAINER, count_parameters, read_config, save_checkpoint
from sddpm.denoising import Denoiser
from sddpm.guidance import GUIDANCE, Guided, Thresholds, read_guided
from sddpm.hub import RECORD, find_or_fetch, hub_errors
from sddpm.opening import open_checkpoint
from sddpm.protocol import ImageShape, System, shape_from
from sddpm.published import load_published
from sddpm.rng import image_seeds
from sddpm.samplers import OnStep

KINDS: dict[str, ModuleType] = {
    "sddpm": system,
    "sddpm_tsm": tsm,
    "sddpm_plus": plus,
    "sddpm_plus_taught": taught,
}
FINDERS = "sddpm.systems"
"""Entry points of installed packages that add systems. Each is a function from a system's name to
its module (``Config``, ``build``), and raises ValueError for an unknown name."""
CARD = "README.md"
REPLACED = {CONFIG, MODEL, TRAINER, GUIDANCE, CARD, RECORD}
"""Files of a folder that a saved checkpoint replaces."""


def load(
    folder: str | Path, device: str | torch.device = "cpu", time_steps: int | None = None
) -> Model:
    """Open the checkpoint of any system: a folder, a shipped one by name, or ``owner/name`` on the
    Hub.

    Args:
        time_steps: spiking time steps to run with, where not the checkpoint's; for systems whose
            weights serve any.

    Returns:
        An :class:`SDDPM` where the checkpoint is of one, else a :class:`Model`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, of a system that nothing installed knows, or of one that has
            no spiking time.
    """
    folder = find_or_fetch(folder)
    kind = SDDPM if str(read_config(folder).get("system")) in KINDS else Model
    return kind._open(folder, find_module, device, time_steps)


def find_module(name: str) -> ModuleType:
    """The module of the system ``name``: SDDPM's own, or that of an installed package.

    Raises:
        ValueError: nothing knows it.
    """
    if name in KINDS:
        return KINDS[name]
    for point in entry_points(group=FINDERS):
        with suppress(ValueError):
            found: ModuleType = point.load()(name)
            return found
    raise ValueError(f"holds system {name!r}, which no installed package knows")


class Model:
    """A trained generative model, ready to sample.

    Args:
        system: built, with its weights.
        facts: content of its ``config.json``: at least system, config and shape.
    """

    def __init__(self, system: System, facts: Mapping[str, Any]) -> None:
        self.system = system.eval()
        self.facts = dict(facts)
        self.guided = Guided()
        """Guided thresholds and gain that came with the checkpoint; ``sample`` uses them by
        default."""
        self._time_steps: int | None = None
        """Spiking time steps of a network that was opened at others than its configuration's."""
        self.records: list[dict[str, Any]] = []
        """Measurements of these weights, as lines of ``records.jsonl``; the model card shows
        them."""

    @classmethod
    def _open(
        cls,
        folder: Path,
        find: Callable[[str], ModuleType],
        device: str | torch.device,
        time_steps: int | None,
    ) -> Self:
        facts = read_config(folder)
        config = facts.get("config")
        own = config.get("time_steps") if isinstance(config, Mapping) else None
        if time_steps is not None and own is None:
            raise ValueError(
                f"time_steps={time_steps}: {facts.get('system')} has no spiking time; leave it out"
            )
        changed = {} if time_steps is None else {"time_steps": time_steps}
        model = cls(open_checkpoint(folder, find, changed, device), facts)
        model.guided = read_guided(folder, own, own if time_steps is None else time_steps)
        model._time_steps = time_steps
        if (folder / RECORD).is_file():
            model.records = read_lines(folder / RECORD)
        return model

    def add_records(self, path: str | Path) -> int:
        """Take the measurements of these weights from the ``records.jsonl`` of a run.

        Returns:
            The number of lines that are of these weights, by the hash of their training.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: no line is of these weights, or one is no JSON.
        """
        own = self.facts.get("hash")
        found = [line for line in read_lines(Path(path)) if line.get("training_hash") == own]
        found = [line for line in found if line.get("metrics")]
        if not found or own is None:
            raise ValueError(f"{path}: no line is of the training {own}; expected its run's file")
        self.records = found
        return len(found)

    def sample(
        self,
        count: int,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        eta: float | None = None,
        threshold: Thresholds | None = None,
        gain: float | None = None,
        seed: int = 0,
        batch_size: int = 64,
        engine: str | None = None,
        on_batch: Callable[[int], None] | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw ``count`` images, uint8 ``[count, C, H, W]``, or points, float64
        ``[count, coordinates]``.

        Args:
            sampler: a key of :data:`sddpm.samplers.SAMPLERS`; sde_dpm_solver++ if None. This one
                and the next five are for systems that denoise.
            steps: network evaluations an image; 50 if None.
            eta: share of the ancestral noise, for samplers that have it; 0 if None.
            threshold: firing threshold while sampling; by default the checkpoint's guided one,
                else the trained one.
            gain: factor of the network's output while sampling; by default the checkpoint's guided
                one, else 1.
            engine: plain, exact or fast (:func:`sddpm.engine.network.optimize`); exact if None.
            seed: image ``i`` of a seed is the same at any count and batch size.
            batch_size: images drawn together.
            on_batch: called with the number of images done; ``on_step``: a look inside.

        Raises:
            ValueError: an option is unknown, out of range, or none of this system's.
        """
        for name, value in (("count", count), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        asked = dict(sampler=sampler, steps=steps, eta=eta, threshold=threshold, gain=gain,
                     engine=engine)  # fmt: skip
        draw = self._drawer({k: v for k, v in asked.items() if v is not None}, on_step)
        shape, parts = shape_from(self.facts["shape"]), []
        for start in range(0, count, batch_size):
            seeds = image_seeds(seed, start, min(start + batch_size, count))
            parts.append(shape.finished(draw(seeds)))
            if on_batch:
                on_batch(start + len(seeds))
        return torch.cat(parts)

    def _drawer(
        self, asked: dict[str, Any], on_step: OnStep | None
    ) -> Callable[[Sequence[int]], Tensor]:
        if isinstance(self.system, Denoiser):
            asked = {**self.guided.sampling(), **asked}
            return partial(self.system.sample, sampling=asked, on_step=on_step)
        if asked or on_step:
            odd = next(iter(asked), "on_step")
            raise ValueError(f"{odd}: {self.facts.get('system')} does not denoise; leave it out")
        return self.system.sample


class SDDPM(
    Model,
    ModelHubMixin,
    library_name=LIBRARY,
    license="apache-2.0",
    pipeline_tag=TASK,
    tags=list(TAGS),
    paper_url=f"https://arxiv.org/abs/{PAPER}",
):
    """A trained SDDPM, ready to sample, with the interface of the Hub's mixin.

    Args:
        denoiser: built, with its weights.
        facts: content of its ``config.json``: at least system, config and shape.
    """

    def __init__(self, denoiser: Denoiser, facts: Mapping[str, Any]) -> None:
        super().__init__(denoiser, facts)
        self.denoiser = denoiser

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        time_steps: int | None = None,
        **hub: Any,
    ) -> SDDPM:
        """Open a checkpoint: a folder, a shipped checkpoint by name, or ``owner/name`` on the Hub.

        A folder or a shipped name comes first; only where there is neither is the Hub asked.

        Args:
            time_steps: spiking time steps to run with, where not the checkpoint's. The read-out
                keeps the sum of those that were trained; ``save_pretrained`` keeps them too.
            hub: options of :func:`sddpm.hub.fetch`, such as ``revision`` and ``token``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or another system's.
            OSError: the Hub refuses, or answers with an error.
        """
        where = find_or_fetch(folder, **hub)
        name = read_config(where).get("system")
        if str(name) not in KINDS:
            raise ValueError(
                f"{folder}: holds system {name!r}, expected {' or '.join(KINDS)}; sddpm.load opens "
                "others"
            )
        return cls._open(where, find_module, device, time_steps)

    @classmethod
    def from_published(
        cls,
        path: str | Path,
        time_steps: int | None = None,
        threshold: float = 1.0,
        image_size: int = 32,
    ) -> SDDPM:
        """Import a checkpoint in the authors' format, with TSM or without (see
        :func:`sddpm.load_published`)."""
        net = load_published(path, time_steps, threshold)
        unet = net.config
        kind = "sddpm_tsm" if unet.temporal_scaling else "sddpm"
        config = KINDS[kind].Config(
            time_steps=unet.time_steps, threshold=threshold, **unet.widths()
        )
        denoiser = KINDS[kind].build(config, ImageShape(unet.image_channels, image_size))
        denoiser.net.load_state_dict(net.state_dict(), strict=True)
        facts = {
            "system": kind,
            "config": asdict(config),
            "shape": asdict(denoiser.shape),
            "dataset": None,
            "source": Path(path).name,
        }
        return cls(denoiser, facts)

    def save_pretrained(  # type: ignore[override]
        self,
        folder: str | Path,
        *,
        half: bool = False,
        config: None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the checkpoint and its model card to ``folder``, atomically.

        Args:
            folder: new, empty, or a checkpoint, which is replaced.
            half: store the weights in float16, at half the size.
            config: None; the Hub's mixin passes it, and the configuration is the network's own.
            model_card_kwargs: further arguments of :func:`sddpm.card.model_card`.

        Raises:
            ValueError: it is a file, or holds other files, which would be lost.
        """
        if config is not None:
            raise ValueError("config: expected None, since the network has its configuration")
        folder = Path(folder).resolve()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder}: is a file; give a folder")
        odd = {file.name for file in folder.glob("*")} - REPLACED
        if odd:
            raise ValueError(
                f"{folder}: holds {sorted(odd)[0]}, which is no part of a checkpoint; give a new "
                "folder"
            )
        facts = {k: v for k, v in self.facts.items() if k not in ("format", "trainer")}
        parameters = count_parameters(self.denoiser.generator)
        card = model_card(self.facts, parameters, self.records, **(model_card_kwargs or {}))
        extra = {CARD: card}
        if self.guided != Guided():
            at = {} if self._time_steps is None else {"time_steps": self._time_steps}
            extra[GUIDANCE] = json.dumps({**self.guided.stored(), **at}, indent=2) + "\n"
        if self.records:
            extra[RECORD] = "".join(json.dumps(record) + "\n" for record in self.records)
        save_checkpoint(folder, self.denoiser, facts, half=half, extra=extra)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the checkpoint and its model card to ``repo_id``, ``owner/name``, which is made
        where it is not there.

        Args:
            options: of ``huggingface_hub.ModelHubMixin.push_to_hub``: private, token, branch,
                commit_message, create_pr.

        Returns:
            The address of the commit.

        Raises:
            PermissionError: the token may not write there.
            OSError: the Hub cannot be reached, or answers with an error.
        """
        named = {"model_card_kwargs": {"name": repo_id}, **options}
        with hub_errors(repo_id):
            return str(super().push_to_hub(repo_id, **named))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON object.
    """
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if text.strip():
            try:
                content = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(content, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object")
            found.append(content)
    return found


def import_published(
    path: Path,
    folder: Path,
    *,
    time_steps: int | None,
    threshold: float,
    image_size: int,
    dataset: str | None,
) -> int:
    """Turn a checkpoint in the authors' format into a checkpoint folder.

    Args:
        time_steps: spiking time steps; None: the file's, or 4 (:func:`sddpm.load_published`).
        dataset: name of the data that it was trained on, for ``config.json``.

    Returns:
        The network's parameters.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of that format, or an option does not fit the network.
    """
    model = SDDPM.from_published(path, time_steps, threshold, image_size)
    model.facts.update(dataset=dataset, dataset_label=dataset)
    model.save_pretrained(folder)
    return count_parameters(model.denoiser.generator)
