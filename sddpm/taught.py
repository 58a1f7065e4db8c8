"""SDDPM+ that learns from its ANN twin: it starts from the twin's weights, and learns the twin's
noise predictions.

An integer neuron is a rectifier that rounds (:class:`sddpm.soft_neurons.IntegerIF`), so a twin
with the same stem has the same weights, and is near the network that training would find. The
twin was trained before, on images that count: an equal comparison trains SDDPM+ as long as both
together.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sddpm import plus
from sddpm.diffusion import DiffusionConfig, Prediction
from sddpm.neurons import SpikingNeuron
from sddpm.protocol import ImageShape, System
from sddpm.teaching import TaughtDenoiser, teacher_of
from sddpm.unet import UNet


@dataclass(frozen=True)
class Config(plus.Config):
    """SDDPM+ and what it takes from its twin."""

    prediction: Prediction = "epsilon"
    """Quantity that the last layer predicts, the twin's if it starts from it; by default that of
    the twin's default."""
    start_from_twin: bool = True
    """Start from the twin's weights, for which it needs this network's widths."""
    teacher_share: float = 1.0
    """Share of the twin's prediction in the target of the loss, 0 to 1; the rest is the noise."""
    feature_weight: float = 0.0
    """Weight of the distance between the means over spiking time of the residual blocks' outputs
    and the twin's."""


def build(config: Config, shape: ImageShape, parent: System | None = None) -> TaughtDenoiser:
    """SDDPM+ for images of ``shape`` that learns from the trained ANN twin ``parent``.

    Without a parent the weights are fresh, to be loaded from a checkpoint.

    Raises:
        ValueError: a value of the configuration is out of its range, or the parent is a network
            that this one cannot learn from.
    """
    diffusion = DiffusionConfig(config.diffusion_steps)
    net = plus.network(config, shape)
    teacher = None if parent is None else teacher_of(parent, shape, diffusion)
    if teacher is not None and config.start_from_twin:
        load_twin(net, teacher)
    return TaughtDenoiser(
        net,
        shape,
        config,
        diffusion,
        plus.loss_of(config),
        config.mixed_time_steps,
        teacher=teacher,
        share=config.teacher_share,
        feature_weight=config.feature_weight,
    )


def load_twin(net: UNet, twin: nn.Module) -> None:
    """Load the weights of ``twin`` into ``net``. Weights that only neurons have stay; a
    shortcut of the stem that the twin lacks starts at 0, and a gain at 1, so that they change
    nothing yet.

    Raises:
        ValueError: the twin has other layers, or predicts another quantity.
    """
    found = getattr(getattr(twin, "config", None), "prediction", None)
    if found != net.config.prediction:  # which no shape shows
        raise ValueError(
            f"prediction={net.config.prediction}: the twin has {found}, and start_from_twin needs "
            "the same"
        )
    theirs = twin.state_dict()
    lacking = [part for part in _STEM if not any(n.startswith(f"{part}.") for n in theirs)]
    if net.stem.shortcut is not None and _STEM[0] in lacking:
        nn.init.zeros_(net.stem.shortcut.get_parameter("1.weight"))
    neurons = [name for name, module in net.named_modules() if isinstance(module, SpikingNeuron)]
    stay = tuple(f"{name}." for name in neurons + lacking)
    taken = {name: value for name, value in theirs.items() if not name.startswith(stay)}
    expected = {n: v.shape for n, v in net.state_dict().items() if not n.startswith(stay)}
    differing = sorted(expected.items() ^ {n: v.shape for n, v in taken.items()}.items())
    if differing:
        raise ValueError(
            f"the twin is another network: {differing[0][0]} differs. start_from_twin needs the "
            "same channels, multipliers and blocks, the stem's parts that the twin has, and "
            "mean_shortcuts=False but for integer neurons"
        )
    net.load_state_dict({**net.state_dict(), **taken})
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and getattr(module, "reads", "real") != "real":
            # An event stands for a current of one threshold, and is sent as a 1.
            module.weight.detach().mul_(net.config.threshold)


_STEM = ("stem.shortcut", "stem.gain")

PRESETS = plus.PRESETS
"""Sizes and training as those of SDDPM+."""
