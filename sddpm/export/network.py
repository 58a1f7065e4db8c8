"""The U-Net as a program of chip and host.

Every sub-graph between two real-valued parts is one NIR graph with one input and one output:
neurons and the convolution that reads their spikes, BatchNorm folded into it. The stem's graph
begins with the convolution of the image. Sums of real numbers, the time embedding, the shortcuts,
concatenations, the doubling of the size and the head are operations of the host.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from sddpm.engine.convolutions import affine_of, fold
from sddpm.export.neurons import check_exportable, neuron_node
from sddpm.export.program import Program, Value
from sddpm.layers import TimeEmbedding
from sddpm.neurons import MembraneReadout, SpikingNeuron
from sddpm.unet import Downsample, Head, ResidualBlock, Stem, UNet, Upsample


def program_of(net: nn.Module, size: int, gain: float = 1.0) -> Program:
    """The program of a spiking U-Net for images of ``size`` pixels. It reads ``x``
    ``[channels, size, size]`` and the diffusion step ``t`` ``[]``, and the value that its last step
    writes is the noise.

    Args:
        gain: factor of the network's output, which the weights of the read-out hold.

    Raises:
        ValueError: the network is another one, or NIR cannot hold a layer of it; the message gives
            the reason.
    """
    if type(net) is not UNet:
        raise ValueError(
            f"NIR cannot hold this network: only the U-Net of SDDPM is taken apart, and this is "
            f"{type(net).__name__}"
        )
    check_exportable(net)
    return _Walk(net, size, gain).program


class _Walk:
    """The layers of a U-Net in the order of its forward pass."""

    def __init__(self, net: UNet, size: int, gain: float) -> None:
        x = Value("x", (net.config.image_channels, size, size))
        t = Value("t", ())
        self.program = Program(net.config.time_steps, (x, t))
        self.names = {module: name for name, module in net.named_modules()}
        self.embedding = self._embed(net.time_embedding, t)
        h = self._stem(net.stem, x)
        stored = [h]
        for layer in net.down:
            h = self._layer(layer, h)
            stored.append(h)
        for layer in net.middle:
            h = self._layer(layer, h)
        for layer in net.up:
            if isinstance(layer, ResidualBlock):
                skip = stored.pop()
                shape = (h.shape[0] + skip.shape[0], *h.shape[1:])
                name = f"{self.names[layer]}.input"
                h = self.program.host("concatenate", h, skip, writes=name, shape=shape)
            h = self._layer(layer, h)
        raw, readout = self._head(net.head, h), net.readout
        assert isinstance(readout, MembraneReadout)
        raw = self.program.host(
            "read_out", raw, writes="readout", per_step=False, weights=gain * readout.weights
        )
        if net.output.prediction == "v_prediction":
            self.program.host(
                "noise_of_v", raw, x, t, writes="noise",
                signal=net.output.signal, noise_level=net.output.noise_level,
            )  # fmt: skip

    def _embed(self, embedding: TimeEmbedding, t: Value) -> Value:
        host, name = self.program.host, self.names[embedding]
        width = (embedding.table.shape[1],)
        h = host("look_up", t, writes=f"{name}.row", shape=width, table=embedding.table)
        h = self._linear(embedding.linear1, h)
        h = host("silu", h, writes=f"{name}.silu")
        return host("silu", self._linear(embedding.linear2, h), writes=name)

    def _linear(self, layer: nn.Linear, value: Value) -> Value:
        return self.program.host(
            "linear", value, writes=self.names[layer], shape=(layer.out_features,),
            weight=layer.weight, bias=layer.bias,
        )  # fmt: skip

    def _conv(self, conv: nn.Conv2d, norm: nn.Module | None, value: Value) -> Value:
        """A convolution of real numbers, on the host."""
        weight, bias = fold(conv, norm)
        shape = (conv.out_channels, *value.shape[1:])
        name = self.names[conv]
        return self.program.host(
            "conv2d", value, writes=name, shape=shape, weight=weight, bias=bias
        )

    def _stem(self, stem: Stem, x: Value) -> Value:
        host, shape = self.program.host, (stem.conv1.out_channels, *x.shape[1:])
        first = _convolution(stem.conv1, stem.bn1, x.shape)
        h = self._graph("stem.conv2", stem.act, stem.conv2, stem.bn2, x, shape, encoding=first)
        if stem.shortcut is None:
            return h
        conv, norm = stem.shortcut
        assert isinstance(conv, nn.Conv2d)
        detail = self._conv(conv, norm, x)
        if stem.gain is not None:
            gain = host("exp", self._linear(stem.gain, self.embedding), writes="stem.factor")
            detail = host("multiply", detail, gain, writes="stem.detail")
        return host("add", h, detail, writes="stem")

    def _layer(self, layer: nn.Module, x: Value) -> Value:
        if isinstance(layer, ResidualBlock):
            return self._block(layer, x)
        assert isinstance(layer, Downsample | Upsample)
        name = f"{self.names[layer]}.conv"
        if isinstance(layer, Upsample):
            # Neurons act on each pixel by itself, so doubled currents give doubled spikes.
            channels, height, width = x.shape
            doubled = (channels, 2 * height, 2 * width)
            writes = f"{self.names[layer]}.input"
            x = self.program.host("double", x, writes=writes, shape=doubled)
        return self._graph(name, layer.act, layer.conv, layer.bn, x, x.shape)

    def _block(self, block: ResidualBlock, x: Value) -> Value:
        host, name = self.program.host, self.names[block]
        h = self._graph(f"{name}.conv1", block.act1, block.conv1, block.bn1, x, x.shape)
        h = host("add", h, self._linear(block.embed, self.embedding), writes=f"{name}.current")
        h = self._graph(f"{name}.conv2", block.act2, block.conv2, block.bn2, h, h.shape)
        shortcut, projection = x, block.shortcut
        if isinstance(projection, nn.Sequential):  # the mean over the steps, and once for all
            projection = projection[1]
            shortcut = host("mean", x, writes=f"{name}.mean", per_step=False)
        if isinstance(projection, nn.Conv2d):
            shortcut = self._conv(projection, None, shortcut)
        return host("add", h, shortcut, writes=name)

    def _head(self, head: Head, x: Value) -> Value:
        host = self.program.host
        scale, shift = affine_of(head.bn)
        h = host("affine", x, writes="head.bn", scale=scale.float(), shift=shift.float())
        h = self._conv(head.conv, None, host("silu", h, writes="head.silu"))
        more = self._conv(head.temporal_conv, head.temporal_bn, h)
        return host("add", h, host("silu", more, writes="head.temporal"), writes="head")

    def _graph(
        self,
        name: str,
        neurons: nn.Module,
        conv: nn.Conv2d,
        norm: nn.Module,
        reads: Value,
        shape: tuple[int, ...],
        encoding: Any = None,
    ) -> Value:
        """A graph of ``neurons`` of the given shape and the convolution behind them; ``encoding``
        is a node in front of them."""
        import nir

        assert isinstance(neurons, SpikingNeuron)
        last = _convolution(conv, norm, shape)
        nodes = {
            "input": nir.Input({"input": np.array(reads.shape)}),
            **({} if encoding is None else {"encoding": encoding}),
            "neurons": neuron_node(neurons, shape),
            "convolution": last,
            "output": nir.Output({"output": last.output_type["output"]}),
        }
        made = tuple(int(n) for n in last.output_type["output"])
        return self.program.chip(
            nir.NIRGraph(nodes=nodes, edges=list(pairwise(nodes))),
            name, reads, made,
            neurons=self.names[neurons], threshold=neurons.theta.item(),
        )  # fmt: skip


def _convolution(conv: nn.Conv2d, norm: nn.Module, shape: tuple[int, ...]) -> Any:
    """The node ``nir.Conv2d`` of a convolution and the BatchNorm behind it, for inputs of ``shape``
    ``(channels, H, W)``."""
    import nir

    weight, bias = (np.ascontiguousarray(part.cpu().numpy()) for part in fold(conv, norm))
    return nir.Conv2d(
        shape[1:], weight, conv.stride, conv.padding, conv.dilation, conv.groups, bias
    )
