"""Training in bfloat16, on processors that multiply it and on those that do not.

Where the processor has no instructions for it, torch's own bfloat16 products take 9 (convolutions)
to 37 times (matrices) as long as float32 ones. There the operands are rounded to bfloat16 and
multiplied in float32, and the result is rounded: the same values, but for the order of additions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sddpm.engine.convolutions import bfloat16_runs


def fast_precision() -> str:
    """Lightning Fabric's name of the fastest precision that trains as well as float32 here:
    ``bf16-mixed`` where the GPU, or without one the processor, multiplies bfloat16 natively."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bfloat16_runs()
    return "bf16-mixed" if native else "32-true"


def fabric_precision(precision: str, device: str) -> dict[str, Any]:
    """Options of Lightning Fabric that train at ``precision`` on a device of the kind ``device``.

    Args:
        precision: 32-true or bf16-mixed.
        device: cpu or cuda.

    Returns:
        ``precision``, or a plugin in ``plugins`` where products of bfloat16 must be rounded.
    """
    if precision == "bf16-mixed" and device == "cpu" and not bfloat16_runs():
        return {"plugins": [RoundedPrecision("bf16-mixed", "cpu")]}
    return {"precision": precision}


class RoundedPrecision(MixedPrecision):
    """Fabric's bfloat16 autocast, with products by :class:`RoundedProducts`."""

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Context of a network's forward pass."""
        with super().forward_context(), RoundedProducts():
            yield


class RoundedProducts(TorchFunctionMode):
    """Inside bfloat16 autocast on the CPU: products of operands rounded to bfloat16, in float32.

    Gradients go through the same roundings. Operators that autocast leaves in float32 stay as they
    are.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if func not in _PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **options)
        with torch.autocast("cpu", enabled=False):
            rounded = [_rounded(value) for value in args]
            product = func(*rounded, **{name: _rounded(value) for name, value in options.items()})
            return product.to(torch.bfloat16)


_PRODUCTS = {
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    *(torch.nn.functional.linear, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm),
}
"""Products that autocast computes in bfloat16 and that torch is slow at."""


def _rounded(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.bfloat16).float()
    return value
