"""Absorbing-state diffusion over grids of codes. Not a system.

Forward, positions turn into a mask, which they never leave: after step ``t`` of ``steps`` each
is masked with probability ``t / steps``, independently. Backward, a position that is masked at
``t`` is uncovered with probability ``1 / t``, so at step 1 the last ones are. Papers: Austin et
al. 2021, arXiv 2107.03006; the reweighted bound is that of Bond-Taylor et al. 2022,
arXiv 2111.12701.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Weighting = Literal["reweighted", "elbo"]


def mask_codes(codes: Tensor, t: Tensor, uniform: Tensor, *, steps: int, mask: int) -> Tensor:
    """Noisy codes after step ``t``.

    Args:
        codes: integers ``[batch, positions]``.
        t: 1 to ``steps``, ``[batch]``.
        uniform: numbers in [0, 1), ``[batch, positions]``.
        steps: of the process.
        mask: the code that stands for a masked position.
    """
    return codes.masked_fill(uniform * steps < t[:, None], mask)


def masked_loss(
    logits: Tensor,
    codes: Tensor,
    noisy: Tensor,
    t: Tensor,
    *,
    steps: int,
    mask: int,
    weighting: Weighting,
) -> Tensor:
    """Cross-entropy of the masked positions' codes, in bits a position, averaged over the batch.

    Args:
        logits: ``[batch, codes, positions]``, for the noisy codes.
        codes: the true ones, ``[batch, positions]``.
        noisy: what :func:`mask_codes` made of them.
        t: 1 to ``steps``, ``[batch]``.
        steps: of the process.
        mask: the masked positions' code.
        weighting: ``elbo``: by ``steps / t``, which is the bound on the code length, since ``t``
            is uniform; ``reweighted``: by ``1 - t / steps``, published, 0 for a full mask.
    """
    surprise = functional.cross_entropy(logits.float(), codes, reduction="none")
    total = (surprise * (noisy == mask)).sum(1)
    share = t / steps
    weight = 1 - share if weighting == "reweighted" else 1 / share
    return (weight * total).mean() / (codes.shape[1] * math.log(2))


def uncover(
    noisy: Tensor, logits: Tensor, t: int, uniform: Tensor, *, mask: int, temperature: float
) -> Tensor:
    """Codes before step ``t``: each masked position is uncovered with probability ``1 / t``.

    Args:
        noisy: codes after step ``t``, ``[batch, positions]``.
        logits: ``[batch, codes, positions]``.
        t: from 1.
        uniform: numbers in [0, 1), ``[2, batch, positions]``: which positions, and which codes.
        mask: the masked positions' code.
        temperature: divides the logits; above 0.
    """
    chosen, quantile = uniform
    below = torch.softmax(logits.float() / temperature, 1).double().cumsum(1)
    # The first code whose cumulative probability lies above the quantile of the total.
    drawn = (below <= (quantile * below[:, -1])[:, None]).sum(1).clamp(max=logits.shape[1] - 1)
    return torch.where((noisy == mask) & (chosen * t < 1), drawn, noisy)
