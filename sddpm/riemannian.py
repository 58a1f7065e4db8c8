"""Riemannian DDPM: diffusion on a manifold by projected steps.

Paper: Liu, Zhang, Schuette, Li, "Riemannian Denoising Diffusion Probabilistic Models",
arXiv 2505.04338. No public code was found; constants are this project's and stand in the
configurations. With ``P`` the tangential projector and ``sigma_k`` the size of step ``k``, without
a drift forwards:

- forwards, ``k = 0..N-1``: ``x_k + sigma_k P(x_k) z``, ``z ~ N(0, I)``, brought back to the
  manifold along the normals at ``x_k`` (:meth:`sddpm.manifolds.Manifold.project`), is ``x_{k+1}``;
- backwards from the uniform distribution: the same move from ``x_{k+1}``, of size ``beta_k``, with
  the drift ``sigma_k^2 s(x_{k+1})``;
- loss: ``|P(x_{k+1}) (x_k - x_{k+1} - sigma_k^2 s(x_{k+1}))|^2 / (2 sigma_k^2)``;
- a trajectory with a projection that fails is drawn again.

A step's density on the manifold is the Gaussian of its tangential part times
``|det(U_x^T U_y)|``, ``U`` orthonormal tangent bases at both ends. That factor is the same
forwards and backwards, so it leaves the ratio of both.

A trajectory cannot be jumped into, so training draws its steps from a buffer of whole ones.

One step says little about the score: what the loss wants from ``s`` is ``(x_k - x_{k+1}) /
sigma_k^2`` on average, whose noise grows as the steps become small. With ``memory`` the mean of the
last steps stands in its place, each carried along the walk by the projectors and weighted by its
squared size. Its expectation is the score as well (Bismut's formula, Bismut 1984; Elworthy and Li
1994), up to an error of the order of ``memory`` times the curvature, and its noise is that of one
step of squared size ``memory``. ``memory = 0`` is the paper's loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sddpm.averaging import Average
from sddpm.denoising import DenoiserTraining, check_training, learning_rate
from sddpm.layers import evaluating, solver_arithmetic
from sddpm.point_nets import TIMES, PointNet, PointNetConfig
from sddpm.protocol import PointShape, Step, System
from sddpm.rng import ImageStreams, mix
from sddpm.walk import Walk
from sddpm.widths import over

CHUNK_PATHS = 4096
"""Paths of the likelihood's estimate that are followed at once."""
FAILURE_POINTS = 256
"""Samples that are drawn again to count failed projections."""


@dataclass(frozen=True)
class RiemannianWidths:
    """Sizes of a diffusion on a manifold and of its network, which a conversion keeps."""

    width: int = 512
    """Units of a hidden layer."""
    layers: int = 5
    """Hidden layers."""
    frequencies: int = 0
    """Random directions of which sine and cosine are appended to the point."""
    highest_frequency: float = 1.0
    """Largest frequency of these, in radians a unit of length."""
    diffusion_steps: int = 300
    """Steps ``N`` of a trajectory. On the unit sphere they should reach a squared length of 3,
    after which nearly nothing is left of the start."""
    first_step: float = 0.005
    """Size ``sigma_0`` of the first step forwards, in units of length. It is the resolution of the
    samples."""
    growth: float = 0.25
    """Size of a later step over the length of the walk before it."""
    last_step: float = 0.15
    """Largest size of a step."""
    narrowing: float = 0.0
    """Share by which the squared size of a step back lies between that of the step forwards (0) and
    that which a walk from one single point would have (1)."""
    memory: float = 0.0
    """Squared length of the walk over which a step's target is averaged; 0 is the paper's loss, of
    the step alone."""
    trajectories: int = 2048
    """Trajectories in the buffer."""
    renew_every: int = 10
    """Updates between two renewals; each replaces the oldest trajectories by those of one batch."""
    pairs: int = 4096
    """Steps of trajectories that one update learns from."""
    likelihood_paths: int = 32
    """Paths of each held-out point from which its likelihood is estimated."""


class RiemannianDiffusion(System):
    """Trains ``net`` as the score ``s`` of a diffusion on a manifold, and samples with it.

    ``s(x_{k+1}) = net(x_{k+1}, time) / tau_k``, where ``tau_k`` is the length of the walk so far,
    ``tau_k^2 = sigma_0^2 + ... + sigma_k^2``. So the network's outputs are near 1 in size at every
    step. The time of a step is ``(k + 1) / N`` and ``log tau_k``.

    Each process of a distributed training keeps a buffer of its own share of the points.

    Args:
        net: ``net(x, time)``, float32 ``[batch, n]`` and ``[batch, 2]``.

    Raises:
        ValueError: an option out of range.
    """

    graphable = frozenset({"net"})
    table: Tensor
    buffer: Tensor
    targets: Tensor
    filled: Tensor

    def __init__(
        self,
        net: nn.Module,
        shape: PointShape,
        config: RiemannianWidths,
        training: DenoiserTraining,
    ) -> None:
        super().__init__()
        _check(config)
        check_training(training)
        self.net, self.shape = net.float(), shape
        self.config, self.training_config = config, training
        # Size, length of the walk so far, and the two times of every step.
        self.register_buffer("table", step_table(config), persistent=False)
        self.averaged = Average(self.net, training.ema_decay) if training.ema_decay else None
        # They go with a training that is resumed; the generator's checkpoint does not hold them.
        size = (config.diffusion_steps, config.trajectories, shape.coordinates)
        self.register_buffer("buffer", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("targets", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizers = {"net": torch.optim.Adam(trained, lr=training.learning_rate)}

    @property
    def generator(self) -> nn.Module:
        return self.net if self.averaged is None else self.averaged.module

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.net.parameters()).device

    def walk(self) -> Walk:
        """A fresh walk of this diffusion."""
        sizes, lengths = self.table[:, 0], self.table[:, 1]
        # From one point, what is known of the step before is narrower by the part that it moved.
        known = 1 - self.config.narrowing * sizes.square() / lengths.square()
        known[0] = 1  # before it there is no walk
        return Walk(self.shape.space, sizes.tolist(), (sizes * known.sqrt()).tolist())

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        if step.number % self.config.renew_every == 0:
            self.renew(images, step)
        after, time, target, scale = self.pairs(step)
        predicted = step.module("net")(after.float(), time)
        loss = self.loss(after, predicted, target, scale)
        step.update(
            "net",
            loss,
            lr=learning_rate(self.training_config, step.number, step.total),
            clip=self.training_config.gradient_clip,
        )
        if self.averaged is not None:
            self.averaged.update_parameters(self.net)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def renew(self, points: Tensor, step: Step) -> None:
        """Put trajectories from ``points`` ``[batch, n]`` in the place of the oldest ones."""

        def draw(rows: Sequence[int], count: int) -> Tensor:
            return step.randn(len(rows), count, self.shape.coordinates).double()

        points = points.double()[: self.config.trajectories]
        walk = self.walk()
        paths = walk.forwards(points, draw)
        first = int(self.filled)
        places = torch.arange(first, first + len(points), device=paths.device)
        places = places % self.config.trajectories
        self.buffer[:, places] = paths[1:]
        self.targets[:, places] = walk.targets(paths, self.config.memory)
        self.filled += len(points)

    def pairs(self, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random steps of the buffer's trajectories.

        Returns:
            Points after the step ``[pairs, n]``, their times ``[pairs, 2]``, ``sigma_k`` times what
            the score is to be ``[pairs, n]``, and ``sigma_k / tau_k`` ``[pairs, 1]``.
        """
        known = min(int(self.filled), self.config.trajectories)
        rows = step.randint(known, self.config.pairs)
        numbers = step.randint(self.config.diffusion_steps, self.config.pairs)
        after, target = self.buffer[numbers, rows], self.targets[numbers, rows]
        sizes, lengths, time = self.table[numbers].split((1, 1, TIMES), 1)
        return after, time.float(), sizes * target, sizes / lengths

    def loss(self, after: Tensor, predicted: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        """The variational bound's mean term: ``|target - scale P predicted|^2 / 2``."""
        tangent = self.shape.space.to_tangent(after, predicted.double())
        return (target - scale * tangent).square().sum(1).mean() / 2

    def score(self, x: Tensor, k: int) -> Tensor:
        """``s`` at points ``[batch, n]`` after step ``k``."""
        length, time = self.table[k, 1], self.table[k, 2:].float()
        return self.generator(x.float(), time.expand(len(x), -1)).double() / length

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], sampling: Mapping[str, Any] | None = None) -> Tensor:
        return self._sample(seeds, self.walk())

    def _sample(self, seeds: Sequence[int], walk: Walk) -> Tensor:
        generators, n = ImageStreams(seeds).generators, self.shape.coordinates

        def draw(rows: Sequence[int], count: int) -> Tensor:
            drawn = [
                torch.randn(count, n, generator=generators[row], dtype=torch.float32)
                for row in rows
            ]
            return torch.stack(drawn).double().to(self.device)

        with solver_arithmetic(), evaluating(self.generator):
            return walk.backwards(self.score, len(seeds), draw)

    @torch.no_grad()
    def log_density(self, points: Tensor, paths: int, seed: int = 0) -> Tensor:
        """Estimate of the logarithm of the model's density at ``points`` ``[batch, n]``, in nats
        over the manifold's volume.

        Importance sampling over ``paths`` forward trajectories of each point
        (:meth:`sddpm.walk.Walk.log_weights`). The estimate of the density has no bias, so that
        of its logarithm is too low by a part that falls with ``paths``.
        """
        points, found = points.double().to(self.device), []
        walk, rng = self.walk(), torch.Generator().manual_seed(mix(seed, paths))
        with solver_arithmetic(), evaluating(self.generator):
            for chunk in points.split(max(1, CHUNK_PATHS // paths)):
                repeated = chunk.repeat_interleave(paths, 0)

                def normals(like: Tensor = repeated) -> Tensor:
                    drawn = torch.randn(like.shape, generator=rng, dtype=torch.float64)
                    return drawn.to(like.device)

                weights = walk.log_weights(repeated, self.score, normals)
                found.append(weights.unflatten(0, (-1, paths)).logsumexp(1) - math.log(paths))
        return torch.cat(found)

    def figures(self, held_out: Tensor, seeds: Sequence[int]) -> dict[str, float]:
        """Negative log-likelihood of ``held_out`` in nats, its standard error over the points, and
        the share of projections that failed while the first samples were drawn."""
        found = -self.log_density(held_out, self.config.likelihood_paths)
        walk = self.walk()
        with torch.no_grad():
            self._sample(seeds[:FAILURE_POINTS], walk)
        return {
            "nll_paths": float(found.mean()),
            "nll_std_paths": float(found.std() / len(found) ** 0.5),
            "failures": walk.failed / walk.done,
        }


def step_table(config: RiemannianWidths) -> Tensor:
    """Size ``sigma_k``, length ``tau_k`` of the walk after the step, ``(k + 1) / N`` and
    ``log tau_k`` of every step, float64 ``[N, 4]``."""
    count, sizes, length = config.diffusion_steps, [config.first_step], config.first_step
    for _ in range(count - 1):
        sizes.append(min(config.last_step, max(config.first_step, config.growth * length)))
        length = math.hypot(length, sizes[-1])
    steps = torch.tensor(sizes, dtype=torch.float64)
    lengths = steps.square().cumsum(0).sqrt()
    time = torch.arange(1, count + 1, dtype=torch.float64) / count
    return torch.stack([steps, lengths, time, lengths.log()], 1)


def _check(config: RiemannianWidths) -> None:
    """Raise ValueError for an option out of range."""
    for name in ("diffusion_steps", "trajectories", "renew_every", "pairs", "likelihood_paths"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}: expected a whole number from 1")
    for name in ("first_step", "last_step"):
        value = getattr(config, name)
        if not 0 < value < 1:
            raise ValueError(f"{name}={value}: expected a length above 0 and below 1")
    if not 0 < config.growth <= 1:
        raise ValueError(f"growth={config.growth}: expected a number above 0 and at most 1")
    for name in ("memory", "narrowing"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)}: expected a number in [0, 1]")


def network_of(
    config: RiemannianWidths,
    shape: PointShape,
    activation: str,
    time_steps: int = 1,
    threshold: float = 1.0,
) -> PointNet:
    """The network of ``config`` for points of ``shape``."""
    return PointNet(
        PointNetConfig(
            shape.coordinates,
            config.width,
            config.layers,
            activation,
            time_steps,
            threshold,
            config.frequencies,
            config.highest_frequency,
        )
    )


SIZES: dict[str, dict[str, Any]] = {
    "smoke": dict(
        width=32, layers=2, diffusion_steps=30, first_step=0.05, growth=0.5, last_step=0.3,
        trajectories=256, pairs=256, likelihood_paths=4,
    ),
    "small": dict(
        width=128, layers=3, frequencies=128, highest_frequency=100.0, diffusion_steps=220,
        last_step=0.18, narrowing=0.5, memory=0.1, renew_every=20, pairs=2048,
        likelihood_paths=16,
    ),
    "medium": dict(
        width=256, layers=4, frequencies=256, highest_frequency=300.0, narrowing=0.5, memory=0.1,
        likelihood_paths=64,
    ),
    "paper": dict(),
}  # fmt: skip
"""Sizes of each preset. Below the literature's width, sines and cosines of random directions let a
small network tell near points apart."""

TRAINED = over(
    SIZES,
    smoke=dict(learning_rate=5e-3, ema_decay=0.9),
    small=dict(learning_rate=4e-3, warmup_steps=100, decay="linear", ema_decay=0.995),
    medium=dict(learning_rate=1e-3, warmup_steps=1000, decay="linear", ema_decay=0.999),
    paper=dict(warmup_steps=1000, decay="linear", ema_decay=0.999),
)
"""Sizes and training of a network from fresh weights."""
