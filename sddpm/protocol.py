"""Protocol of a system, which is one row of the comparison table.

Images are float tensors ``[batch, channels, height, width]`` in [-1, 1] everywhere
between the data loader and the metric; they become uint8 once, in :func:`to_uint8`.
Points of a manifold are float64 ``[batch, coordinates]`` everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sddpm.manifolds import Manifold, make_manifold

MOST_PIXELS = 16_384
"""Height and width that an image may have."""


@dataclass(frozen=True)
class ImageShape:
    """Channels and size of the images, the only fact about its data that a system gets before
    training."""

    channels: int
    """1 (grey) or 3 (RGB)."""
    size: int
    """Height and width, in pixels."""

    def __post_init__(self) -> None:
        for name in ("channels", "size"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MOST_PIXELS:
                raise ValueError(
                    f"{name}={value!r}: expected a whole number from 1 to {MOST_PIXELS:,}"
                )

    def finished(self, images: Tensor) -> Tensor:
        """Drawn images as they are kept and scored (:func:`to_uint8`)."""
        return to_uint8(images)

    def random(self, count: int, device: torch.device) -> Tensor:
        """Images of noise as a network is trained on them, in [-1, 1]."""
        return torch.rand(count, self.channels, self.size, self.size, device=device) * 2 - 1


@dataclass(frozen=True)
class PointShape:
    """A manifold on which the data are points, the only fact about its data that a system gets
    before training."""

    manifold: str
    """A key of :data:`sddpm.manifolds.MANIFOLDS`."""
    size: int
    """Length of a vector, or rows of a matrix, of the space around the manifold."""

    def __post_init__(self) -> None:
        make_manifold(self.manifold, self.size)

    @property
    def space(self) -> Manifold:
        """The manifold itself."""
        return make_manifold(self.manifold, self.size)

    @property
    def coordinates(self) -> int:
        """Numbers of a point."""
        return self.space.coordinates

    def finished(self, points: Tensor) -> Tensor:
        """Drawn points as they are kept and scored: float64, on the CPU.

        Raises:
            ValueError: a number is NaN or infinite.
        """
        _check_finite("points", points)
        return points.double().cpu()

    def random(self, count: int, device: torch.device) -> Tensor:
        """Points of the uniform distribution, as a network is trained on them."""
        return self.space.uniform(torch.randn(count, self.coordinates, device=device))


Shape = ImageShape | PointShape


def shape_from(facts: Mapping[str, Any]) -> Shape:
    """The shape that :func:`dataclasses.asdict` gave these facts of.

    Raises:
        ValueError: they are of no shape, or one of them is out of range.
    """
    for kind in (ImageShape, PointShape):
        if set(facts) == {field.name for field in fields(kind)}:
            return kind(**facts)
    raise ValueError(f"{dict(facts)!r}: expected channels and size, or manifold and size")


class Step(Protocol):
    """Tools that :func:`sddpm.training.fit` gives to one training step.

    Random numbers come from a stream that belongs to this step alone, so a run that was
    killed and resumed draws what the uninterrupted run would have drawn. They are drawn
    for the global batch and sliced, so the number of processes does not change them.
    """

    number: int
    """Steps done before this one, from 0."""
    total: int
    """Steps in the whole run."""
    labels: Tensor | None
    """Classes of the batch's images, ``[batch]``; None for a system without :attr:`System.classes`.
    """

    def module(self, name: str) -> Callable[..., Any]:
        """The system's attribute ``name``, wrapped for precision and gradient exchange."""

    def update(self, name: str, loss: Tensor, *, lr: float, clip: float | None = None) -> None:
        """Backpropagate ``loss`` and step the optimiser of the attribute ``name``; a group of
        parameters with an ``lr_factor`` moves by that much more than ``lr``."""

    def gather(self, values: Tensor) -> Tensor:
        """This process's rows of the batch and every other process's, in the batch's order."""

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers; the first dimension is this process's batch."""

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1); the first dimension is this process's batch."""

    def randint(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high); the first dimension is this process's batch."""


class System(nn.Module, ABC):
    """A generative model that the harness can train, sample and measure.

    A subclass owns its networks, its optimisers and, if it keeps one, its averaged copy.
    """

    optimizers: dict[str, Optimizer]
    """Optimisers by the attribute names of the trained modules. Empty if no weights are trained by
    gradients."""
    graphable: frozenset[str] = frozenset()
    """Trained modules that a step calls once, on tensors only, and that read no value back: a GPU
    replays them (:class:`sddpm.graphed.GraphedModule`)."""
    channels_last: ClassVar[frozenset[str]] = frozenset()
    """Modules whose convolutions are trained in channels-last memory, which is fastest for them.
    Before and after a training weights are contiguous, as torch's tools for weights expect."""
    classes: int = 0
    """Classes that a training step is told with the images; 0: none."""

    @property
    @abstractmethod
    def generator(self) -> nn.Module:
        """The module that runs at sampling time. Its parameters and operations are counted, so a
        GAN's critic and a VAE's encoder are not."""

    @abstractmethod
    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        """One update on ``images``: ``[batch, channels, size, size]`` in [-1, 1], or points
        ``[batch, coordinates]``.

        Returns named scalar losses (detached) for the log.
        """

    @abstractmethod
    def sample(self, seeds: Sequence[int], sampling: Mapping[str, Any] | None = None) -> Tensor:
        """One image in [-1, 1], or one point, per seed; ``i`` depends on ``seeds[i]`` alone.

        ``sampling`` holds the solver's options for systems whose registry entry says
        ``samplers=True`` (see :class:`sddpm.samplers.Sampling`), else None.
        """

    def figures(self, held_out: Tensor, seeds: Sequence[int]) -> dict[str, float]:
        """Figures of quality that only the system itself can tell, such as its likelihood.

        Args:
            held_out: points that no training used, as :meth:`train_step` gets them.
            seeds: those of the samples that are scored.

        Returns:
            Columns of metrics that read the ``system``; none by default.
        """
        return {}


def to_uint8(images: Tensor) -> Tensor:
    """Map float images in [-1, 1] to uint8 in [0, 255], rounding half up, on the CPU.

    The one place where images are rounded: what is scored is what is written to disk.

    Raises:
        ValueError: a number is NaN or infinite, which would become black or white.
    """
    _check_finite("images", images)
    return images.float().add(1).mul(127.5).add(0.5).clamp(0, 255).to(torch.uint8).cpu()


def to_float(images: Tensor) -> Tensor:
    """Map uint8 images in [0, 255] to float32 in [-1, 1]; points, which are float64, stay."""
    return images.to(torch.float32).div(127.5).sub(1) if images.dtype == torch.uint8 else images


def _check_finite(what: str, drawn: Tensor) -> None:
    odd = int((~drawn.isfinite()).sum())
    if odd:
        raise ValueError(
            f"{what}: {odd} of {drawn.numel()} numbers are NaN or infinite; the network that drew "
            "them is damaged"
        )
