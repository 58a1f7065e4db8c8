"""Native CPU kernels of the neurons (``neurons.cpp``), optional everywhere.

Where :mod:`sddpm.kernels.library` cannot offer them, :func:`library` is None and callers use
their torch formulas.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from sddpm.kernels.library import load

_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.uint8: 2}


@dataclass(frozen=True)
class Dynamics:
    """Parameters of a neuron that a kernel needs."""

    kind: int
    """0: ``h = v + x``; 1: ``h = v + (x - v) / leak``; 2: ``h = v + (x - v) leak``; 3: no membrane,
    up to ``leak`` events in the only step (:class:`sddpm.soft_neurons.IntegerIF`)."""
    leak: float
    theta: float
    alpha: float
    """Steepness of the ATan surrogate; read by the gradient only."""


@dataclass(frozen=True)
class Affine:
    """Map in front of a neuron: ``current = scale y + shift``."""

    scale: Tensor | None
    """``[channels]``, float32; None for 1, which :func:`fire` alone takes."""
    shift: Tensor
    """``[images, channels]``, or ``[channels]`` for all images; float32."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had. May compile, at the first call."""
    loaded = load("neurons")
    return None if loaded is None else _declared(loaded)


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    i32, i64, f32, p = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    shape, affine = (i64, i64, i64, i64), (p, p, i64)
    loaded.sddpm_fire.argtypes = (
        *(i32, i32, p, p, p, p), *shape, *affine, i64, i64, i32, f32, f32, i32
    )  # fmt: skip
    loaded.sddpm_fire_backward.argtypes = (
        *(i32, p, p, p, p, p), *shape, *affine, i32, f32, f32, f32, i32
    )  # fmt: skip
    loaded.sddpm_fire_rate.argtypes = [i32, p, p, *shape, p, i32, f32, i32]
    loaded.sddpm_channel_sums.argtypes = [i32, p, p, p, p, i64, i64, i32]
    loaded.sddpm_combine.argtypes = [i32, p, p, p, p, p, p, i64, i64, i32]
    for name in ("fire", "fire_rate", "fire_backward", "channel_sums", "combine"):
        getattr(loaded, f"sddpm_{name}").restype = None
    return loaded


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can run on these: plain float32 or bfloat16 tensors of the CPU, all
    of one type, outside any tracing."""
    first = tensors[0]
    return (
        all(
            type(x) in (Tensor, torch.nn.Parameter)
            and x.device.type == "cpu"
            and x.dtype == first.dtype
            and x.numel() > 0
            for x in tensors
        )
        and first.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and library() is not None
    )


def dense(x: Tensor) -> Tensor:
    """``x`` itself if its memory holds one image after the other without gaps, else a copy."""
    if x.is_contiguous() or (x.ndim == 4 and _is_channels_last(x)):
        return x
    return x.contiguous()


def channels_last(x: Tensor) -> Tensor:
    """``x`` (4-d) in channels-last memory; itself where it already is."""
    return x.contiguous(memory_format=torch.channels_last)


def like(x: Tensor, model: Tensor) -> Tensor:
    """``x`` in the type and memory order of ``model`` (:func:`dense`)."""
    x = x.to(model.dtype)
    return x.contiguous() if model.is_contiguous() else channels_last(x)


def fire(
    y: Tensor,
    time_steps: int,
    dynamics: Dynamics | None,
    *,
    affine: Affine | None = None,
    residual: Tensor | None = None,
    keep_sum: bool = False,
    constant: bool = False,
    spikes: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Spikes of the currents ``scale y + shift + residual``, in one pass over memory.

    Args:
        y: ``[time_steps * images, ...]``, :func:`dense`; 4-d and channels last with any of
            ``affine`` and ``spikes``.
        time_steps: spiking time steps.
        dynamics: the neuron; None for no spikes.
        affine: the map, if it is not the identity.
        residual: added to the currents; shape, type and memory order of the result.
        keep_sum: also return the currents, in the type of ``y``.
        constant: ``y`` is ``[images, ...]``, the same at every spiking step.
        spikes: channels-last tensor, or a slice of one's channels, to write the spikes to.
        dtype: type of new spikes (that of ``y`` if None): float32, bfloat16 or uint8.

    Returns:
        Spikes and currents, None where not wanted.
    """
    by_channel = affine is not None or spikes is not None
    folded = len(y) * time_steps if constant else len(y)
    images, pixels, channels = _shape(y, folded // time_steps, by_channel)
    sums = _new(y, folded, y.dtype) if keep_sum else None
    if spikes is None and dynamics is not None:
        spikes = _new(y, folded, dtype or y.dtype)
    neuron = dynamics or Dynamics(0, 0.0, 1.0, 0.0)
    _loaded().sddpm_fire(
        _CODES[y.dtype],
        0 if spikes is None else _CODES[spikes.dtype],
        *map(_pointer, (y, residual, sums, spikes)),
        *(time_steps, images, pixels, channels),
        *_affine(affine),
        0 if constant else images * pixels * channels,
        spikes.stride(3) if by_channel and spikes is not None else channels,
        *(neuron.kind, neuron.leak, neuron.theta, torch.get_num_threads()),
    )
    return spikes, sums


def fire_rate(
    y: Tensor, time_steps: int, theta: float, *, signed: bool, balance: Tensor | None = None
) -> Tensor:
    """Spikes of rate neurons (:class:`sddpm.neurons.RateIF`), without a gradient.

    Args:
        y: currents ``[time_steps * images, ...]``; 4-d with ``balance``.
        theta: the threshold, and the value of a spike.
        signed: spikes may be taken back.
        balance: each channel's threshold over ``theta``, ``[channels]`` in float32.
    """
    y = dense(y) if balance is None else channels_last(y)
    images, pixels, channels = _shape(y, len(y) // time_steps, balance is not None)
    spikes = torch.empty_like(y)
    _loaded().sddpm_fire_rate(
        _CODES[y.dtype],
        *map(_pointer, (y, spikes)),
        *(time_steps, images, pixels, channels),
        *(_pointer(balance), signed, theta, torch.get_num_threads()),
    )
    return spikes


def fire_backward(
    y: Tensor,
    grad_spikes: Tensor,
    time_steps: int,
    dynamics: Dynamics,
    affine: Affine | None = None,
) -> tuple[Tensor, Tensor, float, float]:
    """Gradients of :func:`fire`'s spikes from ``y`` alone: the membranes are computed again.

    Args:
        y: as given to :func:`fire`.
        grad_spikes: gradient of the spikes, in the type and memory order of ``y``.

    Returns:
        The gradient of the currents (type and order of ``y``); ``[images, 2, channels]`` in
        float64, its sums over steps and pixels, plain and times ``y`` (zeros without
        ``affine``); the gradients of ``theta`` and of ``leak``.
    """
    images, pixels, channels = _shape(y, len(y) // time_steps, affine is not None)
    grad = torch.empty_like(y)
    sums = torch.zeros(images, 2, channels if affine else 0, dtype=torch.float64)
    totals = (ctypes.c_double * 2)()
    _loaded().sddpm_fire_backward(
        _CODES[y.dtype],
        *map(_pointer, (y, grad_spikes, grad, sums if affine else None)),
        ctypes.addressof(totals),
        *(time_steps, images, pixels, channels),
        *_affine(affine),
        *(dynamics.kind, dynamics.leak, dynamics.theta, dynamics.alpha, torch.get_num_threads()),
    )
    return grad, sums, totals[0], totals[1]


def channel_sums(a: Tensor, b: Tensor) -> Tensor:
    """``[2, channels]`` in float64: the sums of ``a`` and of ``a b`` over all but channels, of
    two 4-d channels-last tensors of one type."""
    return _sums(a, b, None)


def channel_moments(a: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (biased) of every channel of a 4-d channels-last tensor, float64."""
    # Sums about a first guess of the mean do not cancel.
    guess = a[:1].mean((0, 2, 3), dtype=torch.float32)
    first, second = _sums(a, None, guess) / (a.numel() // a.shape[1])
    return first + guess, (second - first.square()).clamp_min_(0)


def _sums(a: Tensor, b: Tensor | None, centre: Tensor | None) -> Tensor:
    channels = a.shape[1]
    sums = torch.zeros(2, channels, dtype=torch.float64)
    _loaded().sddpm_channel_sums(
        _CODES[a.dtype],
        *map(_pointer, (a, b, centre, sums)),
        *(a.numel() // channels, channels, torch.get_num_threads()),
    )
    return sums


def combine(
    a: Tensor, b: Tensor, scale: Tensor, other: Tensor, shift: Tensor, *, out: Tensor
) -> None:
    """Write ``scale a + other b + shift`` to ``out``, which may be ``a``: 4-d channels-last
    tensors of one type, and float32 ``[channels]`` each."""
    channels = a.shape[1]
    _loaded().sddpm_combine(
        _CODES[a.dtype],
        *map(_pointer, (a, b, out, scale, other, shift)),
        *(a.numel() // channels, channels, torch.get_num_threads()),
    )


def _loaded() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None, "callers ask usable() first"
    return loaded


def _shape(y: Tensor, images: int, by_channel: bool) -> tuple[int, int, int]:
    """Number of images, pixels and channels; or one image of one-channel pixels, one for each
    number."""
    if by_channel:
        return images, y.shape[2] * y.shape[3], y.shape[1]
    return 1, images * (y.numel() // len(y)), 1


def _new(y: Tensor, folded: int, dtype: torch.dtype) -> Tensor:
    order = torch.contiguous_format if y.is_contiguous() else torch.channels_last
    if y.ndim == 4 and _is_channels_last(y):
        order = torch.channels_last
    return torch.empty((folded, *y.shape[1:]), dtype=dtype, memory_format=order)


def _affine(affine: Affine | None) -> tuple[int | None, int | None, int]:
    if affine is None:
        return None, None, 0
    shift = affine.shift
    stride = shift.shape[1] if shift.ndim == 2 else 0
    return _pointer(affine.scale), shift.data_ptr(), stride


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)
