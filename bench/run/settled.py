"""Measurements of a trained network that a sampler needs before it draws: guided thresholds and
Analytic-DPM's statistics. Both are measured once and kept beside the checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bench.checkpoints import Checkpoint
from bench.data.pictures import Images
from bench.files import write_json
from sddpm import guidance
from sddpm.analytic import estimate_gamma
from sddpm.progress import progress_bar
from sddpm.protocol import to_float
from sddpm.replacing import atomic_write
from sddpm.samplers import SAMPLERS
from sddpm.user_state import state_folder

GUIDED = "guided"
"""Word in place of a threshold or a gain, for the one that guidance chose for this checkpoint."""
DrawnAt = Any
"""JSON value of thresholds and gain: :func:`drawn_at`."""
HELD_OUT_IMAGES = 512
CANDIDATES = (0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 1.0, 1.002, 1.005, 1.01, 1.015, 1.02, 1.03)
"""Multiples of the trained thresholds that the held-out loss chooses from; 1 is as trained."""
GAMMA_IMAGES = 64
"""Images per diffusion step behind Analytic-DPM's statistics."""


def settle(
    sampling: Mapping[str, Any] | None,
    system: Callable[[], Any],
    checkpoint: Checkpoint,
    held_out: Callable[[], Images],
    say: Callable[[str], None] = lambda line: None,
    *,
    time_steps: int | None,
) -> dict[str, Any] | None:
    """Resolve ``sampling``: thresholds and gain become numbers, and the system gets the statistics
    that it needs.

    Args:
        system: gives the loaded denoiser; called only where something must be measured or set.
        checkpoint: its folder keeps what was measured.
        held_out: gives images that were not trained on.
        time_steps: spiking time steps that the system runs with; None without spiking time.

    Raises:
        ValueError: the guided gain is asked for, and there is none.
    """
    if sampling is None:
        return None
    settled = dict(sampling)
    if settled.get("threshold") == GUIDED:
        settled["threshold"] = guided_thresholds(system, checkpoint, time_steps, held_out, say)
    if settled.get("gain") == GUIDED:
        settled["gain"] = guided_gain(checkpoint, time_steps)
    if SAMPLERS[settled["sampler"]].needs_gamma:
        model = system()
        thresholds, gain = settled.get("threshold"), settled.get("gain", 1.0)
        model.gamma = gamma_of(
            model, checkpoint.folder, time_steps, held_out, thresholds, say, gain=gain
        )
    return settled


def drawn_at(sampling: Mapping[str, Any] | None) -> DrawnAt:
    """The parts that guidance may decide of a settled ``sampling``: its thresholds, and the gain if
    it has one."""
    if not sampling:
        return None
    thresholds = sampling.get("threshold")
    if "gain" not in sampling:
        return thresholds
    return {"thresholds": thresholds, "gain": sampling["gain"]}


def guided_gain(checkpoint: Checkpoint, time_steps: int | None) -> float:
    """The gain in the checkpoint's guidance file for ``time_steps``.

    Nothing chooses it here, because the best gain depends on the sampler.

    Raises:
        ValueError: there is none.
    """
    gain = guidance.read_guided(checkpoint.folder, checkpoint.time_steps, time_steps).gain
    if gain is None:
        raise ValueError(
            f"gain: guided: {checkpoint.folder} has no guided gain yet; choose one with "
            f"sddpm-bench guide --ckpt {checkpoint.folder} --method match"
        )
    return gain


def describe_thresholds(thresholds: guidance.Thresholds) -> str:
    """A threshold for people; where each layer has its own, their range."""
    if not isinstance(thresholds, Mapping):
        return f"{thresholds:.6g}"
    values = sorted(thresholds.values())
    return f"{values[0]:.4g} to {values[-1]:.4g} (one a layer)"


def guided_thresholds(
    system: Callable[[], Any],
    checkpoint: Checkpoint,
    time_steps: int | None,
    held_out: Callable[[], Images],
    say: Callable[[str], None],
) -> guidance.Thresholds:
    """The thresholds in the checkpoint's guidance file for ``time_steps``; chosen by the held-out
    loss and written there if it has none.

    Candidates are multiples of the trained thresholds: of each layer's own where they differ.
    """
    known = guidance.read_guided(checkpoint.folder, checkpoint.time_steps, time_steps)
    if known.thresholds is not None:
        return known.thresholds
    say("  guidance: choosing the threshold with the least held-out denoising loss")
    model = system()
    net = model.generator.eval()
    noised = guidance.HeldOut.draw(_pictures(model, held_out(), HELD_OUT_IMAGES), model.diffusion)
    trained = guidance.simplify(guidance.read_thresholds(net))
    choice = guidance.choose_by_loss(
        net, noised, [guidance.scale(trained, factor) for factor in CANDIDATES]
    )
    content = {
        **({} if known.gain is None else {"gain": known.gain}),
        "thresholds": choice.thresholds,
        "time_steps": time_steps,
        "method": choice.method,
        "held_out_images": len(noised.t),
        "network_evaluations": choice.network_evaluations,
        "curve": choice.curve,
    }
    own, home = time_steps == checkpoint.time_steps, state_folder(checkpoint.folder)
    path = (home if own else home / f"T{time_steps}") / guidance.GUIDANCE
    _keep(path, lambda: write_json(path, content), say)
    return choice.thresholds


def gamma_of(
    model: Any,
    folder: Path,
    time_steps: int | None,
    images: Callable[[], Images],
    thresholds: guidance.Thresholds | None,
    say: Callable[[str], None],
    *,
    gain: float = 1.0,
) -> torch.Tensor:
    """Analytic-DPM's statistics of the network at ``thresholds`` and ``gain``,
    ``[diffusion_steps + 1]``.

    Args:
        folder: of the checkpoint; they are kept in its :func:`sddpm.user_state.state_folder`.
        time_steps: that ``model`` runs with: at another number it is another network.
    """
    facts: list[Any] = [thresholds, GAMMA_IMAGES, *([] if time_steps is None else [time_steps])]
    facts += [] if gain == 1 else [f"gain {gain}"]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
    path = state_folder(folder) / f"gamma-{key}.safetensors"
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
    steps = progress_bar("statistics", len(abar), "diffusion steps")
    with guidance.guided(model.generator.eval(), thresholds), steps as bar:
        denoise = model.amplified(model.prepared("exact"), gain)
        gamma = estimate_gamma(denoise, pictures, abar, on_step=lambda n, total: bar.update(done=n))

    def write() -> None:
        with atomic_write(path) as temporary:
            save_file({"gamma": gamma}, temporary)

    _keep(path, write, say)
    return gamma


def _keep(path: Path, write: Callable[[], None], say: Callable[[str], None]) -> None:
    """Write a measurement. If that fails, as in a read-only folder, report it and continue."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        say(f"  warning: {path}: cannot be written ({why}); the next command measures it again")


def _pictures(model: Any, images: Images, count: int) -> torch.Tensor:
    """The first ``count`` images, float in [-1, 1], where the model is."""
    indices = list(range(min(count, len(images))))
    return to_float(images.__getitems__(indices)).to(next(model.parameters()).device)
