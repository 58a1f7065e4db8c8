"""The size and the output of a U-Net, as every configuration of a system that has one says them.

A system's Config inherits the fields, so they stand here once, with the sizes of the presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sddpm.diffusion import Prediction

MOST_BLOCKS = 64
MOST_LEVELS = 10
"""Largest number of layers, far above every network in use. More would take minutes to build, even
on the meta device, where widths cost nothing."""


@dataclass(frozen=True, kw_only=True)
class UNetWidths:
    """The size of a U-Net and the quantity that it predicts. The defaults are the published
    ones."""

    channels: int = 128
    """Base width; even."""
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    """Width of each level in units of ``channels``; each level but the last halves the size."""
    blocks: int = 2
    """Residual blocks a level on the way down; one more on the way up."""
    diffusion_steps: int = 1000
    """Steps of the noise schedule, which are rows of the time embedding's table."""
    prediction: Prediction = "epsilon"
    """Quantity that the last layer predicts: the noise, as published, or v (``v_prediction``)."""

    def widths(self) -> dict[str, Any]:
        """These fields and no others, for another configuration of the same widths."""
        return {field.name: getattr(self, field.name) for field in fields(UNetWidths)}


@dataclass(frozen=True, kw_only=True)
class FreshUNet(UNetWidths):
    """A U-Net that is trained from fresh weights."""

    linear_head: bool = False
    """Start the temporal head at 0 (its norm's weight), so that the output begins as a linear map.
    As published it starts at 1: its Swish is never below -0.28, and short trainings do not learn
    to predict large negative values."""


def check_widths(widths: UNetWidths, size: int | None = None) -> None:
    """Raise ValueError if no U-Net has such widths, or none for images of ``size`` pixels."""
    channels, multipliers, blocks = widths.channels, widths.multipliers, widths.blocks
    if channels < 2 or channels % 2:
        raise ValueError(f"channels={channels}: expected an even number of at least 2")
    if not 1 <= len(multipliers) <= MOST_LEVELS or min(multipliers) < 1:
        raise ValueError(
            f"multipliers={multipliers}: expected 1 to {MOST_LEVELS} whole numbers of at least 1"
        )
    if not 1 <= blocks <= MOST_BLOCKS:
        raise ValueError(f"blocks={blocks}: expected 1 to {MOST_BLOCKS}")
    factor = 2 ** (len(multipliers) - 1)
    if size is not None and size % factor:
        raise ValueError(
            f"image size {size} cannot be halved {len(multipliers) - 1} times "
            f"(multipliers={multipliers}): use a multiple of {factor}"
        )


SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": dict(channels=16, multipliers=(1, 2), blocks=1),
    "small": dict(channels=16, multipliers=(1, 1, 2, 4), blocks=1, prediction="v_prediction"),
    "medium": dict(channels=64),
    "paper": dict(),
}
"""Widths of each preset."""


def over(
    base: Mapping[str, Mapping[str, Any]], **own: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """``PRESETS`` of a system: the fields of each preset of ``base``, then its own."""
    return {name: {**fields, **own.get(name, {})} for name, fields in base.items()}


TRAINED = over(
    SIZES,
    smoke=dict(learning_rate=2e-3, warmup_steps=20),
    small=dict(
        linear_head=True, learning_rate=2e-3, warmup_steps=200, decay="linear", ema_decay=0.995
    ),
    medium=dict(learning_rate=4e-4, warmup_steps=1000, decay="linear", ema_decay=0.999),
)
"""Widths and training of a U-Net from fresh weights: SDDPM's, and its twins'."""
