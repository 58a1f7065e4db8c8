"""Trajectories of a diffusion on a manifold: projected steps forwards and backwards.

:mod:`sddpm.riemannian` has the method and its source, and trains the score that leads backwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sddpm.manifolds import Manifold

ATTEMPTS = 20
"""Times that a trajectory is drawn before its step sizes are held to be too large."""

Score = Callable[[Tensor, int], Tensor]
"""Points ``[batch, n]`` after step ``k``, and ``k`` -> ``s``, ``[batch, n]``."""
Moved = tuple[Tensor, Tensor]
Draw = Callable[[Sequence[int], int], Tensor]
"""Rows of a batch, and a count -> standard normal numbers ``[rows, count, n]``, new ones at every
call."""


class Walk:
    """Forward and backward trajectories on a manifold.

    Args:
        sizes: of the steps forwards, first to last.
        back: sizes of the same steps backwards; as forwards if not given.
    """

    def __init__(
        self, manifold: Manifold, sizes: Sequence[float], back: Sequence[float] | None = None
    ) -> None:
        self.manifold, self.sizes = manifold, sizes
        self.back = sizes if back is None else back
        self.done = self.failed = 0
        """Projections so far, and those of them that failed."""

    def step(self, x: Tensor, size: float, z: Tensor, drift: Tensor | None = None) -> Moved:
        """The move of a size from ``x``, along normal numbers ``z`` and a drift, both
        ``[batch, n]``. A row whose projection failed stays where it was.

        Returns:
            The points, and whether each projection was found, ``[batch]``.
        """
        move = size * self.manifold.to_tangent(x, z)
        y, found = self.manifold.project(x + move if drift is None else x + move + drift, x)
        return torch.where(found[:, None], y, x), found

    def forwards(self, start: Tensor, draw: Draw) -> Tensor:
        """Whole trajectories from points ``[batch, n]``: ``[N + 1, batch, n]``."""

        def one(rows: list[int], normals: Tensor) -> tuple[Tensor, Tensor]:
            path = [start[rows]]
            alive = torch.ones(len(rows), dtype=torch.bool, device=start.device)
            for k in range(len(self.sizes)):
                y, found = self.step(path[-1], self.sizes[k], normals[:, k])
                alive = self._count(alive, found)
                path.append(y)
            return torch.stack(path, 1), alive

        return self._until_whole(len(start), draw, len(self.sizes), one).transpose(0, 1)

    def targets(self, paths: Tensor, memory: float) -> Tensor:
        """The score that each step of ``paths`` ``[N + 1, batch, n]`` speaks for, at its end:
        ``[N, batch, n]``.

        Args:
            memory: squared length of the walk that is averaged over; 0 for the step alone.
        """
        carried, length, found = torch.zeros_like(paths[0]), 0.0, []
        for k, size in enumerate(self.sizes):
            # All steps until their squared sizes fill the memory, then ever less of the old ones.
            kept = min(1.0, max(0.0, memory - size**2) / length) if length else 0.0
            back = paths[k] - paths[k + 1]
            carried = self.manifold.to_tangent(paths[k + 1], kept * carried + back)
            length = kept * length + size**2
            found.append(carried / length)
        return torch.stack(found)

    def backwards(self, score: Score, count: int, draw: Draw) -> Tensor:
        """Ends of ``count`` backward trajectories from the uniform distribution,
        ``[count, n]``."""

        def one(rows: list[int], normals: Tensor) -> tuple[Tensor, Tensor]:
            x = self.manifold.uniform(normals[:, 0])
            alive = torch.ones(len(rows), dtype=torch.bool, device=x.device)
            for turn, k in enumerate(reversed(range(len(self.sizes))), start=1):
                drift = self.sizes[k] ** 2 * self.manifold.to_tangent(x, score(x, k))
                x, found = self.step(x, self.back[k], normals[:, turn], drift)
                alive = self._count(alive, found)
            return x, alive

        return self._until_whole(count, draw, len(self.sizes) + 1, one)

    def log_weights(self, points: Tensor, score: Score, normals: Callable[[], Tensor]) -> Tensor:
        """Logarithm of ``p(path) / q(path | point)`` of one forward path of each point.

        ``p`` is the density of the backward trajectory that takes the path, ``q`` that of the
        forward one. The mean of the ratio over paths is an estimate of the point's density without
        bias; a path with a failed projection has the ratio 0.

        Args:
            points: ``[batch, n]``.
            normals: gives the numbers of the next step, ``[batch, n]``.
        """
        x = points
        total = torch.full((len(x),), -self.manifold.log_volume, dtype=x.dtype, device=x.device)
        for k, (size, size_back) in enumerate(zip(self.sizes, self.back, strict=True)):
            y, found = self.step(x, size, normals())
            ahead = self.manifold.to_tangent(x, y - x) / size
            back = self.manifold.to_tangent(y, x - y - size**2 * score(y, k)) / size_back
            total += (ahead.square().sum(1) - back.square().sum(1)) / 2
            total += self.manifold.dimension * math.log(size / size_back)
            total = total.masked_fill(~found, -math.inf)
            x = y
        return total

    def _count(self, alive: Tensor, found: Tensor) -> Tensor:
        self.done += int(alive.sum())
        self.failed += int((alive & ~found).sum())
        return alive & found

    def _until_whole(
        self,
        count: int,
        draw: Draw,
        numbers: int,
        one: Callable[[list[int], Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Results of ``one`` for every row; rows that failed are drawn again."""
        rows, result = list(range(count)), torch.empty(0)
        for _ in range(ATTEMPTS):
            found, whole = one(rows, draw(rows, numbers))
            result = result if len(result) else found.clone()
            result[rows] = found
            rows = [row for row, yes in zip(rows, whole.tolist(), strict=True) if not yes]
            if not rows:
                return result
        raise ValueError(
            f"{len(rows)} of {count} trajectories left the manifold {ATTEMPTS} times; "
            "choose a smaller last_step"
        )
