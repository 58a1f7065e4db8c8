"""Paired measurements: the reference and ours in turns, so that a busy machine slows both."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sddpm.precision import fabric_precision
from sddpm.unet import UNet, UNetConfig

Work = Callable[[], object]
CLOCK = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter


@dataclass
class Comparison:
    """One row of the table: seconds of each round, the reference's beside ours."""

    what: str
    ours: str
    target: str = ""
    reference_seconds: list[float] = field(default_factory=list)
    our_seconds: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Reference over ours, round by round: above 1 is faster."""
        return [a / b for a, b in zip(self.reference_seconds, self.our_seconds, strict=True)]

    def row(self) -> dict[str, object]:
        """The numbers as the table shows them: medians, and the quartiles of the ratio."""
        low, ratio, high = quartiles(self.ratios)
        return {
            "what": self.what,
            "ours": self.ours,
            "reference_ms": round(1e3 * statistics.median(self.reference_seconds), 2),
            "ours_ms": round(1e3 * statistics.median(self.our_seconds), 2),
            "ratio": round(ratio, 2),
            "ratio_25": round(low, 2),
            "ratio_75": round(high, 2),
            "target": self.target,
            "rounds": len(self.our_seconds),
        }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """25 %, 50 % and 75 % of some numbers."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def seconds(work: Work) -> float:
    """Time of one call."""
    start = CLOCK()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return CLOCK() - start


def median_seconds(work: Work, rounds: int = 3) -> float:
    """Median time of a call, after one to warm up."""
    work()
    return statistics.median(seconds(work) for _ in range(rounds))


def network(**shape: object) -> UNet:
    """An untrained network whose neurons fire about as often as trained ones."""
    torch.manual_seed(0)
    options = {"channels": 64, "multipliers": (1, 2, 2, 4), **shape}
    net = UNet(UNetConfig(**options))  # type: ignore[arg-type]
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
            nn.init.normal_(layer.bias, 0.2, 0.1)
    with torch.no_grad():
        net.train()(*inputs(net, 2))
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    return net.eval()


def inputs(net: UNet, batch: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images and diffusion steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, net.config.image_channels, size, size, generator=generator)
    return x, torch.randint(0, net.config.diffusion_steps, (batch,), generator=generator)


def casting(device: str, half: bool) -> AbstractContextManager[None]:
    """Context of a forward pass in float32, or in bfloat16 as trainings here compute it."""
    options = fabric_precision("bf16-mixed" if half else "32-true", device)
    context: AbstractContextManager[None] = Fabric(
        accelerator=device, devices=1, **options
    ).autocast()
    return context


def training_step(net: nn.Module, x: Tensor, t: Tensor, half: bool) -> Work:
    """One update of ``net`` by Adam on the noise loss."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    noise = torch.randn_like(x)

    def step() -> None:
        with casting(x.device.type, half):
            loss = (net(x, t).float() - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
