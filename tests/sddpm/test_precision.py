"""bfloat16 training on a processor without bfloat16, against torch's own bfloat16 arithmetic."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from sddpm import precision
from sddpm.precision import RoundedProducts, fabric_precision


def _layers() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(
        [
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ConvTranspose2d(3, 8, 4, stride=2),
            nn.Linear(8, 5),
        ]
    )


@pytest.mark.parametrize("index", [0, 1, 2])
def test_values_and_gradients_are_those_of_bfloat16(index: int) -> None:
    layer = _layers()[index]
    exact = copy.deepcopy(layer).bfloat16().double()
    x = torch.randn((4, 8) if index == 2 else (4, 3, 8, 8), requires_grad=True)
    y = x.detach().bfloat16().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        native = layer(x).detach()
        with RoundedProducts():
            rounded = layer(x)
    expected = exact(y)
    assert rounded.dtype == native.dtype == torch.bfloat16
    # Half a place of bfloat16 is 2^-9 of a number; torch's own products round partial sums too.
    torch.testing.assert_close(rounded.double(), expected, rtol=2**-8, atol=1e-5)
    torch.testing.assert_close(rounded, native, rtol=2**-6, atol=1e-2)

    upstream = torch.randn(expected.shape).bfloat16()
    rounded.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=2**-8, atol=1e-5)
    pairs = zip(layer.parameters(), exact.parameters(), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=2**-8, atol=1e-4)


def test_operands_are_rounded_before_they_are_multiplied() -> None:
    x, w = torch.tensor([[1 + 2**-12, 3.0]]), torch.tensor([[1.0, 2**-9 + 2**-20]])
    with torch.autocast("cpu", torch.bfloat16), RoundedProducts():
        product = nn.functional.linear(x, w)
    # 1 + 2^-12 rounds to 1 and 2^-9 + 2^-20 to 2^-9: 1 + 3 * 2^-9 then rounds to 1 + 2^-7.
    assert product.item() == 1 + 2**-7


def test_outside_autocast_nothing_changes() -> None:
    x, layer = torch.randn(2, 8), nn.Linear(8, 3)
    with RoundedProducts():
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("native", [True, False])
def test_fabric_takes_the_arithmetic_that_is_fast_here(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_runs", lambda: native)
    fabric = Fabric(accelerator="cpu", devices=1, **fabric_precision("bf16-mixed", "cpu"))
    with fabric.autocast():
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
        modes = torch.overrides._get_current_function_mode_stack()
        seen = [type(each).__name__ for each in modes]
    assert ("RoundedProducts" in seen) is not native
    assert fabric_precision("32-true", "cpu") == {"precision": "32-true"}
    assert fabric_precision("bf16-mixed", "cuda") == {"precision": "bf16-mixed"}
