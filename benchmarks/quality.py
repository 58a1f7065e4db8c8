"""Whether a mode of the engine changes what a trained network samples.

``compare_modes`` takes a trained system and answers with one row a mode: noise loss on test
images, mean firing rate, and Frechet distance of samples from the same seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sddpm.denoising import Denoiser
from sddpm.engine.network import OptimizedUNet, Precision, optimize
from sddpm.samplers import Sampling, sample

Row = dict[str, object]
MODES: dict[str, Any] = {
    "network": None,
    "exact": "exact",
    "fast": "fast",
    "bfloat16 weights": Precision(torch.bfloat16, 0),
}


@torch.no_grad()
def compare_modes(
    system: Denoiser,
    test_images: Tensor,
    *,
    modes: Mapping[str, Any] = MODES,
    seeds: Sequence[int] = (),
    sampling: Mapping[str, Any] | None = None,
    frechet: Callable[[Tensor], float] | None = None,
    repeats: int = 4,
) -> list[Row]:
    """One row a mode.

    Args:
        system: trained.
        test_images: float, [-1, 1], that were not trained on.
        modes: what to give :func:`sddpm.engine.network.optimize`; None is the network itself.
        seeds: of the images to sample; none are sampled if empty.
        sampling: the sampler's options.
        frechet: distance of float images from the data (bench/quality/fidelity.py offers one).
        repeats: noises a test image, for the loss.
    """
    generator = torch.Generator().manual_seed(0)
    clean = test_images.repeat(repeats, 1, 1, 1)
    t = torch.randint(system.diffusion.config.diffusion_steps, (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = system.diffusion.add_noise(clean, noise, t)
    net = system.generator.eval()
    expected = net(noisy, t)
    rows: list[Row] = []
    for name, mode in modes.items():
        eps = net if mode is None else optimize(net, mode)
        predicted = eps(noisy, t)
        row: Row = {
            "mode": name,
            "noise loss": round(float((predicted - noise).square().mean()), 5),
            "relative change": round(float((predicted - expected).norm() / expected.norm()), 4),
        }
        if isinstance(eps, OptimizedUNet):
            rates = eps.firing_rates(noisy[:64], t[:64])
            row["firing rate"] = round(sum(rates) / len(rates), 4)
        if seeds:
            settings = Sampling(**(sampling or {}))
            samples = sample(eps, system.shape, seeds, system.diffusion.config, settings)
            if frechet is not None:
                row["Frechet distance"] = round(frechet(samples), 3)
        rows.append(row)
    return rows
