"""Submanifolds of Euclidean space that are given as the zeros of a function.

A manifold is ``M = {x in R^n : xi(x) = 0}`` with ``xi: R^n -> R^m`` of full rank on M. A walk on it
needs only ``xi`` and its gradient ``G(x) = grad xi(x)`` (``n x m``): the projector on the tangent
space is ``P = I - G (G^T G)^-1 G^T``, and a point beside M returns along the columns of G by
Newton's method (Liu et al., arXiv 2505.04338). No geodesic or exponential map is used.

Points are float64 ``[batch, n]``. All of this is arithmetic of a solver, outside any network.
"""

from __future__ import annotations

import math
import reprlib
from abc import ABC, abstractmethod
from functools import cache

import torch
from torch import Tensor

TOLERANCE = 1e-10
"""Largest component of ``xi`` at a point that counts as one of the manifold."""
NEWTON_ITERATIONS = 10
"""Newton iterations after which a projection has failed."""
MOST_SIZE = 64
"""Largest ``size`` of a manifold."""


class Manifold(ABC):
    """A submanifold of ``R^n``.

    Args:
        size: length of a vector, or rows of a matrix, of the space around it; 2 to 64.
    """

    coordinates: int
    """Dimension ``n`` of the space around it."""
    constraints: int
    """Number ``m`` of the components of ``xi``."""

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def dimension(self) -> int:
        """Dimension of the manifold itself, ``n - m``."""
        return self.coordinates - self.constraints

    @abstractmethod
    def xi(self, x: Tensor) -> Tensor:
        """``[batch, m]`` of ``[batch, n]``: zero on the manifold."""

    @abstractmethod
    def gradient(self, x: Tensor) -> Tensor:
        """``G(x)``, ``[batch, n, m]``: column ``j`` is the gradient of component ``j``."""

    @abstractmethod
    def uniform(self, normals: Tensor) -> Tensor:
        """Points of the uniform distribution, made from standard normal numbers ``[batch, n]``."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """Logarithm of the volume, measured by the Euclidean metric around it. The uniform
        density is its negative exponential."""

    def inside(self, x: Tensor) -> Tensor:
        """Whether points with ``xi = 0`` are on this component of the manifold, ``[batch]``."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """``P(x) v``: the part of ``v`` ``[batch, n]`` in the tangent space at ``x``."""
        gradient = self.gradient(x)
        transposed = gradient.mT
        normal = torch.linalg.solve(transposed @ gradient, transposed @ v[..., None])
        return v - (gradient @ normal)[..., 0]

    def tangent_basis(self, x: Tensor) -> Tensor:
        """An orthonormal basis of the tangent space at ``x``, ``[batch, n, n - m]``."""
        return torch.linalg.qr(self.gradient(x), mode="complete").Q[..., self.constraints :]

    def project(self, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bring ``v`` back to the manifold along the normals at ``x``.

        Solves ``xi(v + G(x) c) = 0`` for ``c`` by Newton's method from ``c = 0``.

        Args:
            v: points beside the manifold, ``[batch, n]``.
            x: points of the manifold, ``[batch, n]``.

        Returns:
            The points, and whether each one was found within :data:`NEWTON_ITERATIONS`. A point
            that was not found holds no useful number.
        """
        gradient = self.gradient(x)
        y = v
        for _ in range(NEWTON_ITERATIONS):
            residual = self.xi(y)
            if not bool((residual.abs().amax(1) > TOLERANCE).any()):
                break
            jacobian = self.gradient(y).mT @ gradient
            # A singular matrix gives numbers that are not finite: that projection has failed.
            change = torch.linalg.solve_ex(jacobian, residual[..., None]).result
            y = y - (gradient @ change)[..., 0]
        found = self.xi(y).abs().amax(1) <= TOLERANCE  # False for NaN
        return y, found & self.inside(y)


class Sphere(Manifold):
    """The unit sphere in ``R^size``: ``xi(x) = (|x|^2 - 1) / 2``."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.coordinates, self.constraints = size, 1

    def xi(self, x: Tensor) -> Tensor:
        return (x.square().sum(1, keepdim=True) - 1) / 2

    def gradient(self, x: Tensor) -> Tensor:
        return x[..., None]

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        # The general formula; a system of one equation needs no solver.
        return v - x * ((x * v).sum(1, keepdim=True) / x.square().sum(1, keepdim=True))

    def project(self, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        # The general iteration; a system of one equation needs no solver.
        y = v
        for _ in range(NEWTON_ITERATIONS):
            residual = self.xi(y)
            if not bool((residual.abs() > TOLERANCE).any()):
                break
            y = y - x * (residual / (y * x).sum(1, keepdim=True))
        return y, (self.xi(y).abs() <= TOLERANCE)[:, 0]

    def uniform(self, normals: Tensor) -> Tensor:
        normals = normals.double()
        return normals / normals.norm(dim=1, keepdim=True)

    @property
    def log_volume(self) -> float:
        return _log_sphere(self.size)


class Rotations(Manifold):
    """The rotations SO(size) in ``R^(size x size)``, matrices row by row.

    ``xi(X)`` is the upper triangle of ``X^T X - I``; its zeros with determinant 1 are rotations.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.coordinates, self.constraints = size * size, size * (size + 1) // 2

    def matrices(self, x: Tensor) -> Tensor:
        """``[batch, size, size]`` of ``[batch, n]``."""
        return x.unflatten(-1, (self.size, self.size))

    def xi(self, x: Tensor) -> Tensor:
        matrix = self.matrices(x)
        product = matrix.mT @ matrix
        product = product - torch.eye(self.size, dtype=x.dtype, device=x.device)
        first, second = _upper(self.size)
        return product[:, first, second]

    def gradient(self, x: Tensor) -> Tensor:
        # Component (i, j) is the product of columns i and j: its derivative by entry (a, b) is
        # X[a, j] where b = i, plus X[a, i] where b = j.
        matrix = self.matrices(x)
        first, second = _upper(self.size)
        each = torch.arange(self.constraints)
        gradient = x.new_zeros(len(x), self.size, self.size, self.constraints)
        gradient[:, :, first, each] += matrix[:, :, second]
        gradient[:, :, second, each] += matrix[:, :, first]
        return gradient.flatten(1, 2)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        # The general formula where X^T X = I: X times the antisymmetric part of X^T V.
        matrix, given = self.matrices(x), self.matrices(v)
        turn = matrix.mT @ given
        return (matrix @ ((turn - turn.mT) / 2)).flatten(1)

    def inside(self, x: Tensor) -> Tensor:
        return torch.linalg.det(self.matrices(x)) > 0

    def uniform(self, normals: Tensor) -> Tensor:
        # QR of a Gaussian matrix with a positive diagonal of R is uniform on O(n) (Mezzadri 2007,
        # arXiv math-ph/0609050); a reflection becomes a rotation with its first column reversed.
        q, r = torch.linalg.qr(self.matrices(normals.double()))
        q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None, :]
        signs = torch.ones_like(q[:, 0])
        signs[:, 0] = torch.linalg.det(q).sign()
        return (q * signs[:, None, :]).flatten(1)

    @property
    def log_volume(self) -> float:
        # Columns are points of ever smaller spheres; the Euclidean metric counts each of the
        # n (n - 1) / 2 planes of rotation twice, a length of sqrt(2).
        spheres = sum(_log_sphere(k) for k in range(2, self.size + 1))
        return spheres + self.dimension * math.log(2) / 2


MANIFOLDS: dict[str, type[Manifold]] = {"sphere": Sphere, "rotations": Rotations}
"""Manifolds by name."""


def make_manifold(name: str, size: int) -> Manifold:
    """The manifold ``name``, a key of :data:`MANIFOLDS`.

    Raises:
        ValueError: no such name, or a size that it cannot have.
    """
    if not isinstance(name, str) or name not in MANIFOLDS:
        raise ValueError(f"manifold={reprlib.repr(name)}: expected one of {', '.join(MANIFOLDS)}")
    if type(size) is not int or not 2 <= size <= MOST_SIZE:
        raise ValueError(
            f"size={reprlib.repr(size)}: expected a whole number from 2 to {MOST_SIZE}"
        )
    return _made(name, size)


@cache
def _made(name: str, size: int) -> Manifold:
    return MANIFOLDS[name](size)


@cache
def _upper(size: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the upper triangle of a square matrix, the diagonal included."""
    first, second = torch.triu_indices(size, size, device="cpu")  # kept, whatever the default is
    return first, second


def _log_sphere(size: int) -> float:
    """Logarithm of the area of the unit sphere in ``R^size``."""
    return math.log(2) + size / 2 * math.log(math.pi) - math.lgamma(size / 2)
