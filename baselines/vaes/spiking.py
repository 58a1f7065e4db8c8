"""The spiking encoder and decoder that FSVAE and ESVAE have in common. Not a system.

Both papers (Kamata et al. 2022, arXiv 2110.00375; Zhan et al. 2023, arXiv 2310.14839) and both
repositories have these layers, constants and initial weights. The systems differ in how the
latent spikes are drawn between the two.

Kept although odd, because the published figures rest on it:

- the surrogate's window is centred on 0, not on the threshold of 0.2;
- direct coding: the real image is the first convolution's input at every step.

Mended, as a plain defect: running statistics do not start at 0 and 1
(:class:`baselines.spiking_layers.TimeBatchNorm`). At 8 and 28 pixels the sizes follow
:mod:`baselines.vaes.pyramid` (the papers resize everything to 32 or 64).
"""

from __future__ import annotations

from torch import Tensor, nn

from baselines.spiking_layers import LeakyNeuron, Rectangle, SpikingBlock, TimeBatchNorm
from baselines.vaes.pyramid import Pyramid
from sddpm.layers import declare
from sddpm.neurons import DirectEncoding, MembraneReadout

DECAY, THRESHOLD = 0.25, 0.2
SURROGATE = Rectangle(centre=0.0, half_width=0.5)


def block(layer: nn.Module, channels: int, time_steps: int, alpha: float = 1.0) -> SpikingBlock:
    """``layer`` with ``channels`` outputs, its tdBN (factor ``alpha``) and its neurons."""
    norm = TimeBatchNorm(channels, threshold=THRESHOLD, alpha=alpha)
    neuron = LeakyNeuron(time_steps, decay=DECAY, threshold=THRESHOLD, surrogate=SURROGATE)
    return SpikingBlock(layer, norm, neuron)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A fully connected layer that reads spikes."""
    return declare(nn.Linear(inputs, outputs), reads="spikes")


def check_batch(batch: int) -> None:
    """Raise ValueError if a training batch of ``batch`` images is too small for tdBN."""
    if batch < 2:
        raise ValueError(f"a batch of {batch} image: tdBN needs at least 2, raise batch_size")


class Encoder(nn.Module):
    """Images to spikes of the latent's width."""

    def __init__(self, time_steps: int, latent: int, pyramid: Pyramid) -> None:
        super().__init__()
        self.encode = DirectEncoding(time_steps)
        layers = [block(conv, conv.out_channels, time_steps) for conv in pyramid.down("spikes")]
        self.levels = nn.Sequential(*layers)
        self.out = block(linear(pyramid.features, latent), latent, time_steps)

    def forward(self, images: Tensor) -> Tensor:
        """Spikes ``[time_steps, batch, latent]`` of images ``[batch, C, H, W]``."""
        spikes = self.out(self.levels(self.encode(images)).flatten(1))
        return spikes.unflatten(0, (-1, len(images))).float()


class Decoder(nn.Module):
    """Latent spikes to images."""

    def __init__(self, time_steps: int, latent: int, pyramid: Pyramid) -> None:
        super().__init__()
        self.bottom = (pyramid.widths[-1], pyramid.sizes[-1], pyramid.sizes[-1])
        self.read = block(linear(latent, pyramid.features), pyramid.features, time_steps)
        layers = [block(conv, conv.out_channels, time_steps) for conv in pyramid.up("spikes")]
        self.levels = nn.Sequential(*layers)
        self.last = pyramid.last("spikes")
        self.readout = MembraneReadout(time_steps)

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[batch, C, H, W]`` in (-1, 1) of spikes ``[time_steps, batch, latent]``."""
        spikes = self.levels(self.read(z.flatten(0, 1)).unflatten(1, self.bottom))
        return self.readout(self.last(spikes).float()).tanh()
