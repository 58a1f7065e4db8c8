"""Counts of one executed product: a rule for each operator, and the check that spikes are spikes.

A rule takes the operator, its arguments and its result, and says what the dense product costs,
which tensor is the input, and how many accumulates a nonzero element of it causes. To count a
new operator, add its rule to :data:`RULES`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Product:
    """One executed product."""

    dense: int
    """Dense MACs, if nothing is skipped."""
    input: Tensor
    """Tensor that the layer reads."""
    channel_dim: int = -1
    """Dimension of ``input`` along which spikes may differ in size."""
    fan_out: Tensor | int | None = None
    """Accumulates that a nonzero input causes: one number, or one per position ``[*spatial]``;
    None where spikes have no rule."""
    kernel: torch.Size | None = None
    """Shape of the weight, for a convolution."""
    outputs: int = 0
    """Elements of the result."""
    weights: int = 0
    """Elements of the second operand that serve one slot of ``input``'s first dimension."""
    biases: int = 0
    """Elements of the bias."""
    taps: int = 0
    """Kernel positions times output channels, for a convolution."""


def accumulates(product: Product) -> tuple[int, int]:
    """Verify that the input is spikes; return its nonzeros and the accumulates they cause."""
    x, fan_out = product.input.detach(), product.fan_out
    if fan_out is None:
        raise ValueError("no rule counts this product on spikes; expected reads='real'")
    if x.is_meta:
        raise ValueError("the meta device has no values to verify; expected a real device")
    if x.numel() == 0:
        return 0, 0
    size = x if bool(x.amin() >= 0) else x.abs()  # abs copies; most spikes are not negative
    others = [d for d in range(x.dim()) if d != product.channel_dim % x.dim()]
    constant = size.amax(others, keepdim=True)
    # An all-zero channel must match nothing, so its constant becomes one that never occurs.
    spikes = torch.eq(size, constant.where(constant != 0, math.inf), out=_counters(x))
    if isinstance(fan_out, Tensor):
        at_position = _total(spikes, (0, 1))
        caused = (at_position * fan_out.to(x.device)).sum()
    else:
        at_position = _total(spikes, (0,))
        caused = at_position.sum() * fan_out
    finite = constant.isfinite().all()
    read = torch.stack([at_position.sum(), caused, nonzeros(x), finite]).tolist()
    matched, accumulated, nonzero, is_finite = read
    if matched != nonzero or not is_finite:
        raise ValueError(_offence(x, size, constant, product.channel_dim))
    return nonzero, accumulated


def events(product: Product) -> tuple[int, int]:
    """Verify that the input counts events; return their number and the accumulates they cause.

    Raises:
        ValueError: a value is no whole number from 0, or the product has no rule for events.
    """
    x, fan_out = product.input.detach(), product.fan_out
    if fan_out is None:
        raise ValueError("no rule counts this product on events; expected reads='real'")
    if x.is_meta:
        raise ValueError("the meta device has no values to verify; expected a real device")
    wrong = ~((x >= 0) & (x == x.floor()) & x.isfinite())
    if bool(wrong.any()):
        shown = ", ".join(f"{value:.6g}" for value in x[wrong][:3].tolist())
        raise ValueError(f"its input holds {shown}; expected whole numbers from 0")
    total = x.sum(dtype=torch.float64)
    if isinstance(fan_out, Tensor):
        caused = (x.sum((0, 1), dtype=torch.float64) * fan_out.to(x.device)).sum()
    else:
        caused = total * fan_out
    return int(total), int(caused)


def nonzeros(x: Tensor) -> Tensor:
    """Number of nonzero elements, as an integer tensor on the device of ``x``."""
    if x.dim() == 0:
        return torch.count_nonzero(x)
    return _total(torch.ne(x.detach(), 0, out=_counters(x)), (0,)).sum()


def _counters(x: Tensor) -> Tensor:
    # Comparing into floats and adding those up is several times faster than adding up booleans.
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


def _total(ones: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Exact integer sums of zeros and ones held as float32."""
    terms = math.prod(ones.shape[d] for d in dims)
    exact = torch.float32 if terms <= 1 << 24 else torch.float64
    return ones.sum(dims, dtype=exact).to(torch.int64)


def _offence(x: Tensor, size: Tensor, constant: Tensor, channel_dim: int) -> str:
    """One sentence on the first channel whose values are not spikes."""
    wrong = ((size != 0) & (size != constant)) | ~size.isfinite()
    channel = int(wrong.transpose(channel_dim, 0).flatten(1).any(1).nonzero()[0])
    values = x.select(channel_dim, channel).unique()
    shown = [f"{v:.6g}" for v in values[:: max(1, len(values) // 5)].tolist()[:6]]
    return (
        f"channel {channel} of its input holds {len(values)} values such as {', '.join(shown)}; "
        "expected only zero and plus or minus one constant"
    )


def _matrix_product(left: int, right: int) -> Callable[..., Product]:
    """Rule for ``[..., m, k] @ [..., k, n]``, operands at these argument positions."""

    def rule(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Product:
        operands = _bound(func, args, kwargs)
        x, y = operands[left], operands[right]
        return Product(
            x.numel() * y.shape[-1],
            x,
            fan_out=y.shape[-1],
            outputs=out.numel(),
            weights=y.shape[-2] * y.shape[-1],
            # The first operand of addmm and its like is added to the product.
            biases=operands[0].numel() if left else 0,
        )

    return rule


def _vector_product(left: int) -> Callable[..., Product]:
    """Rule for matrix times vector and vector times vector: real numbers only."""

    def rule(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Product:
        x = _bound(func, args, kwargs)[left]
        return Product(x.numel(), x, outputs=out.numel(), weights=x.shape[-1])

    return rule


def _attention(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Product:
    """Both products, ``query @ key^T`` and ``weights @ value``: real numbers only.

    Dense over all pairs, whether or not a mask hides some.
    """
    query, key, value = _bound(func, args, kwargs)[:3]
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return Product(
        pairs * (query.shape[-1] + value.shape[-1]),
        query,
        outputs=math.prod(query.shape[:-1]) * value.shape[-1],
        weights=(key.numel() + value.numel()) // max(1, len(key)),
    )


def _convolution(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Product:
    operands = _bound(func, args, kwargs)
    x, weight, bias, stride, padding, dilation, transposed, _, groups = operands[:9]
    positions = (x if transposed else out).shape[2:]
    fan_out = torch.tensor(weight.shape[1] if transposed else weight.shape[0] // groups)
    for axis, kernel in enumerate(weight.shape[2:]):
        # One number stands for all axes where the lists are short.
        at = [v[axis] if len(v) > 1 else v[0] for v in (stride, padding, dilation)]
        size, end = x.shape[2 + axis], out.shape[2 + axis]
        taps = torch.tensor(_taps(size, end, kernel, *at, transposed))
        fan_out = fan_out.unsqueeze(-1) * taps
    dense = x.shape[0] * weight.numel() * math.prod(positions)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return Product(
        dense,
        x,
        1,
        fan_out,
        weight.shape,
        outputs=out.numel(),
        weights=weight.numel(),
        biases=0 if bias is None else bias.numel(),
        taps=channels * math.prod(weight.shape[2:]),
    )


@lru_cache(maxsize=1024)
def _taps(
    size: int, end: int, kernel: int, stride: int, padding: int, dilation: int, transposed: bool
) -> tuple[int, ...]:
    """Along one axis of ``size`` inputs and ``end`` outputs: taps of each input that land."""

    def lands(i: int, k: int) -> bool:
        if transposed:
            return 0 <= i * stride - padding + k * dilation < end
        at, rest = divmod(i + padding - k * dilation, stride)
        return rest == 0 and 0 <= at < end

    return tuple(sum(lands(i, k) for k in range(kernel)) for i in range(size))


def _bound(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Positional arguments of the operator, whichever way they were passed."""
    named = func._schema.arguments[len(args) :]
    return [*args, *(kwargs.get(a.name, a.default_value) for a in named)]


RULES: dict[str, Callable[..., Product]] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_overrideable": _convolution,
    "mm": _matrix_product(0, 1),
    "bmm": _matrix_product(0, 1),
    "addmm": _matrix_product(1, 2),
    "baddbmm": _matrix_product(1, 2),
    "addbmm": _matrix_product(1, 2),
    "mv": _vector_product(0),
    "addmv": _vector_product(1),
    "dot": _vector_product(0),
    "vdot": _vector_product(0),
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}

KNOWN_NAMESPACES = frozenset({"aten", "prim", "prims", "profiler", "c10d", "_c10d_functional"})

_WORDS = re.compile(
    r"conv(?!ert)\w*|\w*mm|mv|addmv|addr|ger|kron|linear|bilinear|trilinear|matmul|einsum|"
    r"dot|vdot|vecdot|inner|tensordot|euclidean|matrix|gemm|linalg|solve|cholesky|fft|"
    r"attention|transformer|lstm|gru|rnn"
)
_NOT_PRODUCTS = frozenset(
    {"linalg_vector_norm", "linalg_norm", "linalg_diagonal", "_linalg_check_errors", "matrix_H"}
)


def looks_like_product(namespace: str, name: str) -> bool:
    """Whether an operator without a rule multiplies and sums, going by the words in its name.

    Interpolation (``upsample_bilinear2d``) and type conversion do not.
    """
    if name in _NOT_PRODUCTS:
        return False
    words = name if namespace == "aten" else f"{namespace}_{name}"
    return any(_WORDS.fullmatch(word) for word in words.split("_"))
