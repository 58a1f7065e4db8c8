"""A trained ReLU denoiser as a spiking one: the same U-Net with rate neurons, no training.

The parent's weights are loaded strictly into a U-Net with another activation. The method then sets
one threshold for each layer or channel:

- ``rate-max``, ``rate-percentile``: a plain ReLU parent, thresholds from data, soft reset, membrane
  at half the threshold at the start (Rueckauer et al. 2017, Li and Bu et al. 2021-22);
- ``rate-mse``, ``rate-channel``: methods of this project, the best threshold for the number of
  spiking steps, of a layer or of each channel;
- ``ltb``: local threshold balancing, a threshold for each channel (arXiv 2409.03368);
- ``fast-snn``: a quantised parent with learned clips, T = its levels (arXiv 2305.19868, and arXiv
  2408.16467 for diffusion);
- ``qcfs``: learned clips, any T (arXiv 2303.04347).

The published conversion of a diffusion model (arXiv 2408.16467; code AndyCao1125/SDM, no licence;
nothing is copied) is ``fast-snn`` with ``signed`` neurons and ``time_steps=3``, from a parent of
2 bits. Differences from it:

- BatchNorm, a fixed affine map at inference, for GroupNorm of every spiking step's tensor;
- the mean over spiking time is taken before the head, so that only the neurons cause errors;
  there it is taken after the last convolution;
- a signed neuron emits a negative spike if its membrane is below 0; there at -0.001 and below;
- the time embedding is real, computed once a diffusion step; there its activations spike too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from conversion.calibrate import ThresholdStatistic, read_thetas
from conversion.channels import load_parent, shared, with_channels
from conversion.methods import METHODS
from conversion.readout import READOUTS, WindowReadout
from conversion.schedule import ScheduledUNet, mean_time_steps
from sddpm.activations import is_spiking
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig
from sddpm.neurons import check_time_steps
from sddpm.protocol import ImageShape, Step, System
from sddpm.rng import mix
from sddpm.unet import UNet, UNetConfig, unet_config
from sddpm.widths import SIZES, UNetWidths, over


@dataclass(frozen=True)
class Config(UNetWidths):
    """Configuration of a converted network. The defaults are the published widths, which the parent
    must have, and a method of this project for any ReLU parent. The top of this module describes
    the published method."""

    time_steps: int = 64
    """Spiking time steps of one network evaluation; any, with any checkpoint."""
    method: str = "rate-percentile"
    """One of :data:`conversion.methods.METHODS`."""
    signed: bool = False
    """Whether neurons can emit negative spikes, which corrects most of the error that uneven
    arrival causes."""
    percentile: float = 99.9
    """Percentile of the parent's activations, for ``rate-percentile``."""
    calibration_steps: int = 8
    """Batches of training images on which thresholds are measured; later batches are not used."""
    readout: str = "mean"
    """Read-out over spiking time, before the head: the plain ``mean``, or a ``window`` that
    averages out the charge that remains in the membranes. The window is a parabola unless it was
    fitted."""
    schedule: tuple[int, ...] = ()
    """Spiking time steps in equal parts of the denoising, from noise to image, in place of
    ``time_steps``, which is then their mean. Empty: the same number everywhere."""


class Converted(Denoiser):
    """A rate-coded U-Net. ``train_step`` measures thresholds and trains no weights.

    Args:
        net: with the parent's weights, or to be loaded from a checkpoint.
        config: method and calibration.
    """

    batches: Tensor
    measured: Tensor

    def __init__(self, net: UNet, shape: ImageShape, config: Config) -> None:
        diffusion = DiffusionConfig(config.diffusion_steps)
        super().__init__(net, shape, DenoiserTraining(ema_decay=0.0), diffusion)
        self.optimizers = {}
        self.config = config
        statistic = METHODS[config.method].load_statistic()
        self.thresholds: ThresholdStatistic | None = (
            None if statistic is None else statistic(config.time_steps, config.percentile)
        )
        # Both go with a training that is resumed; the generator's checkpoint does not hold them.
        # The network's own thresholds would not do: silent channels have others' there.
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        sizes = [theta.numel() for theta in read_thetas(net).values()]
        self.register_buffer("measured", torch.zeros(sum(sizes)))
        # In a tuple, so that it is no part of the system's state.
        self._parent: tuple[UNet, ...] = ()

    @property
    def unet(self) -> UNet:
        """The network by its own type."""
        assert isinstance(self.net, UNet)
        return self.net

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        """Calibrate on ``images`` while there are calibration steps left."""
        noise = step.randn(*images.shape)
        t = step.randint(self.diffusion.config.diffusion_steps, len(images))
        if step.number < self.config.calibration_steps:
            noisy = self.diffusion.add_noise(images, noise, t)
            # Every process sees the whole batch, so all arrive at the same thresholds.
            self.calibrate(step.gather(noisy), step.gather(t))
        thetas = [theta.mean() for theta in read_thetas(self.net).values()]
        return {"threshold": torch.stack(thetas).mean()}

    def calibrate(self, noisy: Tensor, t: Tensor) -> None:
        """Let the parent see ``noisy`` (``[batch, C, H, W]``) at steps ``t`` and set thresholds.

        Raises:
            ValueError: no images, or images of another shape than the network's.
        """
        if self.thresholds is None:
            return
        if len(noisy) and tuple(noisy.shape[1:]) != image_size(self.shape):
            raise ValueError(
                f"calibration images are {_times(noisy.shape[1:])}; the network was trained on "
                f"{_times(image_size(self.shape))}"
            )
        if not self._parent:
            self._parent = (rectified(self.unet),)
        if not self.thresholds.batches and self.batches:  # resumed: go on from what was measured
            self.thresholds.batches = int(self.batches)
            self.thresholds.values = self._measured()
        self.thresholds.update(self._parent[0], noisy, t)
        self.thresholds.write(self.net)
        self.batches.fill_(self.thresholds.batches)
        values = [self.thresholds.values[name].flatten() for name in read_thetas(self.net)]
        self.measured.copy_(torch.cat(values))
        if self.thresholds.batches >= self.config.calibration_steps:
            self._parent = ()

    def _measured(self) -> dict[str, Tensor]:
        """``measured`` by layer: a number, or ``[channels]``."""
        thetas = read_thetas(self.net)
        parts = self.measured.split([theta.numel() for theta in thetas.values()])
        each = zip(thetas, thetas.values(), parts, strict=True)
        return {name: part.clone().reshape(theta.shape[:1]) for name, theta, part in each}


def image_size(shape: ImageShape) -> tuple[int, int, int]:
    """``(channels, height, width)``."""
    return shape.channels, shape.size, shape.size


def _times(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def rebuilt(net: UNet, activation: str, time_steps: int) -> UNet:
    """``net`` with another activation and the same state, loaded strictly."""
    config = replace(net.config, activation=activation, time_steps=time_steps)
    other = UNet(config).to(next(net.parameters()).device)
    other.load_state_dict(copy.deepcopy(shared(net.state_dict())), strict=True)
    return other.train(net.training)


def rectified(net: UNet) -> UNet:
    """The ReLU network with the weights of a converted one."""
    return rebuilt(net, "relu", 1)


def spiking_unet(config: Config, shape: ImageShape) -> UNetConfig:
    """The U-Net of ``config`` for images of ``shape``."""
    if config.method not in METHODS:
        raise ValueError(f"method={config.method!r}: expected one of {', '.join(METHODS)}")
    return unet_config(
        config,
        shape,
        activation="signed_rate_if" if config.signed else "rate_if",
        time_steps=check_time_steps(config.time_steps),
    )


def build(config: Config, shape: ImageShape, parent: System | None = None) -> Converted:
    """A converted network for images of ``shape``, from the weights ``parent`` samples with.

    Without a parent the weights are fresh, to be loaded from a checkpoint. Thresholds are
    measured by the first ``config.calibration_steps`` training steps.

    Raises:
        ValueError: the parent cannot be rate-coded, is another network than the configuration
            says, or was trained on images of another size.
    """
    unet = spiking_unet(config, shape)
    schedule = tuple(config.schedule)
    if schedule and mean_time_steps(schedule) != config.time_steps:
        raise ValueError(
            f"time_steps={config.time_steps}: the network has a schedule of {schedule}, whose mean "
            f"is {mean_time_steps(schedule)}"
        )
    net = ScheduledUNet(unet, schedule) if schedule else UNet(unet)
    if config.readout not in READOUTS:
        raise ValueError(f"readout={config.readout!r}: expected one of {', '.join(READOUTS)}")
    if config.readout == "window":
        net.readout = WindowReadout(config.time_steps)
    statistic = METHODS[config.method].load_statistic()
    if statistic is not None and statistic.per_channel:
        net = with_channels(net)
    if parent is not None:
        source = convertible(parent)
        check_parent(config, shape, parent, source)
        load_parent(net, source.state_dict())
    return Converted(net, shape, config)


def config_of(parent: System, **chosen: Any) -> Config:
    """A Config with the widths of ``parent``, and other fields as ``chosen``."""
    return Config(**convertible(parent).config.widths(), **chosen)


def check_parent(config: Config, shape: ImageShape, parent: System, source: UNet) -> None:
    """Raise ValueError if ``config`` and ``shape`` are not the parent's."""
    if isinstance(parent, Denoiser) and parent.shape != shape:
        raise ValueError(
            f"the parent was trained on images of {_times(image_size(parent.shape))}, "
            f"not {_times(image_size(shape))}: a conversion keeps the size"
        )
    wanted = spiking_unet(config, shape)
    for field in ("image_channels", *config.widths()):
        own, theirs = getattr(wanted, field), getattr(source.config, field)
        if own != theirs:
            raise ValueError(f"{field}={own}: the parent has {theirs}, a conversion keeps it")
    quantised = source.config.activation == "quant_relu"
    if quantised != (METHODS[config.method].statistic is None):
        legal = ", ".join(n for n, m in METHODS.items() if (m.statistic is None) == quantised)
        raise ValueError(
            f"method={config.method!r}: a parent with {source.config.activation!r} activations "
            f"takes {legal}"
        )


def convertible(parent: System) -> UNet:
    """The network of ``parent``, if a rate code can represent its activations.

    Raises:
        ValueError: it cannot, and why.
    """
    net = parent.generator
    if isinstance(net, UNet):
        if is_spiking(net.config.activation):
            raise ValueError("the parent is a spiking network already; give its ANN twin")
        if net.config.stem_shortcut:
            raise ValueError(
                "the parent's stem has a shortcut (stem_shortcut=True), which no conversion keeps: "
                "train the ANN twin without it"
            )
        return net
    kinds = {type(layer).__name__.lower() for layer in net.modules()}
    reasons = [
        why
        for why, found in {
            "GroupNorm divides by a deviation that every spiking step would measure anew": (
                any(isinstance(layer, nn.GroupNorm) for layer in net.modules())
            ),
            "SiLU is negative in places and no clipped rectifier": "silu" in kinds,
            "attention multiplies activations by each other": any("attention" in k for k in kinds),
        }.items()
        if found
    ] or ["it is no U-Net of convolutions, BatchNorm and ReLU"]
    raise ValueError(
        f"the parent cannot be rate-coded exactly: {'; '.join(reasons)}. A spike rate is a clipped "
        "ReLU and its mean passes only through linear layers: convert a ReLU twin instead, which "
        "--distill PRESET trains on this network's predictions"
    )


def noised(
    images: Tensor, system: Denoiser, batch_size: int, seed: int = 0
) -> Iterable[tuple[Tensor, Tensor]]:
    """``images`` (in [-1, 1]) noised once each at uniform steps: batches of (x_t, t)."""
    rng = torch.Generator().manual_seed(mix(seed, len(images)))
    steps = system.diffusion.config.diffusion_steps
    for batch in images.split(batch_size):
        t = torch.randint(steps, (len(batch),), generator=rng)
        noise = torch.randn(batch.shape, generator=rng)
        t, noise = t.to(batch.device), noise.to(batch.device)
        yield system.diffusion.add_noise(batch, noise, t), t


PRESETS = over(
    SIZES,
    smoke=dict(calibration_steps=2, time_steps=16),
    # At the few steps that the small suites have, thresholds a channel and spikes that can be taken
    # back keep most of what a percentile loses.
    small=dict(method="rate-channel", signed=True),
)
