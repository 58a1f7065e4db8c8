"""The work behind ``sddpm-bench convert`` that is about networks: files are the harness's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conversion.compare import HEADINGS, Comparison, compare, layer_cells
from conversion.convert import METHODS, Converted, build, config_of, convertible, noised
from conversion.finetune import finetune
from sddpm.denoising import Denoiser
from sddpm.guidance import HeldOut
from sddpm.protocol import System
from sddpm.rng import mix
from sddpm.unet import UNet

BATCH = 32
"""Images that calibrate at once."""
FINETUNE_BATCH = 16
"""Images of a step of fine-tuning."""


@dataclass(frozen=True)
class Conversion:
    """A parent, ready to be converted at any number of spiking steps."""

    parent: Denoiser
    net: UNet
    method: str
    signed: bool
    percentile: float
    images: Tensor
    """Calibration images in [-1, 1], ``[count, C, H, W]``; fine-tuning draws from them too."""
    seed: int
    finetune_steps: int = 0
    """Steps of end-to-end fine-tuning."""

    def at(
        self, time_steps: int, on_step: Callable[[float], None] = lambda loss: None
    ) -> Converted:
        """The converted network at ``time_steps``, thresholds set and fine-tuned.

        Args:
            on_step: told the loss of each step of fine-tuning.
        """
        config = config_of(
            self.parent,
            method=self.method,
            time_steps=time_steps,
            signed=self.signed,
            percentile=self.percentile,
            calibration_steps=-(-len(self.images) // BATCH),
        )
        child = build(config, self.parent.shape, self.parent).to(self.images.device)
        for noisy, t in noised(self.images, child, BATCH, self.seed):
            child.calibrate(noisy, t)
        child.eval()
        if self.finetune_steps:
            finetune(
                self.net,
                child.unet,
                lambda number: self._draw(child, number),
                steps=self.finetune_steps,
                on_step=on_step,
            )
        return child

    def _draw(self, child: Converted, number: int) -> tuple[Tensor, Tensor]:
        """The batch (x_t, t) of fine-tuning step ``number``."""
        rng = torch.Generator().manual_seed(mix(self.seed, number))
        chosen = torch.randint(len(self.images), (FINETUNE_BATCH,), generator=rng)
        batch = self.images[chosen.to(self.images.device)]
        return next(iter(noised(batch, child, FINETUNE_BATCH, mix(self.seed, number, 1))))

    def held_out(self, images: Tensor) -> HeldOut:
        """Noised ``images``, the same for every child."""
        return HeldOut.draw(images, self.parent.diffusion, seed=self.seed)

    def compare(
        self, child: Converted, held_out: HeldOut, on_images: Callable[[int], None]
    ) -> Comparison:
        """``child`` against the parent."""
        return compare(self.net, child.unet, held_out, on_images)

    def layers(self, comparison: Comparison) -> tuple[list[str], list[list[str]]]:
        """The table of single layers: headings and rows of text."""
        return HEADINGS, list(layer_cells(comparison))


def prepare(
    parent: System, images: Tensor, *, method: str, seed: int, **options: Any
) -> Conversion:
    """Check that ``parent`` can be converted by ``method``.

    Raises:
        ValueError: it cannot, and why; no images; an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
    net = convertible(parent)
    assert isinstance(parent, Denoiser), "only denoisers hold a U-Net"
    if not len(images):
        raise ValueError("no calibration images: thresholds are measured on some")
    return Conversion(parent, net, method, images=images, seed=seed, **options)
