"""RWKV-4's mixing over tokens, "WKV": an average of the tokens so far with decaying weights.

Peng et al., "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048, equation 16. It is
a linear recurrence. Doubling the span (Hillis and Steele 1986) computes it for all tokens in
log2(tokens) passes over memory, where a loop in Python would take thousands of short calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def wkv(decay: Tensor, first: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The weighted average of ``values`` up to each token, ``[batch, tokens, channels]``.

    Token ``i`` counts at token ``t`` with ``exp(keys[i] - (t - 1 - i) exp(decay))`` where
    ``i < t``, and with ``exp(first + keys[t])`` where ``i = t``.

    Args:
        decay: logarithm of the decay a token, ``[channels]``.
        first: bonus of a token at itself, ``[channels]``.
        keys: logarithm of the weights, ``[batch, tokens, channels]``.
        values: as ``keys``.

    Sums are of float64, whose range holds weights of keys up to 700 apart; the result has the type
    of ``values``.
    """
    k, v = keys.double(), values.double()
    # A factor of both sums, so that no weight overflows; constant for the gradient for that reason.
    weights = (k - k.detach().amax(1, keepdim=True)).exp()
    terms = torch.stack([weights * v, weights])
    factor = (-decay.double().exp()).exp()
    sums: Tensor = _Decayed.apply(terms, factor)
    # The sums before each token; none before the first.
    past = torch.nn.functional.pad(sums[:, :, :-1], (0, 0, 1, 0))
    numerator, denominator = past + first.double().exp() * terms
    return (numerator / denominator).to(values.dtype)


def decayed_sums(terms: Tensor, factor: Tensor) -> Tensor:
    """``y[t] = terms[t] + factor y[t - 1]`` along the last dimension but one.

    Args:
        terms: ``[..., tokens, channels]``.
        factor: ``[channels]`` in [0, 1].
    """
    sums, span = terms, 1
    while span < terms.shape[-2]:
        doubled = sums.clone()
        doubled[..., span:, :].addcmul_(sums[..., :-span, :], factor)
        sums, factor, span = doubled, factor * factor, 2 * span
    return sums


class _Decayed(torch.autograd.Function):
    """:func:`decayed_sums`, whose gradient keeps its result alone: the gradient of a recurrence is
    the recurrence from the other end."""

    @staticmethod
    def forward(ctx: Any, terms: Tensor, factor: Tensor) -> Tensor:
        sums = decayed_sums(terms, factor)
        ctx.save_for_backward(sums, factor)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        sums, factor = ctx.saved_tensors
        back = decayed_sums(gradients[0].flip(-2), factor).flip(-2)
        by_factor = (back[..., 1:, :] * sums[..., :-1, :]).flatten(0, -2).sum(0)
        return back, by_factor
