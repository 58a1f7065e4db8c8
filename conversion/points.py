"""A trained ReLU diffusion on a manifold as a spiking one: the same perceptron with rate neurons.

Not from a paper: the conversions of :mod:`conversion.convert`, on the network of
:mod:`sddpm.point_nets`. The parent's weights are loaded strictly into a perceptron with rate-coded
neurons; one threshold a layer comes from what the parent's rectifiers do on the steps of forward
trajectories. The output is the mean over spiking time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from conversion.calibrate import ThresholdStatistic, read_thetas
from conversion.methods import METHODS
from sddpm.denoising import DenoiserTraining
from sddpm.neurons import check_time_steps
from sddpm.point_nets import PointNet
from sddpm.protocol import PointShape, Step, System
from sddpm.riemannian import SIZES, RiemannianDiffusion, RiemannianWidths, network_of
from sddpm.widths import over


@dataclass(frozen=True)
class Config(RiemannianWidths):
    """Configuration of a converted diffusion on a manifold; the parent must have its sizes."""

    time_steps: int = 64
    """Spiking time steps of one network evaluation; any, with any checkpoint."""
    method: str = "rate-percentile"
    """A method of :data:`conversion.methods.METHODS` that measures one threshold a layer."""
    signed: bool = True
    """Whether neurons can emit negative spikes, which corrects most of the error that uneven
    arrival causes."""
    percentile: float = 99.9
    """Percentile of the parent's activations, for ``rate-percentile``."""
    calibration_steps: int = 8
    """Batches of steps on which thresholds are measured; later batches are not used."""


class ConvertedPoints(RiemannianDiffusion):
    """A rate-coded diffusion on a manifold. ``train_step`` measures thresholds and trains no
    weights.

    Args:
        net: with the parent's weights, or to be loaded from a checkpoint.
        parent: the ReLU network that is measured; None where nothing is left to measure.
    """

    batches: Tensor

    def __init__(
        self, net: PointNet, shape: PointShape, config: Config, parent: PointNet | None
    ) -> None:
        super().__init__(net, shape, config, DenoiserTraining(ema_decay=0.0))
        self.optimizers = {}
        self.conversion_config = config
        # In a tuple, so that it is no part of the system's state.
        self._parent: tuple[PointNet, ...] = () if parent is None else (parent,)
        self.thresholds = _statistic(config)
        # It goes with a training that is resumed; the thresholds themselves do with the network.
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        """Calibrate on trajectories from ``images`` while there are calibration steps left."""
        if step.number < self.conversion_config.calibration_steps:
            self.renew(images, step)
            after, time, _, _ = self.pairs(step)
            # Every process sees the whole batch, so all arrive at the same thresholds.
            self.calibrate(step.gather(after.float()), step.gather(time))
        return {"threshold": torch.stack(list(read_thetas(self.net).values())).mean()}

    def calibrate(self, points: Tensor, time: Tensor) -> None:
        """Let the parent see ``points`` ``[batch, n]`` at times ``[batch, 2]``, and set
        thresholds."""
        (parent,) = self._parent
        if not self.thresholds.batches and self.batches:  # resumed: go on from what was measured
            self.thresholds.batches = int(self.batches)
            self.thresholds.values = dict(read_thetas(self.net))
        self.thresholds.update(parent.to(points.device), points, time)
        self.thresholds.write(self.net)
        self.batches.fill_(self.thresholds.batches)


def build(config: Config, shape: PointShape, parent: System | None = None) -> ConvertedPoints:
    """A converted network for points of ``shape``, from the weights ``parent`` samples with.

    Without a parent the weights are fresh, to be loaded from a checkpoint. Thresholds are
    measured by the first ``config.calibration_steps`` training steps.

    Raises:
        ValueError: the parent cannot be rate-coded, or is another network than the configuration
            says.
    """
    _statistic(config)
    activation = "signed_rate_if" if config.signed else "rate_if"
    net = network_of(config, shape, activation, check_time_steps(config.time_steps))
    if parent is None:
        return ConvertedPoints(net, shape, config, None)
    source = parent.generator
    if not isinstance(source, PointNet) or source.config.activation != "relu":
        found = source.config.activation if isinstance(source, PointNet) else type(source).__name__
        raise ValueError(
            f"the parent's activation is {found}: a spike rate is a clipped ReLU, so convert a "
            "parent with activation relu"
        )
    for field in ("coordinates", "width", "layers", "frequencies"):
        own, theirs = getattr(net.config, field), getattr(source.config, field)
        if own != theirs:
            raise ValueError(f"{field}={own}: the parent has {theirs}, a conversion keeps it")
    net.load_state_dict(copy.deepcopy(source.state_dict()), strict=True)
    return ConvertedPoints(net, shape, config, copy.deepcopy(source))


def _statistic(config: Config) -> ThresholdStatistic:
    """The statistic behind ``config.method``; ValueError if it is not one threshold a layer."""
    kinds = {name: method.load_statistic() for name, method in METHODS.items()}
    legal = [name for name, kind in kinds.items() if kind is not None and not kind.per_channel]
    kind = kinds.get(config.method)
    if kind is None or config.method not in legal:
        raise ValueError(f"method={config.method!r}: expected one of {', '.join(legal)}")
    return kind(config.time_steps, config.percentile)


PRESETS = over(SIZES, smoke=dict(calibration_steps=2, time_steps=16))
