"""Diffusion on manifolds against known answers: uniform stays uniform, a mixture's likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, ive
from torch import Tensor, nn

from bench.data.points import (
    MIXTURE_CENTRES,
    MIXTURE_CONCENTRATIONS,
    MIXTURE_SHARES,
    vmf_mixture,
    vmf_mixture_log_density,
)
from sddpm.denoising import DenoiserTraining
from sddpm.manifolds import Manifold, make_manifold
from sddpm.protocol import PointShape
from sddpm.riemannian import RiemannianDiffusion, RiemannianWidths, step_table
from sddpm.training import TrainConfig, fit
from sddpm.walk import Walk

SPHERE = make_manifold("sphere", 3)
DEGREES = 60
"""Terms of a series of Legendre polynomials: enough for a concentration of 50."""


def drawn(space: Manifold, seed: int = 0) -> Callable[[Sequence[int], int], Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: Sequence[int], count: int) -> Tensor:
        size = (len(rows), count, space.coordinates)
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return draw


def uniform(space: Manifold, count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return space.uniform(torch.randn(count, space.coordinates, generator=generator))


@pytest.mark.parametrize(("name", "size"), [("sphere", 3), ("rotations", 3)])
def test_uniform_points_stay_uniform(name: str, size: int) -> None:
    space = make_manifold(name, size)
    start = uniform(space, 10_000)
    path = Walk(space, [0.15] * 10).forwards(start, drawn(space))
    assert space.xi(path.flatten(0, 1)).abs().max() < 1e-10
    end = path[-1]
    assert (end - start).norm(dim=1).mean() > 0.4  # it went somewhere
    # Mean 0, and the covariance of the uniform distribution: 1 / size on the diagonal.
    assert end.mean(0).abs().max() < 0.03
    covariance = end.T @ end / len(end)
    wanted = torch.eye(space.coordinates, dtype=torch.float64) / size
    assert (covariance - wanted).abs().max() < 0.02


def test_a_walk_spreads_as_brownian_motion_does() -> None:
    """On the sphere the mean of x . x_0 falls as exp(-t), t the sum of the squared steps."""
    start = torch.tensor([[0.0, 0.0, 1.0]]).double().repeat(20_000, 1)
    path = Walk(SPHERE, [0.05] * 200).forwards(start, drawn(SPHERE))
    assert path[-1, :, 2].mean() == pytest.approx(math.exp(-200 * 0.05**2), abs=0.015)


def test_samples_of_rotations_are_rotations_to_1e_8() -> None:
    space = make_manifold("rotations", 3)
    ends = Walk(space, [0.1] * 20).backwards(lambda x, k: torch.zeros_like(x), 500, drawn(space))
    matrices = space.matrices(ends)
    assert (matrices.mT @ matrices - torch.eye(3)).abs().max() < 1e-8
    assert (torch.linalg.det(matrices) - 1).abs().max() < 1e-8


def test_without_a_score_the_density_is_the_uniform_one() -> None:
    for name, size in (("sphere", 3), ("rotations", 3)):
        space = make_manifold(name, size)
        draw = drawn(space)
        found = Walk(space, [0.1] * 5).log_weights(
            uniform(space, 50),
            lambda x, k: torch.zeros_like(x),
            lambda draw=draw: draw(range(50), 1)[:, 0],
        )
        # Ahead and back differ by the curvature of a step.
        assert found.exp().mean().log() == pytest.approx(-space.log_volume, abs=0.02)


def test_the_density_of_any_score_and_size_back_is_one_in_all() -> None:
    """A mean over uniform points of density times volume, whatever the backward moves are."""
    draw = drawn(SPHERE)
    points = uniform(SPHERE, 40_000)

    def score(x: Tensor, k: int) -> Tensor:
        return (k + 1) * torch.stack([x[:, 1], x[:, 0] * x[:, 2], 1 + x[:, 2]], 1)

    walk = Walk(SPHERE, [0.2, 0.25, 0.3], [0.17, 0.22, 0.28])
    weights = walk.log_weights(points, score, lambda: draw(range(len(points)), 1)[:, 0])
    assert (weights + SPHERE.log_volume).exp().mean() == pytest.approx(1, abs=0.02)


def test_the_determinant_of_a_step_is_the_same_both_ways() -> None:
    for name, size in (("sphere", 3), ("rotations", 3)):
        space = make_manifold(name, size)
        x = uniform(space, 5)
        y, found = Walk(space, [0.3]).step(x, 0.3, torch.randn(x.shape).double())
        product = space.tangent_basis(x).mT @ space.tangent_basis(y)
        assert found.all()
        ahead, back = torch.linalg.det(product).abs(), torch.linalg.det(product.mT).abs()
        torch.testing.assert_close(ahead, back)
        if name == "sphere":
            torch.testing.assert_close(ahead, (x * y).sum(1))


def mixture_score(time: float) -> Callable[[Tensor], Tensor]:
    """The gradient of the log density of the mixture after Brownian motion for ``time``: each
    Legendre coefficient of degree l falls as exp(-l (l + 1) time / 2)."""
    degrees = np.arange(DEGREES)
    decay = np.exp(-degrees * (degrees + 1) * time / 2) * (2 * degrees + 1) / (4 * np.pi)

    def score(x: Tensor) -> Tensor:
        total, slope = np.zeros(len(x)), np.zeros((len(x), 3))
        for centre, kappa, share in zip(
            MIXTURE_CENTRES, MIXTURE_CONCENTRATIONS, MIXTURE_SHARES, strict=True
        ):
            # Mean of the polynomial of degree l under the distribution: a ratio of Bessel
            # functions of half-integer order.
            means = ive(degrees + 0.5, kappa) / ive(0.5, kappa)
            cosine = np.clip(x.numpy() @ np.array(centre), -1, 1)
            values = eval_legendre(degrees[:, None], cosine)
            total += share * (decay * means) @ values
            # (1 - z^2) P_l' = l (P_{l-1} - z P_l)
            before = np.vstack([np.zeros(len(x)), values[:-1]])
            rise = degrees[:, None] * (before - cosine * values)
            change = share * (decay * means) @ rise / np.maximum(1 - cosine**2, 1e-9)
            slope += change[:, None] * np.array(centre)
        return SPHERE.to_tangent(x, torch.from_numpy(slope / np.maximum(total, 1e-12)[:, None]))

    return score


def test_the_likelihood_of_a_mixture_is_recovered_with_its_score() -> None:
    """Exact density by SciPy; the score of the noised mixture by a series, no network."""
    config = RiemannianWidths(diffusion_steps=300, first_step=0.01, last_step=0.15)
    sizes = step_table(config)[:, 0]
    times = sizes.square().cumsum(0).tolist()
    scores = [mixture_score(time) for time in times]
    points = torch.from_numpy(np.random.default_rng(0).permutation(vmf_mixture())[:200])
    paths, draw = 2, drawn(SPHERE)
    repeated = points.repeat_interleave(paths, 0)
    weights = Walk(SPHERE, sizes.tolist()).log_weights(
        repeated, lambda x, k: scores[k](x), lambda: draw(range(len(repeated)), 1)[:, 0]
    )
    found = weights.unflatten(0, (-1, paths)).logsumexp(1) - math.log(paths)
    wanted = vmf_mixture_log_density(points.numpy())
    assert float(found.mean()) == pytest.approx(float(wanted.mean()), abs=0.02)


@pytest.mark.parametrize("memory", [0.0, 0.1])
def test_targets_average_to_the_score(memory: float) -> None:
    """At the end of a walk from one pole: the score of the heat kernel at a distance from it."""
    sizes = [0.04] * 50
    start = torch.tensor([[0.0, 0.0, 1.0]]).double().repeat(60_000, 1)
    walk = Walk(SPHERE, sizes)
    path = walk.forwards(start, drawn(SPHERE))
    targets, ends = walk.targets(path, memory)[-1], path[-1]
    time, degrees = sum(s * s for s in sizes), np.arange(DEGREES)
    weights = (2 * degrees + 1) * np.exp(-degrees * (degrees + 1) * time / 2)
    # Towards the pole, at heights around cos 0.25 = 0.97.
    chosen = (ends[:, 2] - 0.97).abs() < 0.01
    upwards = SPHERE.to_tangent(ends, torch.tensor([[0.0, 0.0, 1.0]]).double())
    upwards = upwards / upwards.norm(dim=1, keepdim=True)
    found = (targets * upwards).sum(1)[chosen]
    z = ends[chosen, 2].numpy()
    values = eval_legendre(degrees[:, None], z)
    before = np.vstack([np.zeros(len(z)), values[:-1]])
    rise = degrees[:, None] * (before - z * values) / np.sqrt(1 - z**2)
    wanted = float(((weights @ rise) / (weights @ values)).mean())
    error = float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(wanted, abs=4 * error + 0.03 * wanted)
    # A memory lowers the noise to that of a step of its length.
    length = max(memory, 0.04**2) if memory < time else time
    spread = math.sqrt(1 / length)
    assert float(found.std()) < 1.2 * spread


class _Constant(nn.Module):
    """A network that says 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return 0 * x + self.weight


def diffusion(**options: object) -> RiemannianDiffusion:
    config = RiemannianWidths(diffusion_steps=5, trajectories=16, pairs=32, **options)  # type: ignore[arg-type]
    return RiemannianDiffusion(_Constant(), PointShape("sphere", 3), config, DenoiserTraining())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"first_step": 0.0}, "first_step=0.0: expected a length above 0"),
        ({"last_step": 2.0}, "last_step=2.0: expected a length"),
        ({"memory": -1.0}, "memory=-1.0"),
        ({"renew_every": 0}, "renew_every=0: expected a whole number from 1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        diffusion(**options)


def test_steps_that_always_fail_are_told() -> None:
    with pytest.raises(ValueError, match="left the manifold 20 times; choose a smaller last_step"):
        Walk(SPHERE, [50.0] * 3).forwards(uniform(SPHERE, 40), drawn(SPHERE))


def test_a_failed_trajectory_is_drawn_again_and_counted() -> None:
    walk = Walk(SPHERE, [0.6] * 3)
    path = walk.forwards(uniform(SPHERE, 400), drawn(SPHERE))
    assert SPHERE.xi(path.flatten(0, 1)).abs().max() < 1e-10
    # A step fails if its tangential part is longer than 1: with probability exp(-1 / 0.72).
    assert walk.failed / walk.done == pytest.approx(math.exp(-1 / 0.72), abs=0.05)


class _Points:
    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.points[indices]


def test_a_resumed_training_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    from baselines.rddpm import mlp

    config = mlp.Config(width=8, layers=2, diffusion_steps=5, trajectories=16, renew_every=3,
                        pairs=32, ema_decay=0.9)  # fmt: skip
    data = _Points(uniform(SPHERE, 40))

    def train(folder: Path, seconds: float, stop: int | None = None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        system = mlp.build(config, PointShape("sphere", 3))
        run = TrainConfig(steps=8, batch_size=6, checkpoint_seconds=seconds)
        calls, once = 0, system.train_step

        def step(*given: object) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            return once(*given)  # type: ignore[arg-type]

        system.train_step = step  # type: ignore[method-assign]
        fit(system, data, config=run, folder=folder, description={}, progress=False)
        return system.state_dict()

    whole = train(tmp_path / "whole", 1e9)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", 0.0, stop=5)
    resumed = train(tmp_path / "parts", 0.0)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
