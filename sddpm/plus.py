"""SDDPM+: the spiking U-Net with options that preserve more of the image than published SDDPM does.

Each departure from Cao et al. (arXiv 2306.17046) is an option of :class:`Config`. Integer neurons
train in one pass and run as binary spikes (arXiv 2407.20708, 2411.16061); the other neurons of
:mod:`sddpm.soft_neurons` may replace them. A real-valued shortcut bypasses the stem. The
1x1 shortcuts read the mean over spiking time, once. The network predicts v (arXiv 2202.00512) from
a head that starts linear. The loss may be weighted by the signal-to-noise ratio (Min-SNR, arXiv
2303.09556). The training starts from fresh weights, without a parent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sddpm.activations import reads_after
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig, Prediction
from sddpm.protocol import ImageShape, System
from sddpm.unet import UNet, UNetConfig, unet_config
from sddpm.widths import TRAINED, FreshUNet, over


@dataclass(frozen=True)
class Config(FreshUNet, DenoiserTraining):
    """SDDPM+. The defaults are the ones that did best in single trials on digits; an ablation with
    three seeds has not been measured yet."""

    time_steps: int = 4
    """Spiking time steps of one network evaluation; of an integer neuron, its most events."""
    neuron: str = "integer_if"
    """A spiking activation of :data:`sddpm.activations.ACTIVATIONS` that is no rate code."""
    stem_shortcut: bool = True
    """Add a convolution of the image itself to the stem's output."""
    stem_gain: bool = True
    """Multiply what the stem's shortcut adds by a factor that depends on the diffusion step."""
    mean_shortcuts: bool = True
    """Let 1x1 shortcuts read the mean over spiking time, once."""
    min_snr: float = 0.0
    """Largest signal-to-noise ratio that the loss weights in full (Min-SNR's gamma). 0: the plain
    squared error of the network's output."""
    threshold: float = 1.0
    """Firing threshold of every neuron, which is also the current of one event."""
    prediction: Prediction = "v_prediction"
    """Quantity that the last layer predicts: v, or the noise (``epsilon``)."""
    linear_head: bool = True
    """Start with a linear output: see :class:`sddpm.unet.UNetConfig`."""


class WeightedDenoiser(Denoiser):
    """A denoiser whose loss weights each diffusion step by its signal-to-noise ratio.

    Args:
        min_snr: Min-SNR's gamma, above 0: a step's squared error of the noise is weighted by
            ``min(SNR, gamma) / SNR``.
    """

    def __init__(self, *given: Any, min_snr: float, **options: Any) -> None:
        super().__init__(*given, **options)
        self.min_snr = min_snr

    def loss(self, predicted: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Weighted mean squared error of the noise ``[batch, C, H, W]`` at steps ``t``."""
        squared = (predicted.float() - noise.float()).square().mean((1, 2, 3))
        abar = self.diffusion.alphas_cumprod.to(t.device)[t]
        ratio = abar / (1 - abar)
        # The image's error is the noise's over the ratio; clipped at gamma (their equation 6).
        return (squared * ratio.clamp(max=self.min_snr) / ratio).mean()


def spiking_unet(config: Config, shape: ImageShape) -> UNetConfig:
    """The U-Net of ``config`` for images of ``shape``.

    Raises:
        ValueError: the neuron does not send spikes or events.
    """
    reads = reads_after(config.neuron) if config.neuron in _NEURONS else "real"
    if reads == "real":
        raise ValueError(f"neuron={config.neuron!r}: expected one of {', '.join(_NEURONS)}")
    counts = reads == "counts"
    return unet_config(
        config,
        shape,
        activation=config.neuron,
        time_steps=1 if counts else config.time_steps,
        levels=config.time_steps if counts else 4,
        threshold=config.threshold,
        stem_shortcut=config.stem_shortcut,
        stem_gain=config.stem_gain,
        mean_shortcuts=config.mean_shortcuts,
    )


_NEURONS = (
    "integer_if", "parallel_if", "soft_if", "threshold_steps_if", "ternary_if", "if", "lif", "plif",
)  # fmt: skip


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Denoiser:
    """SDDPM+ for images of ``shape``; it has no parent.

    Raises:
        ValueError: a value of the configuration is out of its range.
    """
    if not config.min_snr >= 0:
        raise ValueError(f"min_snr={config.min_snr}: expected 0 or a number above it")
    net: nn.Module = UNet(spiking_unet(config, shape))
    schedule = DiffusionConfig(config.diffusion_steps)
    if config.min_snr:
        return WeightedDenoiser(net, shape, config, schedule, min_snr=config.min_snr)
    return Denoiser(net, shape, config, schedule)


PRESETS = over(TRAINED, small=dict(channels=24), medium=dict(channels=96))
