"""The quantised twin: the ReLU twin with activations rounded to ``2^bits - 1`` levels.

The parent of the ``fast-snn`` conversion (arXiv 2305.19868; arXiv 2408.16467 for diffusion): it
learns one clip a layer, so that the spiking network with ``T = 2^bits - 1`` steps has the same
activations but for uneven arrival. Differences: BatchNorm instead of GroupNorm, clips start at a
percentile of the parent's activations instead of 6 or 8, and training starts from the ReLU twin.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor

from conversion.calibrate import Percentile, ThresholdStatistic
from conversion.convert import convertible, rectified
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig
from sddpm.protocol import ImageShape, Step, System
from sddpm.unet import UNet, unet_config
from sddpm.widths import SIZES, UNetWidths, over


@dataclass(frozen=True)
class Config(UNetWidths, DenoiserTraining):
    """The quantised twin. Its widths are the ReLU twin's."""

    ema_decay: float = 0.9999
    """Decay a step of the averaged weights that sample; 0 samples with the last weights."""
    bits: int = 2
    """Bits of an activation, which has ``2^bits - 1`` levels above 0."""
    percentile: float = 99.9
    """Percentile of the parent's activations on the first batch, at which the clips start."""


class Quantised(Denoiser):
    """Trains like any denoiser, after its clips were measured on the first batch.

    Args:
        net: a U-Net with quantised activations.
        statistic: of the parent's activations, where the clips start.
    """

    def __init__(
        self,
        net: UNet,
        shape: ImageShape,
        training: DenoiserTraining,
        statistic: ThresholdStatistic,
    ) -> None:
        super().__init__(net, shape, training, DiffusionConfig(net.config.diffusion_steps))
        self.statistic = statistic

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        if step.number == 0:
            self._start_clips(images, step)
        return super().train_step(images, step)

    def _start_clips(self, images: Tensor, step: Step) -> None:
        assert isinstance(self.net, UNet)
        noise = step.randn(*images.shape)
        t = step.randint(self.diffusion.config.diffusion_steps, len(images))
        noisy = step.gather(self.diffusion.add_noise(images, noise, t))
        self.statistic.update(rectified(self.net), noisy, step.gather(t))
        for net in (self.net, self.generator):
            self.statistic.write(net)


def quantised_net(
    widths: UNetWidths, shape: ImageShape, levels: int, parent: System | None = None
) -> UNet:
    """A U-Net with activations of ``levels`` levels above 0 and the weights of ``parent``.

    Raises:
        ValueError: the parent is not a ReLU twin of the same widths and output.
    """
    config = unet_config(widths, shape, activation="quant_relu", time_steps=1, levels=levels)
    net = UNet(config)
    if parent is not None:
        source = convertible(parent)
        if source.config.prediction != config.prediction:
            raise ValueError(
                f"prediction={config.prediction}: the parent has {source.config.prediction}, and a "
                "quantised twin keeps it"
            )
        try:
            net.load_state_dict(copy.deepcopy(source.state_dict()), strict=True)
        except RuntimeError as error:
            theirs = source.config.channels, source.config.multipliers, source.config.blocks
            raise ValueError(
                f"the parent has other widths (channels, multipliers, blocks = {theirs}): "
                "a quantised twin keeps them"
            ) from error
    return net


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Quantised:
    """The quantised twin for images of ``shape``, from the weights its ``parent`` samples with.

    Raises:
        ValueError: the parent is not a ReLU twin of the same widths and output.
    """
    if config.bits < 1:
        raise ValueError(f"bits={config.bits}: expected at least 1")
    net = quantised_net(config, shape, 2**config.bits - 1, parent)
    return Quantised(net, shape, config, Percentile(percentile=config.percentile))


PRESETS = over(
    SIZES,
    smoke=dict(learning_rate=2e-4, warmup_steps=20, ema_decay=0.0),
    small=dict(learning_rate=1e-3, warmup_steps=200, decay="linear", ema_decay=0.995),
    medium=dict(learning_rate=4e-4, warmup_steps=1000, decay="linear", ema_decay=0.999),
)
