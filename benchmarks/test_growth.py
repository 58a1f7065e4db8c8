"""How cost grows with spiking steps, batch and width, and how far from the practical limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Comparison, inputs, median_seconds, network
from sddpm.engine.convolutions import SpikeConvolution, bfloat16_runs, int8_runs
from sddpm.engine.network import optimize
from sddpm.unet import UNet

Record = Callable[[dict[str, object]], None]
AXES: dict[str, list[int]] = {
    "time_steps": [1, 2, 4, 8, 16],
    "batch": [1, 4, 16, 64],
    "channels": [32, 64, 128],
}


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("axis", AXES)
def test_growth(record: Record, benchmark: Any, axis: str, mode: Any) -> None:
    """16x16 images, so that the largest case takes seconds."""

    def measure() -> list[tuple[int, float, float]]:
        results = []
        for value in AXES[axis]:
            case = {"time_steps": 4, "batch": 4, "channels": 64, axis: value}
            batch = case.pop("batch")
            net = network(**case)
            x, t = inputs(net, batch, 16)
            eps = optimize(net, mode)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                net(x, t)
            results.append((value, median_seconds(lambda: eps(x, t)), counter.get_total_flops()))  # noqa: B023
        return results

    rows = benchmark.pedantic(measure, rounds=1)
    _, first_seconds, first_flops = rows[0]
    for value, seconds, flops in rows:
        record(
            {
                "table": f"Growth with {axis}",
                "mode": mode,
                axis: value,
                "ms": round(1e3 * seconds, 1),
                "time x": round(seconds / first_seconds, 2),
                "operations x": round(flops / first_flops, 2),
                "GFLOP/s": round(flops / seconds / 1e9),
            }
        )


@pytest.mark.quick
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_twice_the_spiking_steps(compare: Callable[..., Comparison], mode: Any) -> None:
    """Cost of T=8 over T=4; the target is a ratio below 2."""
    evaluations = []
    for time_steps in (8, 4):
        net = network(time_steps=time_steps)
        evaluations.append((optimize(net, mode), *inputs(net, 4)))
    (eight, *args8), (four, *args4) = evaluations
    compare("T=8 over T=4", mode, lambda: eight(*args8), lambda: four(*args4), "< 1.9")


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_fraction_of_the_practical_limit(record: Record, benchmark: Any, mode: Any) -> None:
    """An evaluation against its convolutions alone: float32 ones channels-last for exact, int8 and
    bfloat16 ones for fast where the processor has them. Above 1 is possible: up-sampling is
    computed with fewer products, and looked-up sums need none."""
    net = network()
    x, t = inputs(net, 8)
    eps = optimize(net, mode)
    bare = [_bare(net, case, mode) for case in _convolutions(net, x, t)]

    def measure() -> tuple[float, float]:
        return median_seconds(lambda: eps(x, t)), median_seconds(lambda: [f() for f in bare])

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, t)
    with torch.inference_mode():
        ours, limit = benchmark.pedantic(measure, rounds=1)
    record(
        {
            "table": "Achieved, against the bare convolutions of the same shapes",
            "mode": mode,
            "evaluation ms": round(1e3 * ours, 1),
            "bare convolutions ms": round(1e3 * limit, 1),
            "GFLOP/s": round(counter.get_total_flops() / ours / 1e9),
            "limit GFLOP/s": round(counter.get_total_flops() / limit / 1e9),
            "fraction": round(limit / ours, 2),
        }
    )


def _convolutions(net: UNet, x: Tensor, t: Tensor) -> list[tuple[nn.Conv2d, Tensor]]:
    """Every convolution with an input of its shape."""
    seen: list[tuple[nn.Conv2d, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: seen.append((layer, args[0])))
        for layer in net.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.no_grad():
        net(x, t)
    for hook in hooks:
        hook.remove()
    return seen


def _bare(net: UNet, case: tuple[nn.Conv2d, Tensor], mode: str) -> Callable[[], Tensor]:
    layer, x = case
    weight, bias, stride = layer.weight.detach(), layer.bias, layer.stride[0]
    assert bias is not None
    spikes = layer.reads == "spikes"
    if mode == "fast" and spikes and int8_runs():
        conv = SpikeConvolution(weight, bias.detach(), stride=stride, parts=1, dtype=torch.bfloat16)
        packed = x.byte().contiguous(memory_format=torch.channels_last)
        return lambda: conv(packed)
    dtype = torch.bfloat16 if mode == "fast" and bfloat16_runs() else torch.float32
    x = x.to(dtype, memory_format=torch.channels_last)
    weight = weight.to(dtype, memory_format=torch.channels_last)
    shift, padding = bias.detach().to(dtype), weight.shape[2] // 2
    return lambda: conv2d(x, weight, shift, stride, padding)
