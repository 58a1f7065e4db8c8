"""A GPU: the published way against ours, and training by launches against CUDA graphs.

Skipped without a GPU. ``python -m pytest benchmarks/test_gpu.py --benchmark-only``, with
BENCH_FOLDER set to where the table should go. BENCH_DEVICE=cpu with ``-k published`` tries the
comparison with the published way on the processor first, on two images.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from bench.registry import load_module
from benchmarks.measuring import Comparison, Work, inputs, network, training_step
from benchmarks.reference import ReferenceUNet
from sddpm.engine.network import optimize, prepare_for_training
from sddpm.graphed import GraphedModule
from sddpm.protocol import ImageShape
from sddpm.training import TrainStep

DEVICE = os.environ.get("BENCH_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no GPU")

BATCH, STEPS = (128, 8) if DEVICE == "cuda" else (2, 1)
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
    fabric = Fabric(accelerator=DEVICE, devices=1, precision="bf16-mixed")
    system.to(fabric.device).train()
    net = GraphedModule(system.net) if graphs else system.net
    players = {"net": fabric.setup(net, system.optimizers["net"], move_to_device=False)}
    images = torch.rand(BATCH, 3, 32, 32, device=fabric.device) * 2 - 1

    def work() -> None:
        for number in range(STEPS):
            system.train_step(images, TrainStep(number, 1000, fabric, players, 0))
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return work


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_evaluation_the_published_way(compare: Callable[..., Comparison], mode: Any) -> None:
    net = network().to(DEVICE)
    x, t = (part.to(DEVICE) for part in inputs(net, BATCH))
    reference, ours = ReferenceUNet(net).eval(), optimize(net, mode)
    with torch.inference_mode():
        reference(x, t), ours(x, t)  # kernels are chosen and captured at the first call
        what = f"network evaluation, {BATCH} images, {DEVICE}"
        compare(what, mode, lambda: reference(x, t), lambda: ours(x, t), "8")


def test_training_step_the_published_way(compare: Callable[..., Comparison]) -> None:
    """The reference in float32, launched kernel by kernel; ours in bfloat16 from graphs."""
    net = network().to(DEVICE)
    x, t = (part.to(DEVICE) for part in inputs(net, BATCH))
    prepared: nn.Module = prepare_for_training(copy.deepcopy(net)).train()
    ours = training_step(GraphedModule(prepared) if DEVICE == "cuda" else prepared, x, t, True)
    reference = training_step(ReferenceUNet(net).train(), x, t, False)
    reference(), ours()
    what = f"training step, {BATCH} images, {DEVICE}"
    compare(what, "bfloat16, CUDA graphs", reference, ours, "5")


@pytest.mark.skipif(DEVICE != "cuda", reason="graphs are a GPU's")
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
