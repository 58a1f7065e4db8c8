"""The work behind ``sddpm-bench convert`` that is about networks: files are the harness's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from conversion.compare import HEADINGS, NetworkComparison, compare, layer_cells
from conversion.convert import Converted, build, check_parent, config_of, convertible, noised
from conversion.finetune import WAYS, blocks_of, finetune, finetune_blocks
from conversion.methods import METHODS
from conversion.readout import fit_window
from conversion.schedule import mean_time_steps
from sddpm.denoising import Denoiser
from sddpm.guidance import HeldOut
from sddpm.protocol import System
from sddpm.rng import mix
from sddpm.unet import UNet

BATCH = 32
"""Images that calibrate at once."""
FINETUNE_BATCH = 16
"""Images of a step of fine-tuning."""
WINDOW_IMAGES, WINDOW_BATCH = 64, 8
"""Images that the readout's window is fitted on, and how many at once."""


@dataclass(frozen=True)
class Converter:
    """A parent, ready to be converted at any number of spiking steps."""

    parent: Denoiser
    net: UNet
    """The parent's network."""
    reference: UNet
    """Network that children are compared with and fine-tuned towards: the parent, or the ReLU
    network that the parent's clips were trained for."""
    method: str
    signed: bool
    percentile: float
    images: Tensor
    """Calibration images in [-1, 1], ``[count, C, H, W]``; fine-tuning draws from them too."""
    seed: int
    readout: str = "mean"
    """One of :data:`conversion.readout.READOUTS`."""
    finetune: str = "end-to-end"
    """One of :data:`conversion.finetune.WAYS`."""
    finetune_steps: int = 0
    """Steps of fine-tuning: of the network, or of each block."""
    finetune_rate: float = 1e-4
    """First step size of the fine-tuning, which falls linearly to 0."""

    finetune_batch: ClassVar[int] = FINETUNE_BATCH
    layer_headings: ClassVar[list[str]] = HEADINGS
    """Headings of :meth:`layers`."""

    @property
    def finetune_total(self) -> int:
        """Steps of fine-tuning over all blocks."""
        blocks = len(list(blocks_of(self.net))) if self.finetune == "blocks" else 1
        return blocks * self.finetune_steps

    def at(
        self, time_steps: int | Sequence[int], on_step: Callable[[float], None] = lambda loss: None
    ) -> Converted:
        """The converted network at ``time_steps``, thresholds set and fine-tuned.

        Args:
            time_steps: one number, or a schedule from noise to image.
            on_step: told the loss of each step of fine-tuning.
        """
        schedule = () if isinstance(time_steps, int) else tuple(time_steps)
        passes = METHODS[self.method].passes
        config = config_of(
            self.parent,
            method=self.method,
            time_steps=time_steps if isinstance(time_steps, int) else mean_time_steps(schedule),
            schedule=schedule,
            signed=self.signed,
            percentile=self.percentile,
            readout=self.readout,
            calibration_steps=passes * -(-len(self.images) // BATCH),
        )
        child = build(config, self.parent.shape, self.parent).to(self.images.device)
        for number in range(passes):
            seed = self.seed if number == 0 else mix(self.seed, number, 2)
            for noisy, t in noised(self.images, child, BATCH, seed):
                child.calibrate(noisy, t)
        child.eval()
        self._fit(child)
        if self.finetune_steps:
            tune = finetune_blocks if self.finetune == "blocks" else finetune
            tune(
                self.reference,
                child.unet,
                lambda number: self._draw(child, number),
                steps=self.finetune_steps,
                learning_rate=self.finetune_rate,
                on_step=on_step,
            )
            self._fit(child)
        return child

    def _fit(self, child: Converted) -> None:
        """Fit the readout's window, if it has one, on a part of the calibration images."""
        if self.readout == "window":
            some = self.images[:WINDOW_IMAGES]
            batches = noised(some, child, WINDOW_BATCH, mix(self.seed, 3))
            fit_window(self.reference, child.unet, batches)

    def _draw(self, child: Converted, number: int) -> tuple[Tensor, Tensor]:
        """The batch (x_t, t) of fine-tuning step ``number``."""
        rng = torch.Generator().manual_seed(mix(self.seed, number))
        chosen = torch.randint(len(self.images), (FINETUNE_BATCH,), generator=rng)
        batch = self.images[chosen.to(self.images.device)]
        return next(iter(noised(batch, child, FINETUNE_BATCH, mix(self.seed, number, 1))))

    def held_out(self, images: Tensor, levels: int = 8) -> HeldOut:
        """Noised ``images`` at ``levels`` diffusion steps, the same for every child."""
        return HeldOut.draw(images, self.parent.diffusion, levels, self.seed)

    def compare(
        self, child: Converted, held_out: HeldOut, on_images: Callable[[int], None]
    ) -> NetworkComparison:
        """``child`` against the reference."""
        return compare(self.reference, child.unet, held_out, on_images)

    def layers(self, comparison: NetworkComparison) -> list[list[str]]:
        """The table of single layers, as rows of text."""
        return list(layer_cells(comparison))


def prepare(
    parent: System,
    images: Tensor,
    *,
    method: str,
    seed: int,
    reference: System | None = None,
    **options: Any,
) -> Converter:
    """Check that ``parent`` can be converted by ``method``.

    Args:
        reference: what children are compared with, where that is not the parent.

    Raises:
        ValueError: it cannot, and why; no images; an unknown method or way of fine-tuning.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
    net = convertible(parent)
    assert isinstance(parent, Denoiser), "only denoisers hold a U-Net"
    if not len(images):
        raise ValueError("no calibration images: thresholds are measured on some")
    check_parent(config_of(parent, method=method), parent.shape, parent, net)
    compared = net if reference is None else convertible(reference)
    converter = Converter(parent, net, compared, method, images=images, seed=seed, **options)
    if converter.finetune not in WAYS:
        raise ValueError(f"finetune={converter.finetune!r}: expected one of {', '.join(WAYS)}")
    return converter


def needs_clips(parent: System, method: str) -> bool:
    """Whether ``method`` is to train the clips of ``parent``, which must be convertible, first."""
    trains = METHODS[method].trains_clips
    return trains and convertible(parent).config.activation != "quant_relu"


@torch.no_grad()
def prediction_error(teacher: Denoiser, twin: Denoiser, images: Tensor, seed: int) -> float:
    """Norm of the difference of two networks' noise predictions over the norm of the teacher's,
    on ``images`` noised alike."""
    held_out = HeldOut.draw(images, twin.diffusion, seed=seed)
    difference = scale = 0.0
    for x, _, t in held_out.batches(BATCH):
        wanted = teacher.generator(x, t)
        difference += (twin.generator(x, t) - wanted).square().sum().item()
        scale += wanted.square().sum().item()
    return float((difference / scale) ** 0.5)
