"""Rate neurons with a threshold of their own in every channel.

A layer's channels differ by an order of magnitude in how strongly they fire, and a threshold
that suits them all rounds the weak ones to a few levels. The layer's ``theta`` stays one number,
so that keys agree with the parent's and threshold guidance moves all channels alike; ``balance``
says how each channel's threshold relates to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conversion import readout
from conversion.calibrate import activations
from sddpm.neurons import RateIF
from sddpm.unet import UNet

READERS = {"act1": ("conv1",), "act2": ("conv2",), "act": ("conv", "conv2")}
"""Convolutions that read an activation of a block, by the activation's name. Their input channels
are its width."""

OWN = (".balance", readout.OWN)
"""Ends of the names that a child's state has and its parent's has not."""


class ChannelRateIF(RateIF):
    """:class:`RateIF` on ``[time_steps * batch, channels, H, W]`` with threshold
    ``theta * balance[c]`` in channel ``c``."""

    balance: Tensor

    def __init__(self, time_steps: int, threshold: float = 1.0, channels: int = 1) -> None:
        super().__init__(time_steps, threshold)
        self.register_buffer("balance", torch.ones(channels, 1, 1))

    def channel_scale(self) -> Tensor:
        return self.balance

    def integrate(self, x: Tensor) -> Tensor:
        """Spikes of 0 or the channel's threshold; where signed also of minus that."""
        spikes = super().integrate(x / self.balance) * self.balance
        return spikes.to(x.dtype)


class SignedChannelRateIF(ChannelRateIF):
    """:class:`ChannelRateIF` that takes spikes back, as :class:`sddpm.neurons.SignedRateIF`."""

    signed = True


def with_channels(net: UNet) -> UNet:
    """``net``, just built with rate neurons, with such that have a threshold a channel."""
    for name, layer in activations(net).items():
        assert isinstance(layer, RateIF)
        home, _, leaf = name.rpartition(".")
        block = net.get_submodule(home)
        reader = next(getattr(block, conv) for conv in READERS[leaf] if hasattr(block, conv))
        kind = SignedChannelRateIF if layer.signed else ChannelRateIF
        setattr(block, leaf, kind(layer.time_steps, net.config.threshold, reader.in_channels))
    return net


def load_parent(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a parent's ``state`` strictly into ``net``, which keeps its own balances and window."""
    own = {k: v for k, v in net.state_dict().items() if k.endswith(OWN)}
    net.load_state_dict({**own, **{k: v.clone() for k, v in shared(state).items()}}, strict=True)


def shared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a child's ``state`` that its parent has too."""
    return {k: v for k, v in state.items() if not k.endswith(OWN)}
