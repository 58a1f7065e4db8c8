"""What a sampler must know of a trained network before it draws: guided thresholds and
Analytic-DPM's statistics. Both are measured once and kept beside the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bench.data.pictures import Images
from bench.files import write_json
from sddpm.analytic import estimate_gamma
from sddpm.checkpoint import atomic_write, read_config
from sddpm.guidance import (
    GUIDANCE,
    HeldOut,
    Thresholds,
    choose_by_loss,
    guided,
    read_guidance,
)
from sddpm.protocol import to_float
from sddpm.samplers import SAMPLERS

GUIDED = "guided"
"""In place of a threshold: the one that guidance chose for this checkpoint."""
HELD_OUT_IMAGES = 512
CANDIDATES = (0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 1.0, 1.002, 1.005, 1.01, 1.015, 1.02, 1.03)
"""Multiples of the trained threshold that the held-out loss chooses from."""
GAMMA_IMAGES = 64
"""Images per diffusion step behind Analytic-DPM's statistics."""


def settle(
    sampling: Mapping[str, Any] | None,
    system: Callable[[], Any],
    checkpoint: Path,
    held_out: Callable[[], Images],
    say: Callable[[str], None] = lambda line: None,
    *,
    time_steps: int | None,
) -> dict[str, Any] | None:
    """``sampling`` with its thresholds in numbers, and the system given what it needs.

    Args:
        system: gives the loaded denoiser; called only where something must be measured or set.
        checkpoint: folder that keeps what was measured.
        held_out: gives images that were not trained on.
        time_steps: spiking time steps that the system runs with; None without spiking time.
    """
    if sampling is None:
        return None
    settled = dict(sampling)
    if settled.get("threshold") == GUIDED:
        settled["threshold"] = guided_thresholds(system, checkpoint, time_steps, held_out, say)
    if SAMPLERS[settled["sampler"]].needs_gamma:
        model = system()
        thresholds = settled.get("threshold")
        model.gamma = gamma_of(model, checkpoint, time_steps, held_out, thresholds, say)
    return settled


def guidance_files(checkpoint: Path) -> dict[Any, Path]:
    """Time steps -> the guidance file whose thresholds were chosen with so many.

    One checkpoint may serve several numbers: what was chosen at its configuration's own is beside
    the weights, the others are in a folder each. A file that does not say is of the former.

    Raises:
        ValueError: a file is damaged.
    """
    own = _own_time_steps(checkpoint)
    found: dict[Any, Path] = {}
    for folder in (checkpoint, *sorted(checkpoint.glob("T*"))):
        if read_guidance(folder) is not None:
            path = folder / GUIDANCE
            found.setdefault(json.loads(path.read_text()).get("time_steps", own), path)
    return found


def read_guided(checkpoint: Path, time_steps: int | None) -> Thresholds | None:
    """The thresholds that were chosen for a checkpoint at ``time_steps``; None if none were.

    Raises:
        ValueError: a guidance file is damaged.
    """
    path = guidance_files(checkpoint).get(time_steps)
    return read_guidance(path.parent) if path else None


def wanted_thresholds(
    sampling: Mapping[str, Any] | None, checkpoint: Path, time_steps: int | None
) -> Thresholds | str | None:
    """Thresholds that :func:`settle` would put in place of ``guided`` now, or ``guided`` itself
    where they are still to be chosen; None where ``sampling`` does not ask for it."""
    if sampling is None or sampling.get("threshold") != GUIDED:
        return None
    chosen = read_guided(checkpoint, time_steps) if checkpoint.is_dir() else None
    return GUIDED if chosen is None else chosen


def _own_time_steps(checkpoint: Path) -> Any:
    config = read_config(checkpoint).get("config")
    return config.get("time_steps") if isinstance(config, dict) else None


def guided_thresholds(
    system: Callable[[], Any],
    checkpoint: Path,
    time_steps: int | None,
    held_out: Callable[[], Images],
    say: Callable[[str], None],
) -> Thresholds:
    """The thresholds in the checkpoint's guidance file for ``time_steps``; chosen by the held-out
    loss and written there if it has none."""
    known = read_guided(checkpoint, time_steps)
    if known is not None:
        return known
    say("  guidance: choosing the threshold with the least held-out denoising loss")
    model = system()
    noised = HeldOut.draw(_pictures(model, held_out(), HELD_OUT_IMAGES), model.diffusion)
    trained = float(model.generator.config.threshold)
    choice = choose_by_loss(
        model.generator.eval(), noised, [trained * candidate for candidate in CANDIDATES]
    )
    content = {
        "thresholds": choice.thresholds,
        "time_steps": time_steps,
        "method": choice.method,
        "held_out_images": len(noised.t),
        "network_evaluations": choice.network_evaluations,
        "curve": choice.curve,
    }
    own = time_steps == _own_time_steps(checkpoint)
    home = checkpoint if own else checkpoint / f"T{time_steps}"
    write_json(home / GUIDANCE, content)
    return choice.thresholds


def gamma_of(
    model: Any,
    checkpoint: Path,
    time_steps: int | None,
    images: Callable[[], Images],
    thresholds: Thresholds | None,
    say: Callable[[str], None],
) -> torch.Tensor:
    """Analytic-DPM's statistics of the network at ``thresholds``, ``[diffusion_steps + 1]``.

    Args:
        time_steps: that ``model`` runs with: at another number it is another network.
    """
    facts = [thresholds, GAMMA_IMAGES, *([] if time_steps is None else [time_steps])]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
    path = checkpoint / f"gamma-{key}.safetensors"
    abar = model.diffusion.alphas_cumprod
    if path.is_file():
        try:
            gamma = load_file(path)["gamma"]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path}: damaged ({error}); delete it to redo it") from error
        if gamma.shape != (len(abar) + 1,):
            raise ValueError(f"{path}: is of another noise schedule; delete it to redo it")
        return gamma
    say("  Analytic-DPM: measuring the network's statistics")
    pictures = _pictures(model, images(), GAMMA_IMAGES)
    with guided(model.generator.eval(), thresholds), Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("statistics", total=len(abar))
        gamma = estimate_gamma(
            model.prepared("exact"),
            pictures,
            abar,
            on_step=lambda n, total: bar.update(task, completed=n),
        )
    with atomic_write(path) as temporary:
        save_file({"gamma": gamma}, temporary)
    return gamma


def _pictures(model: Any, images: Images, count: int) -> torch.Tensor:
    """The first ``count`` images, float in [-1, 1], where the model is."""
    indices = list(range(min(count, len(images))))
    return to_float(images.__getitems__(indices)).to(next(model.parameters()).device)
