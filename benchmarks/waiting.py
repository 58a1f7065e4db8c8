"""Evaluations in a process of their own, whose threads wait as its environment says.

The policy of waiting is read when torch is loaded, so two policies are two processes. Each waits
for a line on its standard input, evaluates the network, and prints the seconds of processor time
that it took.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "SDDPM_THREADS_CHOSEN")
RUNTIME_DEFAULT = {"GOMP_SPINCOUNT": "300000", "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
"""What GNU's OpenMP runtime does where nobody says otherwise."""


@contextmanager
def evaluating(batch: int, environment: dict[str, str]) -> Iterator[Callable[[], float]]:
    """A process that evaluates when called, and answers with the seconds of processor time.

    Args:
        batch: images at once.
        environment: what it is told of threads and waiting; nothing: the package chooses.
    """
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-m", "benchmarks.waiting", str(batch)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**own, **environment}, **pipes) as process:

        def evaluate() -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        try:
            yield evaluate
        finally:
            process.kill()


@contextmanager
def competing(number: int) -> Iterator[None]:
    """``number`` busy processes beside what is measured."""
    busy = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(busy) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main(batch: int) -> None:
    """Evaluate for each line of the standard input."""
    import torch

    from benchmarks.measuring import inputs, network
    from sddpm.engine.network import optimize

    net = network()
    x, t = inputs(net, batch)
    eps = optimize(net, "exact")
    with torch.inference_mode():
        eps(x, t)
        for _ in sys.stdin:
            start = time.process_time()
            eps(x, t)
            print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    import sddpm  # noqa: F401  # before torch, as the command line does

    main(int(sys.argv[1]))
