"""Mask diffusion over two codes, against the exact posterior: every path is written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from baselines.spiking_diffusion.absorbing import mask_codes, masked_loss, uncover

MASK = 2  # of the two codes 0 and 1


def transition(t: int, steps: int) -> Tensor:
    """``q(x_t | x_{t-1})`` of one position, rows the old code: the mask takes what is left of it
    with the probability that makes the share of masked ones ``t / steps``."""
    beta = 1 / (steps - t + 1)
    q = torch.eye(3, dtype=torch.float64) * (1 - beta)
    q[:, MASK] += beta
    return q


def exact_posterior(t: int, steps: int, code: int) -> Tensor:
    """``q(x_{t-1} | x_t = mask, x_0 = code)`` by Bayes' rule."""
    until = torch.eye(3, dtype=torch.float64)
    for s in range(1, t):
        until = until @ transition(s, steps)
    joint = until[code] * transition(t, steps)[:, MASK]
    return joint / joint.sum()


@pytest.mark.parametrize("t", [1, 2, 3, 5])
def test_uncovering_is_the_exact_posterior(t: int) -> None:
    count, steps, code = 200_000, 5, 1
    noisy = torch.full((count, 1), MASK)
    logits = torch.tensor([-50.0, 50.0])[None, :, None].expand(count, 2, 1)  # knows x_0
    generator = torch.Generator().manual_seed(t)
    uniform = torch.rand(2, count, 1, generator=generator)
    before = uncover(noisy, logits, t, uniform, mask=MASK, temperature=1.0)
    shares = torch.bincount(before.flatten(), minlength=3).double() / count
    torch.testing.assert_close(shares, exact_posterior(t, steps, code), atol=4e-3, rtol=0)


@pytest.mark.parametrize("t", [1, 2, 5])
def test_masking_is_the_chain_of_transitions(t: int) -> None:
    count, steps = 200_000, 5
    marginal = torch.eye(3, dtype=torch.float64)
    for s in range(1, t + 1):
        marginal = marginal @ transition(s, steps)
    uniform = torch.rand(count, 1, generator=torch.Generator().manual_seed(t))
    codes, when = torch.zeros(count, 1, dtype=torch.long), torch.full((count,), t)
    noisy = mask_codes(codes, when, uniform, steps=steps, mask=MASK)
    shares = torch.bincount(noisy.flatten(), minlength=3).double() / count
    torch.testing.assert_close(shares, marginal[0], atol=4e-3, rtol=0)


def test_the_elbo_is_the_sum_of_the_posteriors_divergences() -> None:
    """Over every step and every masking of two positions: the KL of the exact posterior from the
    model's, whose code is drawn from its logits, against the expected loss."""
    steps, codes = 2, torch.tensor([[0, 1]])
    table = {
        noisy: torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(n))
        for n, noisy in enumerate(itertools.product((0, 1, MASK), repeat=2))
    }
    bound = expected = 0.0
    for t, hidden in itertools.product((1, 2), itertools.product((False, True), repeat=2)):
        share = t / steps
        probability = math.prod(share if h else 1 - share for h in hidden)
        noisy = codes.masked_fill(torch.tensor([hidden]), MASK)
        logits = table[tuple(noisy[0].tolist())]
        for position in (n for n in (0, 1) if hidden[n]):
            q = exact_posterior(t, steps, int(codes[0, position]))
            guess = logits[0, :, position].double().softmax(0)
            model = torch.cat([guess * (1 - q[MASK]), q[MASK:]])
            bound += probability * (q * (q / model).log())[q > 0].sum().item()
        loss = masked_loss(
            logits, codes, noisy, torch.tensor([t]), steps=steps, mask=MASK, weighting="elbo"
        )
        expected += probability * loss.item() / steps  # t is uniform
    assert expected == pytest.approx(bound / (2 * math.log(2)))  # in bits a position


def test_the_reweighted_loss_by_hand() -> None:
    logits = torch.zeros(2, 4, 3)  # 2 bits a position
    codes = torch.tensor([[0, 1, 2], [3, 3, 3]])
    noisy = torch.tensor([[4, 1, 4], [4, 4, 4]])
    loss = masked_loss(
        logits, codes, noisy, torch.tensor([1, 3]), steps=3, mask=4, weighting="reweighted"
    )
    # First image: 2 masked, weight 2/3; second: all, at the last step, weight 0.
    assert loss.item() == pytest.approx((2 / 3 * 2 * 2 / 3 + 0) / 2)


def test_the_chain_draws_the_distribution_that_its_denoiser_knows() -> None:
    """A denoiser that knows the codes' joint distribution: with one position uncovered at a
    time the chain is exact, and where two are, they are drawn independently."""
    joint = torch.tensor([[0.5, 0.1], [0.0, 0.4]], dtype=torch.float64)  # first, second code
    count = 100_000

    def denoise(noisy: Tensor) -> Tensor:
        probabilities = torch.empty(count, 2, 2, dtype=torch.float64)
        for position, table in ((0, joint), (1, joint.T)):
            other = noisy[:, 1 - position]
            conditional = table / table.sum(0)
            known = conditional.T[other.clamp(max=1)]
            unknown = table.sum(1).expand(count, 2)
            probabilities[:, :, position] = torch.where(other[:, None] == MASK, unknown, known)
        return probabilities.log().float()

    noisy = torch.full((count, 2), MASK)
    generator = torch.Generator().manual_seed(0)
    for t in (2, 1):
        uniform = torch.rand(2, count, 2, generator=generator)
        noisy = uncover(noisy, denoise(noisy), t, uniform, mask=MASK, temperature=1.0)
    shares = torch.bincount(2 * noisy[:, 0] + noisy[:, 1], minlength=4).double() / count
    # At t = 2 each is uncovered with probability 1/2: both or neither in half of the cases,
    # which draws them independently; else one after the other.
    apart = joint.sum(1)[:, None] * joint.sum(0)
    torch.testing.assert_close(shares, ((joint + apart) / 2).flatten(), atol=6e-3, rtol=0)


def test_a_low_temperature_takes_the_likeliest_code() -> None:
    logits = torch.tensor([0.0, 1.0, 0.5])[None, :, None].expand(1000, 3, 1)
    noisy = torch.full((1000, 1), 3)
    uniform = torch.rand(2, 1000, 1)
    cold = uncover(noisy, logits, 1, uniform, mask=3, temperature=0.01)
    assert (cold == 1).all()
    warm = uncover(noisy, logits, 1, uniform, mask=3, temperature=1.0)
    assert set(warm.flatten().tolist()) == {0, 1, 2}
