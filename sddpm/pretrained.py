"""SDDPM as the ecosystem uses models: ``from_pretrained``, ``sample``, ``save_pretrained``.

A folder is a checkpoint of :mod:`sddpm.checkpoint` (``config.json``, ``model.safetensors``)
with a model card beside it. Checkpoints that come with the package are opened by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from sddpm import system, tsm
from sddpm.checkpoint import (
    CONFIG,
    MODEL,
    TRAINER,
    check_generator,
    count_parameters,
    find_checkpoint,
    load_generator,
    read_config,
    save_checkpoint,
)
from sddpm.configuration import complete
from sddpm.denoising import Denoiser
from sddpm.guidance import GUIDANCE, Thresholds, read_guidance
from sddpm.protocol import ImageShape, to_uint8
from sddpm.published import load_published
from sddpm.rng import image_seeds
from sddpm.samplers import OnStep

KINDS: dict[str, ModuleType] = {"sddpm": system, "sddpm_tsm": tsm}
CARD = "README.md"
REPLACED = {CONFIG, MODEL, TRAINER, GUIDANCE, CARD}
"""What a saved checkpoint takes the place of."""


class SDDPM:
    """A trained SDDPM, ready to sample.

    Args:
        denoiser: built, with its weights.
        facts: content of its ``config.json``: at least system, config and shape.
    """

    def __init__(self, denoiser: Denoiser, facts: Mapping[str, Any]) -> None:
        self.denoiser = denoiser.eval()
        self.facts = dict(facts)
        self.thresholds: Thresholds | None = None
        """Guided thresholds that came with the checkpoint; ``sample`` uses them by default."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> SDDPM:
        """Open a checkpoint folder, or a shipped checkpoint by name.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or another system's.
        """
        folder = find_checkpoint(folder)
        facts = read_config(folder)
        module = KINDS.get(str(facts.get("system")))
        if module is None:
            raise ValueError(
                f"{folder}: holds system {facts.get('system')!r}, expected {' or '.join(KINDS)}"
            )
        # The weights are the ones that sample: no second, averaged network beside them.
        config = replace(_read(folder, facts, "config", module.Config), ema_decay=0.0)
        shape = _read(folder, facts, "shape", ImageShape)
        with torch.device("meta"):  # shapes are compared before memory is taken
            check_generator(module.build(config, shape), folder)
        denoiser = module.build(config, shape)
        load_generator(denoiser, folder)
        model = cls(denoiser.to(device), facts)
        model.thresholds = read_guidance(folder)
        return model

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

    def sample(
        self,
        count: int,
        *,
        sampler: str = "ddim",
        steps: int = 50,
        eta: float = 0.0,
        threshold: Thresholds | None = None,
        seed: int = 0,
        batch_size: int = 64,
        engine: str = "exact",
        on_batch: Callable[[int], None] | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw ``count`` images, uint8 ``[count, C, H, W]``.

        Args:
            sampler: a key of :data:`sddpm.samplers.SAMPLERS`.
            steps: network evaluations an image.
            eta: share of the ancestral noise, for samplers that have it.
            threshold: firing threshold while sampling; by default the checkpoint's guided one,
                else the trained one.
            seed: image ``i`` of a seed is the same at any count and batch size.
            engine: plain, exact or fast (:func:`sddpm.engine.network.optimize`).
            on_batch: called with the number of images done; ``on_step``: a look inside.

        Raises:
            ValueError: an option is unknown or out of range.
        """
        if count < 1:
            raise ValueError(f"count={count}: expected at least 1")
        chosen = self.thresholds if threshold is None else threshold
        options = {
            "sampler": sampler, "steps": steps, "eta": eta, "threshold": chosen, "engine": engine,
        }  # fmt: skip
        parts = []
        for start in range(0, count, batch_size):
            seeds = image_seeds(seed, start, min(start + batch_size, count))
            parts.append(to_uint8(self.denoiser.sample(seeds, options, on_step)))
            if on_batch:
                on_batch(start + len(seeds))
        return torch.cat(parts)

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the checkpoint and its model card to ``folder``, atomically.

        Args:
            folder: new, empty, or a checkpoint, which is replaced.
            half: store the weights in float16, at half the size.

        Raises:
            ValueError: the folder holds other files, which would be lost.
        """
        folder = Path(folder).resolve()
        odd = {file.name for file in folder.glob("*")} - REPLACED
        if odd:
            raise ValueError(
                f"{folder}: holds {sorted(odd)[0]}, which is no part of a checkpoint; give a new "
                "folder"
            )
        facts = {k: v for k, v in self.facts.items() if k not in ("format", "trainer")}
        extra = {CARD: model_card(self.facts, count_parameters(self.denoiser.generator))}
        if self.thresholds is not None:
            extra[GUIDANCE] = json.dumps({"thresholds": self.thresholds}, indent=2) + "\n"
        save_checkpoint(folder, self.denoiser, facts, half=half, extra=extra)


def _read(folder: Path, facts: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """``facts[name]`` as the dataclass ``kind``; fields that it does not know are left out."""
    values = facts.get(name)
    try:
        if not isinstance(values, Mapping):
            raise ValueError(f"expected an object, found {values!r}")
        known = {field.name for field in fields(kind)}
        found = {k: v for k, v in complete(kind, values).items() if k in known}
        return TypeAdapter(kind).validate_python(found)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, (name, *problem["loc"])))
        raise ValueError(f"{folder / CONFIG}: {field}: {problem['msg']}") from error
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {name}: {error}") from error


def model_card(facts: Mapping[str, Any], parameters: int) -> str:
    """The model card, Markdown with the Hub's front matter."""
    config, shape = facts["config"], facts["shape"]
    training = facts.get("training") or {}
    images = training.get("steps", 0) * training.get("batch_size", 0)
    trained = (
        f"{training['steps']:,} steps of {training['batch_size']} images ({images:,} images), "
        f"seed {training['seed']}, {training['precision']}"
        if training
        else f"imported from {facts.get('source', 'elsewhere')}"
    )
    multipliers = " ".join(map(str, config["multipliers"]))
    dataset = facts.get("dataset_label") or facts.get("dataset") or "not stated"
    return f"""---
library_name: sddpm-bench
license: apache-2.0
pipeline_tag: unconditional-image-generation
tags: [spiking-neural-network, diffusion, sddpm]
---
# SDDPM, {dataset}

A spiking denoising diffusion model (arXiv 2306.17046).

| | |
| --- | --- |
| images | {shape["channels"]} x {shape["size"]} x {shape["size"]} |
| data | {dataset} |
| network | width {config["channels"]} x [{multipliers}], {config["blocks"]} block(s) a level, \
{parameters:,} parameters |
| neurons | {config["neuron"]}, threshold {config["threshold"]}, {config["time_steps"]} time steps |
| predicts | {config.get("prediction", "epsilon")} |
| training | {trained} |

```python
import sddpm

images = sddpm.SDDPM.from_pretrained("FOLDER").sample(64, sampler="ddim", steps=50, seed=0)
```
"""


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
