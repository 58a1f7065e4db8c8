"""SDDPM+: the spiking U-Net with options that preserve more of the image than published SDDPM does.

Each departure from Cao et al. (arXiv 2306.17046) is an option of :class:`Config`. Integer neurons
train in one pass and run as binary spikes (arXiv 2407.20708, 2411.16061); the other neurons of
:mod:`sddpm.soft_neurons` may replace them. A real-valued shortcut bypasses the stem. The
1x1 shortcuts read the mean over spiking time, once. The network predicts v (arXiv 2202.00512) from
a head that starts linear. The loss may be weighted by the signal-to-noise ratio (Min-SNR, arXiv
2303.09556), and may charge for events (arXiv 1912.01268). The number of time steps may change from
training step to training step (arXiv 2503.17394). The training starts from fresh weights, without
a parent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sddpm.activations import reads_after
from sddpm.configuration import before
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig, MinSNRLoss, NoiseLoss, Prediction, noise_loss
from sddpm.event_costs import charge_for_events
from sddpm.mixed_time import check_mixed
from sddpm.protocol import ImageShape, System
from sddpm.unet import UNet, UNetConfig, unet_config
from sddpm.widths import TRAINED, FreshUNet, over


@dataclass(frozen=True)
class Config(FreshUNet, DenoiserTraining):
    """SDDPM+. On the digits no part can be left out, and no other neuron
    was better (suite ``digits_ablation``)."""

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
    event_weight: float = field(default=0.0, metadata=before(0.0))
    """Weight of the accumulates in the loss, as a share of the products
    (:func:`sddpm.event_costs.charge_for_events`). 0: events are free."""
    mixed_time_steps: tuple[int, ...] = field(default=(), metadata=before(()))
    """Numbers of time steps of which every training step draws one (:mod:`sddpm.mixed_time`), so
    that the network runs at each of them. Empty: all training steps have ``time_steps``."""
    threshold: float = 1.0
    """Firing threshold of every neuron, which is also the current of one event."""
    prediction: Prediction = "v_prediction"
    """Quantity that the last layer predicts: v, or the noise (``epsilon``)."""
    linear_head: bool = True
    """Start with a linear output: see :class:`sddpm.unet.UNetConfig`."""


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


def network(config: Config, shape: ImageShape) -> UNet:
    """The U-Net of ``config`` with fresh weights, ready to be trained.

    Raises:
        ValueError: a value of the configuration is out of its range.
    """
    net = UNet(spiking_unet(config, shape))
    check_mixed(net, config.mixed_time_steps)
    charge_for_events(net, shape, config.event_weight)
    return net


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Denoiser:
    """SDDPM+ for images of ``shape``; it has no parent.

    Raises:
        ValueError: a value of the configuration is out of its range.
    """
    return Denoiser(
        network(config, shape),
        shape,
        config,
        DiffusionConfig(config.diffusion_steps),
        loss_of(config),
        config.mixed_time_steps,
    )


def loss_of(config: Config) -> NoiseLoss:
    """The loss of a training step.

    Raises:
        ValueError: ``min_snr`` is below 0.
    """
    if not config.min_snr >= 0:
        raise ValueError(f"min_snr={config.min_snr}: expected 0 or a number above it")
    if not config.min_snr:
        return noise_loss
    return MinSNRLoss(config.min_snr, DiffusionConfig(config.diffusion_steps))


PRESETS = over(TRAINED, small=dict(channels=24), medium=dict(channels=96))
