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
from types import TracebackType

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "SDDPM_THREADS_CHOSEN")
RUNTIME_DEFAULT = {"GOMP_SPINCOUNT": "300000", "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
"""What GNU's OpenMP runtime does where nobody says otherwise."""


class Evaluating:
    """A process that evaluates when told to.

    Args:
        batch: images at once.
        environment: what it is told of threads and waiting; nothing: the package chooses.
    """

    def __init__(self, batch: int, environment: dict[str, str]) -> None:
        own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.waiting", str(batch)],
            env={**own, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> float:
        """Seconds of processor time of one evaluation."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def __enter__(self) -> Evaluating:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


class Competing:
    """Busy processes beside what is measured.

    Args:
        number: how many.
    """

    def __init__(self, number: int) -> None:
        busy = [sys.executable, "-c", "while True: pass"]
        self._processes = [subprocess.Popen(busy) for _ in range(number)]

    def __enter__(self) -> Competing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
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
