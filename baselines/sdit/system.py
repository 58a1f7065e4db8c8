"""SDiT: a diffusion transformer of RWKV blocks whose branches end in LIF neurons.

Paper: Yang et al., "SDiT: Spiking Diffusion Model with Transformer", arXiv 2402.11588. Written anew
after a reading of the authors' code (foolLain/SDiT, CC-BY-NC; nothing is copied), which follows
DiT and RWKV-4. The paper was not read, and of the code's diffusion package one file of three.

Spikes never reach a product: each neuron gets one current at every spiking step, its spikes are
averaged, added to real numbers and normalised before the next layer. So all products are
multiplications by the strict accounting, and the spiking time steps cost none of them. The
recurrence over tokens and the gates are elementwise, and the meter counts no elementwise
operation: about 4 multiplications a token and channel, beside 13 times the width.

Different, because the harness has it so:

- no class labels by default, as all rows are unconditional; the authors' network is told 10
  classes, each unknown in a tenth of the cases (``classes``);
- one channel for grey images, which they repeat to three; images are not resized to 28 pixels;
- a shortened chain takes diffusion steps evenly downwards from the last, of which the authors' also
  takes the first.

Kept although odd: a depth of 4 leaves out the middle block, so there are 5; the blocks behind the
middle one are initialised as those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.sdit.network import RWKVNetwork
from baselines.sdit.variance import VarianceBound
from sddpm.denoising import Denoiser, DenoiserTraining, check_label
from sddpm.diffusion import DiffusionConfig, noise_loss
from sddpm.layers import evaluating
from sddpm.protocol import ImageShape, Step, System
from sddpm.rng import mix
from sddpm.samplers import Denoise


@dataclass(frozen=True)
class Config(DenoiserTraining):
    """SDiT. The defaults are those of the published code for MNIST and Fashion-MNIST."""

    learning_rate: float = 1e-4
    """AdamW's step size."""
    gradient_clip: float = 1e9
    """Largest norm of the gradient; the published training has no limit."""
    weight_decay: float = 0.01
    """AdamW's; torch's default, as the published code names none."""
    time_steps: int = 4
    """Spiking time steps of each neuron, all with the same current."""
    threshold: float = 1.0
    """Firing threshold of every neuron."""
    width: int = 384
    """Numbers of a token; published: 512 on CIFAR-10."""
    depth: int = 4
    """Blocks without the middle one, even; published: 8 on CIFAR-10."""
    patch: int = 2
    """Pixels along a side of a patch, which is one token."""
    diffusion_steps: int = 1000
    """Steps of the noise schedule."""
    classes: int = 0
    """Classes that the network is told in training and sampling; published: 10. 0: none."""
    label_dropout: float = 0.1
    """Share of training images whose class is hidden, in [0, 1]; of a network with classes."""


_CLASS = 5
"""Name of the random number of a seed that decides an image's class."""


class SDiT(Denoiser):
    """Trains noise and variance together; the sampler ``ddpm`` draws with the learned variance."""

    def __init__(self, config: Config, shape: ImageShape, net: RWKVNetwork) -> None:
        schedule = DiffusionConfig(config.diffusion_steps, learned_variance=True)
        super().__init__(net, shape, config, schedule)
        if not 0 <= config.label_dropout <= 1:
            raise ValueError(f"label_dropout={config.label_dropout}: expected a number in [0, 1]")
        self.classes, self.label_dropout = config.classes, config.label_dropout
        self.bound = VarianceBound(self.diffusion)
        self.optimizers = {
            "net": torch.optim.AdamW(
                self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
            )
        }

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        t = step.randint(self.diffusion.config.diffusion_steps, len(images))
        noise = step.randn(*images.shape)
        inputs = [self.diffusion.add_noise(images, noise, t), t]
        if step.labels is not None:
            hidden = step.rand(len(images)) < self.label_dropout
            inputs.append(step.labels.masked_fill(hidden, self.classes))
        output = step.module("net")(*inputs)
        predicted, place = output.chunk(2, dim=1)
        error = noise_loss(self.net, predicted, noise, t)
        bound = self.bound(images, noise, predicted, place, t).mean()
        loss = error + bound
        self.update(loss, step)
        return {"loss": loss.detach(), "noise": error.detach(), "bound": bound.detach()}

    def told(self, denoise: Denoise, seeds: Sequence[int], label: int | None) -> Denoise:
        check_label(label, self.classes)
        if not self.classes:
            return denoise
        chosen = [mix(seed, _CLASS) % self.classes if label is None else label for seed in seeds]
        labels = torch.tensor(chosen, device=self.bound.log_beta.device)
        return lambda x, t: denoise(x, t, labels)  # type: ignore[call-arg]

    def prepared(self, engine: str) -> Denoise:
        """The noise that the generator sees in images of unknown classes, without the variance,
        whichever the engine."""

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            with torch.inference_mode(), evaluating(self.generator):
                eps: Tensor = self.generator(x, t)[:, : self.shape.channels]
            return eps

        return denoise


def build(config: Config, shape: ImageShape, parent: System | None = None) -> SDiT:
    """SDiT for images of ``shape``; it has no parent.

    Raises:
        ValueError: a size or a number of time steps is out of its range, or patches do not divide
            the images.
    """
    net = RWKVNetwork(
        shape,
        width=config.width,
        depth=config.depth,
        patch=config.patch,
        time_steps=config.time_steps,
        threshold=config.threshold,
        classes=config.classes,
    )
    return SDiT(config, shape, net)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(width=16, depth=2, learning_rate=2e-3, warmup_steps=20),
    "small": dict(
        width=72, learning_rate=1e-3, warmup_steps=200, decay="linear", ema_decay=0.995,
        gradient_clip=1.0,
    ),
    "medium": dict(width=192, ema_decay=0.999, decay="linear"),
    "paper": dict(),
}  # fmt: skip
