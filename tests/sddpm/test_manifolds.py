"""Manifolds against automatic derivatives, SciPy's and known volumes, and their own definition."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.linalg import expm

from sddpm.manifolds import MANIFOLDS, Manifold, Rotations, Sphere, make_manifold
from sddpm.protocol import PointShape

CASES = [("sphere", 2), ("sphere", 3), ("sphere", 5), ("rotations", 2), ("rotations", 4)]


def points(space: Manifold, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return space.uniform(torch.randn(count, space.coordinates, generator=generator))


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_gradient_is_the_derivative_of_xi(name: str, size: int) -> None:
    space = make_manifold(name, size)
    x = points(space, 3) + 0.1  # beside the manifold too
    for one, gradient in zip(x, space.gradient(x), strict=True):
        wanted = torch.autograd.functional.jacobian(lambda v: space.xi(v[None])[0], one)
        torch.testing.assert_close(gradient, wanted.T, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_projector_is_the_formula_with_the_gradient(name: str, size: int) -> None:
    space = make_manifold(name, size)
    x, v = points(space, 4), torch.randn(4, space.coordinates, dtype=torch.float64)
    gradient = space.gradient(x)
    inverse = torch.linalg.inv(gradient.mT @ gradient)
    wanted = v - (gradient @ inverse @ gradient.mT @ v[..., None])[..., 0]
    torch.testing.assert_close(space.to_tangent(x, v), wanted, rtol=0, atol=1e-13)
    torch.testing.assert_close(Manifold.to_tangent(space, x, v), wanted, rtol=0, atol=1e-13)
    basis = space.tangent_basis(x)
    assert basis.shape[-1] == space.dimension == space.coordinates - space.constraints
    torch.testing.assert_close((basis @ basis.mT @ v[..., None])[..., 0], wanted)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_a_projection_is_on_the_manifold_and_along_the_normals(name: str, size: int) -> None:
    space = make_manifold(name, size)
    x = points(space, 16)
    v = x + space.to_tangent(x, 0.05 * torch.randn(16, space.coordinates).double())
    y, found = space.project(v, x)
    assert found.all()
    assert space.xi(y).abs().max() < 1e-10
    torch.testing.assert_close(space.to_tangent(x, y - v), torch.zeros_like(y), atol=1e-12, rtol=0)
    general, _ = Manifold.project(space, v, x)
    torch.testing.assert_close(y, general, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "size"), [("sphere", 3), ("rotations", 3)])
def test_a_step_that_no_normal_leads_back_fails(name: str, size: int) -> None:
    space = make_manifold(name, size)
    x = points(space, 8)
    tangent = space.to_tangent(x, torch.randn(8, space.coordinates).double())
    far = x + 3 * size * tangent / tangent.norm(dim=1, keepdim=True)
    _, found = space.project(far, x)
    assert not found.any()


def test_a_projected_step_on_the_sphere_keeps_its_tangential_part() -> None:
    # By hand: u + sqrt(1 - |u|^2) x.
    space = Sphere(3)
    x = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    y, found = space.project(x + torch.tensor([[0.6, 0.0, 0.0]]), x)
    assert found
    torch.testing.assert_close(y, torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64))


def test_a_reflection_is_no_rotation() -> None:
    space = Rotations(3)
    reflection = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)).flatten()[None]
    assert space.xi(reflection).abs().max() == 0
    assert not space.inside(reflection)
    assert not space.project(reflection, reflection)[1]


def test_tangents_of_rotations_are_directions_of_the_exponential() -> None:
    space = Rotations(4)
    x = points(space, 1)
    upper = torch.randn(4, 4, dtype=torch.float64).triu(1)
    turn = upper - upper.T
    step = 1e-6
    moved = space.matrices(x)[0] @ torch.from_numpy(expm(step * turn.numpy()))
    velocity = (moved.flatten() - x[0])[None] / step
    torch.testing.assert_close(space.to_tangent(x, velocity), velocity, rtol=0, atol=1e-4)


def test_volumes_are_the_known_ones() -> None:
    assert Sphere(2).log_volume == pytest.approx(math.log(2 * math.pi))
    assert Sphere(3).log_volume == pytest.approx(math.log(4 * math.pi))
    assert Sphere(4).log_volume == pytest.approx(math.log(2 * math.pi**2))
    # SO(2) is a circle of radius sqrt(2); SO(3), with angles as lengths, has the volume 8 pi^2.
    assert Rotations(2).log_volume == pytest.approx(math.log(2 * math.pi * math.sqrt(2)))
    assert Rotations(3).log_volume == pytest.approx(math.log(8 * math.pi**2 * 2**1.5))


@pytest.mark.parametrize("size", [3, 4])
def test_uniform_rotations_are_rotations_whose_moments_are_uniform(size: int) -> None:
    space = make_manifold("rotations", size)
    matrices = space.matrices(points(space, 20_000))
    torch.testing.assert_close(
        torch.linalg.det(matrices), torch.ones(20_000, dtype=torch.float64), rtol=0, atol=1e-12
    )
    # Every entry has mean 0 and mean square 1 / size; 4 standard errors.
    assert matrices.mean(0).abs().max() < 4 / math.sqrt(size * 20_000)
    assert (matrices.square().mean(0) - 1 / size).abs().max() < 4 / math.sqrt(20_000) * 2 / size


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("torus", 3, "manifold='torus': expected one of sphere, rotations"),
        ("sphere", 1, "size=1: expected a whole number from 2 to 64"),
        ("sphere", 65, "size=65"),
        ("rotations", 2.5, "size=2.5"),
        ("rotations", [3], r"size=\[3\]"),
        (["sphere"], 3, r"manifold=\['sphere'\]"),
    ],
)
def test_a_shape_of_no_manifold_is_refused(name: str, size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PointShape(name, size)


def test_every_manifold_is_tested() -> None:
    assert {name for name, _ in CASES} == set(MANIFOLDS)
