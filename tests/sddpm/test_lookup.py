"""Convolutions by looked-up sums against sums of integers, and against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from sddpm.kernels import lookup
from sddpm.kernels.lookup import LookupConvolution, integers
from sddpm.upsampling import phase_weights

pytestmark = pytest.mark.skipif(lookup.library() is None, reason="no compiled kernels")

SIZES = st.integers(1, 9)
WEIGHTS = {
    "any": lambda shape: torch.randint(-127, 128, shape),
    "all -127": lambda shape: torch.full(shape, -127),
    "all 127": lambda shape: torch.full(shape, 127),
    "signs": lambda shape: 127 * (2 * torch.randint(0, 2, shape) - 1),
    "zeros": lambda shape: torch.zeros(shape, dtype=torch.int64),
}


def spikes(shape: tuple[int, ...], rate: float) -> Tensor:
    return (torch.rand(shape) < rate).to(torch.uint8)


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 3),
    time_steps=st.integers(1, 8),
    inputs=st.sampled_from([1, 2, 3, 4, 7, 16, 40, 64, 96, 130, 256]),
    outputs=st.sampled_from([1, 3, 16, 31, 32, 33, 64, 100]),
    height=SIZES,
    width=SIZES,
    form=st.sampled_from(["3x3", "3x3 stride 2", "1x1", "1x1 stride 2", "doubling"]),
    rate=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    weights=st.sampled_from(sorted(WEIGHTS)),
    wide=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**20),
)
def test_sums_are_those_of_integers(
    batch: int, time_steps: int, inputs: int, outputs: int, height: int, width: int, form: str,
    rate: float, weights: str, wide: bool, threads: int, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    kernel, stride = int(form[0] if form[0].isdigit() else 3), 2 if "stride" in form else 1
    weight = WEIGHTS[weights]((outputs, inputs, kernel, kernel)).float()
    x = spikes((batch * time_steps, inputs, height, width), rate)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        conv = LookupConvolution(
            weight, torch.zeros(outputs), stride=stride, wide=wide, doubling=form == "doubling"
        )
        ours = conv(x).double()
    finally:
        torch.set_num_threads(before)
    dtype = torch.int32 if wide else torch.int16
    if form == "doubling":
        used = integers(phase_weights(weight), dtype)
        around = conv2d(pad(x.double(), (1, 1, 1, 1)), used.values.double())
        phases = [part[..., n // 2 :, n % 2 :] for n, part in enumerate(around.chunk(4, 1))]
        sums = torch.zeros(ours.shape, dtype=torch.float64)
        for n, part in enumerate(phases):
            sums[..., n // 2 :: 2, n % 2 :: 2] = part[..., :height, :width]
        units = used.scale.unflatten(0, (2, 2, outputs)).permute(2, 0, 1).repeat(1, height, width)
    else:
        used = integers(weight, dtype)
        sums = conv2d(x.double(), used.values.double(), None, stride, kernel // 2)
        units = used.scale[:, None, None]
    assert ours.shape == sums.shape
    if wide:
        torch.testing.assert_close(ours, sums * units, rtol=3e-7, atol=0)
    else:
        # The integers themselves: a single unit more or less would show.
        assert torch.equal((ours / units).round(), sums)


@pytest.mark.parametrize("weights", sorted(WEIGHTS))
@pytest.mark.parametrize("inputs", [3, 64, 100, 512])
def test_weights_are_finer_than_int8_and_no_sum_leaves_its_type(weights: str, inputs: int) -> None:
    torch.manual_seed(0)
    weight = WEIGHTS[weights]((8, inputs, 3, 3)) * torch.rand(8, 1, 1, 1)
    for dtype, largest in [(torch.int16, 2**15 - 1), (torch.int32, 2**31 - 1)]:
        used = integers(weight, dtype)
        values = used.values.double()
        error = (values * used.scale[:, None, None, None] - weight).abs().flatten(1).amax(1)
        assert (error <= 0.5001 / 127 * weight.abs().flatten(1).amax(1) + 1e-12).all()
        # Taps in turn, inputs of a tap in chunks: sums of everything positive, then negative.
        width = lookup.chunk()
        pieces = [
            values[:, start : start + width, tap // 3, tap % 3]
            for tap in range(9)
            for start in range(0, inputs, width)
        ]
        for start in range(0, len(pieces), used.flush):
            together = torch.cat(pieces[start : start + used.flush], dim=1)
            assert together.clamp_min(0).sum(1).max() <= largest
            assert together.clamp_max(0).sum(1).min() >= -largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("doubling", [False, True])
def test_errors_are_those_of_rounding(wide: bool, doubling: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = spikes((4, 96, 8, 6), 0.2)
    weight, bias = torch.randn(80, 96, 3, 3), torch.randn(80)
    seen = interpolate(x.double(), scale_factor=2.0) if doubling else x.double()
    expected = conv2d(seen, weight.double(), bias.double(), 1, 1)
    conv = LookupConvolution(weight, bias, wide=wide, dtype=dtype, doubling=doubling)
    bound = 2e-7 if wide else 4e-3  # int8 weights: 7e-3
    bound += 0 if dtype == torch.float32 else 3e-3
    assert float((conv(x) - expected).norm() / expected.norm()) < bound
    sums = torch.full_like(expected, 2, dtype=dtype, memory_format=torch.channels_last)
    conv.add_to(sums, x)
    assert float((sums - 2 - expected).norm() / expected.norm()) < 1.5 * bound
