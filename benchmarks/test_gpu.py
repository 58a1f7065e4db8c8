"""Training steps on a GPU: the network launched kernel by kernel against CUDA graphs.

Skipped without a GPU. ``python -m pytest benchmarks/test_gpu.py --benchmark-only``, with
BENCH_FOLDER set to where the table should go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from bench.registry import load_module
from benchmarks.measuring import Comparison, Work
from sddpm.graphed import GraphedModule
from sddpm.protocol import ImageShape
from sddpm.training import TrainStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

BATCH, STEPS = 128, 8
UNET = {"channels": 32, "prediction": "v_prediction", "linear_head": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "SDDPM, T = 4, 32 channels": ("sddpm", UNET),
    "SDDPM, T = 4, 64 channels": ("sddpm", {**UNET, "channels": 64}),
    "ANN twin, 32 channels": ("ann_twin", UNET),
    "FSDDIM, T = 4, 32 channels": ("fsddim", {"channels": 32, "time_steps": 4}),
    "DDPM, 32 channels": (
        "ddpm",
        {"channels": 32, "groups": 8, "dropout": 0.0, "prediction": "v_prediction"},
    ),
}


def steps(name: str, config: dict[str, Any], *, graphs: bool) -> Work:
    """``STEPS`` training steps of a system on 32x32 colour images in bfloat16."""
    torch.manual_seed(0)
    module = load_module(name)
    settings = {**module.PRESETS["medium"], **config}
    system = module.build(module.Config(**settings), ImageShape(3, 32), None)
    fabric = Fabric(accelerator="cuda", devices=1, precision="bf16-mixed")
    system.to(fabric.device).train()
    net = GraphedModule(system.net) if graphs else system.net
    players = {"net": fabric.setup(net, system.optimizers["net"], move_to_device=False)}
    images = torch.rand(BATCH, 3, 32, 32, device=fabric.device) * 2 - 1

    def work() -> None:
        for number in range(STEPS):
            system.train_step(images, TrainStep(number, 1000, fabric, players, 0))
        torch.cuda.synchronize()

    return work


@pytest.mark.parametrize("case", CASES)
def test_training(compare: Callable[..., Comparison], case: str) -> None:
    name, config = CASES[case]
    compare(
        f"{STEPS} training steps of {BATCH} images: {case}",
        "CUDA graphs",
        steps(name, config, graphs=False),
        steps(name, config, graphs=True),
        "2x",
    )
