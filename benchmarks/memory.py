"""Peak memory of a training step, each measured in a process of its own.

The peak is the kernel's record of the process (VmHWM), less what it held before the step:
weights, code and libraries are not the step's. Bytes saved for the backward pass are counted
beside it, each storage once, the parameters' left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measuring import casting


@cache
def peak_bytes(which: str, half: bool, batch: int) -> tuple[int, int]:
    """Peak and saved bytes of one step of ``which`` ("reference" or "ours")."""
    command = [sys.executable, "-m", "benchmarks.memory", which, str(int(half)), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, saved = done.stdout.split()[-2:]
    return int(peak), int(saved)


def main(which: str, half: bool, batch: int) -> None:
    """Measure in this process and print both numbers."""
    from benchmarks.measuring import inputs, network, training_step
    from benchmarks.reference import ReferenceUNet
    from sddpm.engine.network import prepare_for_training

    torch.set_num_threads(1)  # threads hold scratch memory of their own
    net = network()
    x, t = inputs(net, batch)
    model = (ReferenceUNet(net) if which == "reference" else prepare_for_training(net)).train()
    training_step(model, x[:1], t[:1], half)()  # gradients, optimiser state, compiled kernels
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _resident("VmRSS")
    training_step(model, x, t, half)()
    print(_resident("VmHWM") - before, _saved(model, x, t, half))


def _resident(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return 1024 * int(match[1])


def _saved(model: torch.nn.Module, x: Tensor, t: Tensor, half: bool) -> int:
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        with casting(x.device.type, half):
            loss = model(x, t).float().square().mean()
        del loss
    return sum(kept.values())


if __name__ == "__main__":
    main(sys.argv[1], bool(int(sys.argv[2])), int(sys.argv[3]))
