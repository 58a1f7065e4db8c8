"""SDiT's network: patches, RWKV blocks whose branches spike, and a linear head.

Written anew after a reading of foolLain/SDiT; :mod:`baselines.sdit.system` says what differs.
Tokens are ``[batch, tokens, width]``: the diffusion step's first, then the patches, row by row.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from baselines.sdit.scan import wkv
from sddpm.layers import Reads, conv3x3, declare, each_step, linear
from sddpm.neurons import LIF, DirectEncoding, MeanReadout
from sddpm.protocol import ImageShape

STEP_FREQUENCIES = 256
"""Width of the sines and cosines of a diffusion step."""
_REAL: Reads = "real"


class Fire(nn.Module):
    """Real numbers to a firing rate: the same current at every spiking step into LIF neurons, and
    the mean of their spikes. What follows reads real numbers: quarters, at four steps."""

    def __init__(self, time_steps: int, threshold: float) -> None:
        super().__init__()
        self.encode = DirectEncoding(time_steps)
        self.neurons = LIF(time_steps, threshold)
        self.mean = MeanReadout(time_steps)

    def forward(self, x: Tensor) -> Tensor:
        """Rates in [0, 1] of currents, in the shape of ``x``."""
        rates: Tensor = self.mean(self.neurons(self.encode(x)))
        return rates


class Mix(nn.Module):
    """Each token with a share of the one before it, channel by channel; zeros precede the first."""

    def __init__(self, shares: Tensor) -> None:
        super().__init__()
        self.share = nn.Parameter(shares)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Tokens ``x`` and those ``before`` each of them, ``[batch, tokens, width]``."""
        return x * self.share + before * (1 - self.share)


class TimeMix(nn.Module):
    """RWKV-4's mixing over tokens, in place of attention.

    Args:
        width: of the tokens.
        depth: blocks of the network without the middle one.
        level: position of the block, from 0; initial decays and shares depend on it.
    """

    def __init__(self, width: int, depth: int, level: int) -> None:
        super().__init__()
        late, early = level / (depth - 1), 1 - level / depth
        channel = torch.arange(width)
        self.decay = nn.Parameter(-5 + 8 * (channel / (width - 1)) ** (0.7 + 1.3 * late))
        self.first = nn.Parameter(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))
        shares = channel / width
        self.mix_keys = Mix(shares**early)
        self.mix_values = Mix(shares**early + 0.3 * late)
        self.mix_gates = Mix(shares ** (0.5 * early))
        self.keys, self.values, self.gates, self.output = (
            _linear(width, width, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        before = _shifted(x)
        keys = self.keys(self.mix_keys(x, before))
        values = self.values(self.mix_values(x, before))
        gates = self.gates(self.mix_gates(x, before)).sigmoid()
        mixed: Tensor = self.output(gates * wkv(self.decay, self.first, keys, values))
        return mixed


class ChannelMix(nn.Module):
    """RWKV-4's perceptron of each token and the one before it, four times as wide inside.

    Args: as :class:`TimeMix`'s.
    """

    def __init__(self, width: int, depth: int, level: int) -> None:
        super().__init__()
        shares = (torch.arange(width) / width) ** (1 - level / depth)
        self.mix_keys, self.mix_gates = Mix(shares), Mix(shares.clone())
        self.keys = _linear(width, 4 * width, bias=False)
        self.gates = _linear(width, width, bias=False)
        self.values = _linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = _shifted(x)
        hidden = self.keys(self.mix_keys(x, before)).relu().square()
        gates = self.gates(self.mix_gates(x, before)).sigmoid()
        mixed: Tensor = gates * self.values(hidden)
        return mixed


class Block(nn.Module):
    """Time mixing and channel mixing, each behind a LayerNorm without parameters and into LIF
    neurons, and the authors' reconstruction module.

    That module appends as many learned tokens as there are, which thus see all others. After the
    block they become a factor: ``x + x factor``.

    Args:
        tokens: those that come in.
        skip: whether the block also reads the tokens of one before it.
    """

    def __init__(
        self, width: int, depth: int, level: int, tokens: int, fire: tuple[int, float], skip: bool
    ) -> None:
        super().__init__()
        self.skip = _linear(2 * width, width) if skip else None
        self.appended = nn.Parameter(torch.ones(tokens, width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.time_mix = TimeMix(width, depth, level)
        self.time_fire = Fire(*fire)
        self.channel_mix = ChannelMix(width, depth, level)
        self.channel_fire = Fire(*fire)
        self.to_factor = _linear(width, tokens)
        self.to_width = _linear(tokens, width)

    def forward(self, x: Tensor, earlier: Tensor | None = None) -> Tensor:
        """``x`` and ``earlier`` are ``[batch, tokens, width]``."""
        if self.skip is not None and earlier is not None:
            x = self.skip(torch.cat([x, earlier], dim=-1))
        x = torch.cat([x, self.appended.to(x.dtype).expand(len(x), -1, -1)], dim=1)
        x = x + self.time_fire(self.time_mix(self.norm(x)))
        x = x + self.channel_fire(self.channel_mix(self.norm(x)))
        x, appended = x.chunk(2, dim=1)
        factor = self.to_width(self.to_factor(appended).transpose(1, 2))
        return x + x * factor


class StepEmbedding(nn.Module):
    """A diffusion step as a token: cosines and sines, and a perceptron of two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _linear(STEP_FREQUENCIES, width, deviation=0.02)
        self.second = _linear(width, width, deviation=0.02)

    def forward(self, t: Tensor) -> Tensor:
        """Integer steps ``[batch]`` as ``[batch, width]``."""
        waves = get_timestep_embedding(
            t, STEP_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        embedded: Tensor = self.second(nn.functional.silu(self.first(waves)))
        return embedded


class RWKVNetwork(nn.Module):
    """The noise in an image, and its variance, from RWKV blocks with skips as a U-Net's.

    Args:
        shape: of the images.
        width: of a token.
        depth: blocks without the middle one, even; the second half reads the first half's tokens.
        patch: pixels along a side of a patch.
        time_steps: spiking time steps.
        threshold: firing threshold.
        classes: that the network is told, 0: none. The label ``classes`` stands for an unknown one.

    Raises:
        ValueError: a size is out of its range, or patches do not divide the images.
    """

    def __init__(
        self,
        shape: ImageShape,
        *,
        width: int,
        depth: int,
        patch: int,
        time_steps: int,
        threshold: float,
        classes: int = 0,
    ) -> None:
        super().__init__()
        if classes < 0:
            raise ValueError(f"classes={classes}: expected 0 (none) or more")
        if depth < 2 or depth % 2:
            raise ValueError(f"depth={depth}: expected an even number of at least 2")
        if width < 2:
            raise ValueError(f"width={width}: expected at least 2")
        if patch < 1 or shape.size % patch:
            raise ValueError(
                f"patch={patch}: expected a divisor of the images' {shape.size} pixels"
            )
        self.patch, self.outputs = patch, 2 * shape.channels
        side = shape.size // patch
        tokens = 1 + side * side
        fire = (time_steps, threshold)

        self.embed = declare(nn.Conv2d(shape.channels, width, patch, patch), reads=_REAL)
        nn.init.xavier_uniform_(self.embed.weight.view(width, -1))
        nn.init.zeros_(self.embed.bias)  # type: ignore[arg-type]
        self.step = StepEmbedding(width)
        self.classes = classes
        self.label: nn.Embedding | None = None
        if classes:
            self.label = nn.Embedding(classes + 1, width)
            nn.init.normal_(self.label.weight, std=0.02)
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        half = depth // 2
        self.entering = nn.ModuleList(
            Block(width, depth, level, tokens, fire, skip=False) for level in range(half)
        )
        self.middle = Block(width, depth, half, tokens, fire, skip=False)
        # The authors count these levels from 0 again.
        self.leaving = nn.ModuleList(
            Block(width, depth, level, tokens, fire, skip=True) for level in range(half)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.head = _linear(width, patch * patch * self.outputs, deviation=0.0)
        self.smooth = conv3x3(self.outputs, self.outputs, reads=_REAL, xavier=False)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Noise and variance ``[batch, 2 * channels, size, size]`` of images ``x`` at diffusion
        steps ``t`` (``[batch]``), of the classes ``label`` (``[batch]``; None: unknown).

        The second half of the channels is 2 f - 1, with f the variance's place between the
        posterior's (0) and beta (1) on a logarithmic scale.
        """
        patches = self.embed(x).flatten(2).transpose(1, 2)
        step = self.step(each_step(t, x))
        if self.label is not None:
            unknown = torch.full((len(x),), self.classes, device=x.device)
            step = step + self.label(unknown if label is None else label)
        h = torch.cat([step.unsqueeze(1).to(patches.dtype), patches], dim=1) + self.positions
        stored = []
        for block in self.entering:
            h = block(h)
            stored.append(h)
        h = self.middle(h)
        for block in self.leaving:
            h = block(h, stored.pop())
        return self.smooth(self._image(self.head(self.norm(h))[:, 1:], x.shape[-1] // self.patch))

    def _image(self, patches: Tensor, side: int) -> Tensor:
        """Patches ``[batch, side * side, patch * patch * outputs]``, channels fastest, as
        ``[batch, outputs, size, size]``."""
        p = self.patch
        grid = patches.unflatten(2, (p, p, self.outputs)).unflatten(1, (side, side))
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _shifted(x: Tensor) -> Tensor:
    """The token before each of ``x`` ``[batch, tokens, width]``; zeros before the first."""
    return nn.functional.pad(x[:, :-1], (0, 0, 1, 0))


def _linear(
    inputs: int, outputs: int, *, bias: bool = True, deviation: float | None = None
) -> nn.Linear:
    """A layer that reads real numbers: Xavier weights, or normal ones of this deviation; bias 0."""
    if bias and deviation is None:
        return linear(inputs, outputs, reads=_REAL)
    layer = declare(nn.Linear(inputs, outputs, bias), reads=_REAL)
    if deviation is None:
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    return layer
