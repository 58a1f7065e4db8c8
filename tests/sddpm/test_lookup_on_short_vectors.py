"""Looked-up sums on 128-bit vectors, as on ARM, against sums of integers."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from sddpm.kernels import lookup
from sddpm.kernels.build import compile_kernel, find_compiler


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no compiler")
    # Without a flag a compiler's code runs on every processor of the architecture.
    return ctypes.CDLL(str(compile_kernel(compiler, "lookup", (), tmp_path_factory.mktemp("k"))))


@pytest.fixture
def short(built: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "load", lambda _name: built)
    loaded = lookup.library.__wrapped__()
    monkeypatch.setattr(lookup, "library", lambda: loaded)
    assert lookup.lanes(torch.int16) == 16  # two vectors of eight 16-bit numbers


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "doubling"),
    [(3, 5, 3, 1, False), (64, 40, 3, 2, False), (7, 64, 1, 1, False), (130, 33, 3, 1, True)],
)
def test_sums_are_those_of_integers(
    inputs: int, outputs: int, kernel: int, stride: int, doubling: bool, wide: bool
) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-15, 16, (outputs, inputs, kernel, kernel)).float()
    x = torch.randint(0, 2, (3, inputs, 6, 5), dtype=torch.uint8)
    conv = lookup.LookupConvolution(
        weight, torch.zeros(outputs), stride=stride, wide=wide, doubling=doubling
    )
    read = interpolate(x.double(), scale_factor=2.0) if doubling else x.double()
    expected = conv2d(read, weight.double(), None, stride, kernel // 2)
    # 16-bit sums have units of their own: half a unit a weight, of at most kernel^2 inputs.
    error = 1e-6 if wide else inputs * kernel**2 * conv.scale.max().item() / 2
    torch.testing.assert_close(conv(x).double(), expected, rtol=1e-6, atol=error)
