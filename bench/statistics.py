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

from bench.pictures import Images
from sddpm.analytic import estimate_gamma
from sddpm.checkpoint import atomic_write
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
) -> dict[str, Any] | None:
    """``sampling`` with its thresholds in numbers, and the system given what it needs.

    Args:
        system: gives the loaded denoiser; called only where something must be measured or set.
        checkpoint: folder that keeps what was measured.
        held_out: gives images that were not trained on.
    """
    if sampling is None:
        return None
    settled = dict(sampling)
    if settled.get("threshold") == GUIDED:
        settled["threshold"] = guided_thresholds(system, checkpoint, held_out, say)
    if SAMPLERS[settled["sampler"]].needs_gamma:
        model = system()
        model.gamma = gamma_of(model, checkpoint, held_out, settled.get("threshold"), say)
    return settled


def guided_thresholds(
    system: Callable[[], Any],
    checkpoint: Path,
    held_out: Callable[[], Images],
    say: Callable[[str], None],
) -> Thresholds:
    """The thresholds in the checkpoint's guidance file; chosen by the held-out loss and written
    there if it has none."""
    known = read_guidance(checkpoint)
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
        "method": choice.method,
        "held_out_images": len(noised.t),
        "network_evaluations": choice.network_evaluations,
        "curve": choice.curve,
    }
    with atomic_write(checkpoint / GUIDANCE) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return choice.thresholds


def gamma_of(
    model: Any,
    checkpoint: Path,
    images: Callable[[], Images],
    thresholds: Thresholds | None,
    say: Callable[[str], None],
) -> torch.Tensor:
    """Analytic-DPM's statistics of the network at ``thresholds``, ``[diffusion_steps + 1]``."""
    key = hashlib.sha256(json.dumps([thresholds, GAMMA_IMAGES]).encode()).hexdigest()[:8]
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
