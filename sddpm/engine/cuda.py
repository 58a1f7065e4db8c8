"""Sampling on CUDA: the network captured once a batch shape as a CUDA graph and replayed.

A network evaluation is some hundreds of short kernels, whose launches cost more than they
compute at small batches; a graph launches them all at once. Neurons run on SpikingJelly's
kernels, convolutions in channels-last memory.
"""

from __future__ import annotations

import copy
import warnings
from threading import Lock

import torch
from torch import Tensor, nn

from sddpm.layers import each_step


class CapturedNetwork:
    """``eps = f(x, t)`` of a network on a CUDA device.

    Where a capture is refused (a layer that waits for the device, say) the network runs launch
    by launch from then on, with a warning.

    Args:
        net: the network; copied.
        half: run in bfloat16 autocast.
    """

    def __init__(self, net: nn.Module, *, half: bool) -> None:
        self.net = copy.deepcopy(net).eval().to(memory_format=torch.channels_last)
        self.half = half
        self.captured: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = {}
        self.capturable = True
        # All threads' evaluations pass through the same tensors.
        self._lock = Lock()

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise in ``x`` ``[batch, image_channels, H, W]`` at diffusion steps ``t``."""
        with self._lock:
            return self._evaluate(x, each_step(t, x))

    def _evaluate(self, x: Tensor, t: Tensor) -> Tensor:
        if self.capturable and x.shape not in self.captured:
            try:
                # A capture records the current device, which need not be the network's.
                with torch.cuda.device(x.device):
                    self.captured[x.shape] = self._capture(x, t)
            except RuntimeError as error:
                self.capturable = False
                reason = str(error).splitlines()[0]
                warnings.warn(f"no CUDA graph, sampling is slower: {reason}", stacklevel=2)
        if x.shape not in self.captured:
            return self._run(x, t)
        graph, x_in, t_in, out = self.captured[x.shape]
        x_in.copy_(x)
        t_in.copy_(t)
        with torch.cuda.device(x.device):
            graph.replay()
        return out.clone()

    def _capture(self, x: Tensor, t: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]:
        x_in, t_in = x.clone(), t.to(x.device, copy=True)
        # A capture needs every workspace allocated and every kernel chosen: warm up aside.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._run(x_in, t_in)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self._run(x_in, t_in)
        return graph, x_in, t_in, out

    def _run(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.half, cache_enabled=False):
            return self.net(x, t).float()
