"""Training on the predictions of another network, a teacher that is trained already.

A teacher's noise prediction is the mean of the noise that the noisy image leaves open, so it is a
target of less variance than the noise itself (Salimans and Ho 2022, arXiv 2202.00512, distil
diffusion models in this way).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sddpm.denoising import Denoiser
from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape, Step, System
from sddpm.unet import ResidualBlock


class TaughtDenoiser(Denoiser):
    """A denoiser that trains on a teacher's predictions.

    Args:
        given, options: as of :class:`sddpm.denoising.Denoiser`.
        teacher: ``eps = teacher(x, t)``, which stays as it is; None once trained.
        share: of the teacher's prediction in the target, 0 to 1; the rest is the noise itself.
        feature_weight: weight of the distance between the outputs of the residual blocks, at least
            0. Above 0 both networks are U-Nets with blocks of the same widths.

    Raises:
        ValueError: a value is out of its range, or the blocks differ.
    """

    def __init__(
        self,
        *given: Any,
        teacher: nn.Module | None,
        share: float = 1.0,
        feature_weight: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(*given, **options)
        if not 0 <= share <= 1:
            raise ValueError(f"teacher_share={share}: expected a number from 0 to 1")
        if not feature_weight >= 0:
            raise ValueError(f"feature_weight={feature_weight}: expected 0 or a number above it")
        # In a tuple: no part of this system's state.
        self._teacher = () if teacher is None else (teacher,)
        self._share, self._feature_weight = share, feature_weight
        if feature_weight:
            # A CUDA graph replays kernels, and no hook of a block runs.
            self.graphable = frozenset()
            if teacher is not None and _widths(self.net) != _widths(teacher):
                raise ValueError(
                    f"feature_weight={feature_weight}: expected a teacher with residual blocks of "
                    f"{_widths(self.net)} channels, not {_widths(teacher)}"
                )

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        """One update; reports the loss and the distance to the teacher's predictions, relative to
        their norm.

        Raises:
            ValueError: the denoiser has no teacher.
        """
        if not self._teacher:
            raise ValueError("this network is trained on a teacher's predictions: give a teacher")
        t = step.randint(self.diffusion.config.diffusion_steps, len(images))
        noise = step.randn(*images.shape)
        noisy = self.diffusion.add_noise(images, noise, t)
        teacher = self._teacher[0].to(images.device).eval()
        wish = self._feature_weight > 0
        with torch.no_grad(), block_outputs(teacher, wish) as wanted_features:
            wanted = teacher(noisy, t)
        with block_outputs(self.net, wish) as features, self.drawn_time_steps(step):
            predicted = step.module("net")(noisy, t)
        loss = self.loss(self.net, predicted, torch.lerp(noise, wanted, self._share), t)
        losses = {"loss": loss.detach()}
        if wish:
            distance = feature_distance(features, wanted_features)
            losses["feature_distance"] = distance.detach()
            loss = loss + self._feature_weight * distance
        self.update(loss, step)
        with torch.no_grad():
            relative = ((predicted - wanted).square().mean() / wanted.square().mean()).sqrt()
        return {**losses, "relative_error": relative}


@contextmanager
def block_outputs(net: nn.Module, wish: bool = True) -> Iterator[list[Tensor]]:
    """The outputs of the residual blocks of ``net`` in the forward pass inside this context, in
    order and in float32, each the mean over spiking time, ``[batch, channels, H, W]``.

    Args:
        wish: whether to record; otherwise the list stays empty.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        _, embedding = given  # one row an image
        outputs.append(output.unflatten(0, (-1, len(embedding))).float().mean(0))

    blocks = [m for m in net.modules() if isinstance(m, ResidualBlock)] if wish else []
    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def feature_distance(features: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Mean squared distance of features from ``wanted`` ones over their variance, averaged over the
    blocks: 0 for equal features, 1 for the mean of each block's."""
    distances = [
        (own - theirs).square().mean() / theirs.var(correction=0)
        for own, theirs in zip(features, wanted, strict=True)
    ]
    return torch.stack(distances).mean()


def teacher_of(parent: System, shape: ImageShape, diffusion: DiffusionConfig) -> nn.Module:
    """The network that ``parent`` samples with, as a teacher of one for images of ``shape``.

    Raises:
        ValueError: the parent does not predict noise, was trained on images of another size, or
            has another noise schedule than ``diffusion``.
    """
    if not isinstance(parent, Denoiser):
        raise ValueError(f"a {type(parent).__name__} predicts no noise to learn from")
    if parent.shape != shape:
        size = f"{parent.shape.channels} x {parent.shape.size} x {parent.shape.size}"
        raise ValueError(f"the teacher was trained on images of {size}: give images of that size")
    theirs = parent.diffusion.config
    if theirs != diffusion:
        raise ValueError(
            f"the teacher was trained with the noise schedule {theirs}, and a distillation "
            f"keeps it: only {diffusion} can be learnt from"
        )
    return parent.generator


def _widths(net: nn.Module) -> list[int]:
    return [m.conv2.out_channels for m in net.modules() if isinstance(m, ResidualBlock)]
