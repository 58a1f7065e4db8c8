"""FSDDIM: a spiking U-Net denoiser whose sampling chain stays in spiking time.

Paper: Watanabe, Mukuta, Harada, "Fully Spiking Denoising Diffusion Implicit Models", 2023,
arXiv 2312.01742. Written anew after the paper and a reading of the authors' code
(mil-tokyo/FSDDIM, no licence; nothing is copied).

What a diffusion step needs is read from the current of the last convolution, which no neuron
follows. Synaptic current learning trains the currents to be the same at every spiking step, so
that the chain need not decode (mean over spiking time) and encode again (repeat) between two
diffusion steps: its state is ``[time_steps, batch, C, H, W]`` from noise to image, and only the
last state is decoded. Schedulers act on every element alike, so the harness's samplers run on
that state, and their noise is the same at every spiking step.

Kept although odd, because the published figures rest on it:

- plain BatchNorm over batch, space and spiking time at scale 1: the code's tdBN loses its scale
  (1 / sqrt(2) at the two inputs of a residual sum) when it is converted to synchronised BN;
- the loss on v is weighted by abar, which makes steps of much noise count little.

Mended, as plain defects: nothing here; the others are in the authors' evaluation (which weights
are scored, which images are the reference), and the harness has its own.

Different, because the harness has it so:

- its samplers clip the predicted image, at every spiking step here; the paper's chain is
  deterministic DDIM with all 1000 steps and no clip, so that its updates stay linear and could
  be merged with the convolutions beside them;
- products are counted as executed: a convolution that reads the real output of another is
  multiply-accumulates, where the paper merges the two into one that reads spikes;
- averaged weights are an option (the default is the published one: none).

Done otherwise, with the same numbers: pooling and the 1x1 convolution after it run as one
convolution of spikes; the spikes of the time embedding are computed once for all blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from baselines.fsddim.unet import Shape, SpikingUNet, check_image_size
from sddpm.denoising import Denoiser, DenoiserTraining
from sddpm.diffusion import DiffusionConfig, NoiseOutput
from sddpm.layers import evaluating
from sddpm.neurons import DirectEncoding, MeanReadout
from sddpm.protocol import ImageShape, Step, System
from sddpm.samplers import Denoise, OnStep, Sampling, sample


@dataclass(frozen=True)
class Config(DenoiserTraining):
    """FSDDIM. The defaults are those of the published configuration files for CIFAR-10 (grey
    images: a step size of 1e-3; CelebA: 4 time steps)."""

    learning_rate: float = 5e-4
    """Adam's step size; published for batches of 256, and there proportional to the batch."""
    gradient_clip: float = 1e9
    """Largest norm of the gradient; the published training has no limit."""
    time_steps: int = 8
    """Spiking time steps of one network evaluation, and of the chain's state."""
    channels: int = 128
    """Base width of the U-Net."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Output width of each level, in units of ``channels``; each level but the last halves the
    size."""
    blocks: int = 2
    """Residual blocks a level, on the way down and on the way up."""
    diffusion_steps: int = 1000
    """Steps of the noise schedule."""


@dataclass(frozen=True)
class CosineSchedule(DiffusionConfig):
    """abar(u) proportional to cos^2((u + 0.008) / 1.008 pi / 2), betas of at most 0.999."""

    def scheduler_options(self) -> dict[str, Any]:
        return {
            "num_train_timesteps": self.diffusion_steps,
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "epsilon",
        }

    def alphas_cumprod(self) -> Tensor:
        """abar before it is rounded, ``[diffusion_steps]`` float64: at the first steps 1 - abar
        is so small that the schedulers' float32 loses its fourth digit."""
        u = torch.arange(self.diffusion_steps + 1, dtype=torch.float64) / self.diffusion_steps
        squared = ((u + 0.008) / 1.008 * math.pi / 2).cos().square()
        betas = (1 - squared[1:] / squared[:-1]).clamp(max=0.999)
        return (1 - betas).cumprod(0)


def constancy_weights(alphas_cumprod: Tensor) -> Tensor:
    """Weights of an error of the current at step ``t`` in the next state of deterministic DDIM,
    relative to the largest: ``[diffusion_steps]`` of ``abar``, in its type.

    The next state is ``k1 x0 + k2 x`` with ``x0 = sqrt(abar) x - sqrt(1 - abar) c``, so the
    weight is ``|sqrt(1 - abar_t) k1_t|`` over its maximum, where
    ``k2_t = sqrt(1 - abar_{t-1}) / sqrt(1 - abar_t)`` and
    ``k1_t = sqrt(abar_{t-1}) - sqrt(abar_t) k2_t``, from ``abar_{-1} = 1``.
    """
    now = alphas_cumprod
    before = torch.cat([torch.ones_like(now[:1]), now[:-1]])
    k2 = ((1 - before) / (1 - now)).sqrt()
    k1 = before.sqrt() - now.sqrt() * k2
    weights = ((1 - now).sqrt() * k1).abs()
    return weights / weights.max()


def current_losses(
    currents: Tensor, target: Tensor, image_weight: Tensor, constancy_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Synaptic current learning.

    Args:
        currents: ``[time_steps * batch, C, H, W]``.
        target: what their mean over spiking time should be, ``[batch, C, H, W]``.
        image_weight: of each image, ``[batch]``.
        constancy_weight: the same for the second loss.

    Returns:
        The weighted squared error of the decoded currents, and that of the currents from their
        own decoding and encoding (their variance over spiking time); means over the batch.
    """
    steps = currents.float().unflatten(0, (-1, len(target)))
    decoded = steps.mean(0)
    error = (decoded - target).square().flatten(1).mean(1)
    change = (steps - decoded).square().mean(0).flatten(1).mean(1)
    return (image_weight * error).mean(), (constancy_weight * change).mean()


class FSDDIM(Denoiser):
    """Trains the U-Net's currents to be ``v`` and constant, and samples on currents."""

    constancy: Tensor

    def __init__(self, config: Config, shape: ImageShape, net: SpikingUNet) -> None:
        schedule = CosineSchedule(config.diffusion_steps)
        super().__init__(net, shape, config, schedule)
        self.encode = DirectEncoding(config.time_steps)
        self.decode = MeanReadout(config.time_steps)
        self.output = NoiseOutput("v_prediction", self.diffusion.config)
        constancy = constancy_weights(schedule.alphas_cumprod())
        self.register_buffer("constancy", constancy.float(), persistent=False)

    def train_step(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        t = step.randint(self.diffusion.config.diffusion_steps, len(images))
        noise = step.randn(*images.shape)
        noisy = self.diffusion.add_noise(images, noise, t)
        target = self.output.target(images, noise, t)
        currents = step.module("net")(self.encode(noisy), t)
        weight = self.output.weight(t).flatten()
        error, change = current_losses(currents, target, 1 / weight, self.constancy[t])
        loss = error + change
        self.update(loss, step)
        return {"loss": loss.detach(), "image": error.detach(), "constancy": change.detach()}

    def sample(
        self,
        seeds: Sequence[int],
        sampling: Mapping[str, Any] | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """One image in [-1, 1] per seed.

        Raises:
            ValueError: a threshold was given; this system's is part of its surrogate.
        """
        settings = Sampling(**(sampling or {}))
        if settings.threshold is not None:
            raise ValueError(
                f"threshold={settings.threshold}: FSDDIM's neurons fire at 1; leave it out"
            )
        # Where abar is next to nothing (the last step's is 2e-9), float32 takes the square root of
        # a difference that is 0 at eta = 1, and may find it negative.
        settings = replace(settings, eta=min(settings.eta, 1 - 1e-6))
        watch: OnStep | None = None
        if on_step is not None:

            def watch(done: int, x: Tensor, predicted: Tensor) -> None:
                on_step(done, self.decode(x), self.decode(predicted))

        # A stream for every spiking step, with the image's own seed: noise is drawn encoded.
        encoded = list(seeds) * self.decode.time_steps
        device = self.constancy.device
        denoise = self.amplified(self.told(self._noise, encoded, settings.label), settings.gain)
        with evaluating(self.generator):
            currents = sample(
                denoise, self.shape, encoded, self.diffusion.config, settings, device,
                gamma=self.gamma, on_step=watch,
            )  # fmt: skip
        images: Tensor = self.decode(currents)
        return images

    @property
    def noise_output(self) -> NoiseOutput:
        return self.output

    def prepared(self, engine: str) -> Denoise:
        """The noise that the generator sees in images (not currents), whichever the engine."""

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            with torch.inference_mode(), evaluating(self.generator):
                eps: Tensor = self.decode(self._noise(self.encode(x), self.encode(t)))
            return eps

        return denoise

    def _noise(self, currents: Tensor, t: Tensor) -> Tensor:
        """``eps = sqrt(1 - abar) x + sqrt(abar) v`` of currents and steps, both encoded."""
        images = len(t) // self.decode.time_steps
        v = self.generator(currents, t[:images])
        return self.output(v, currents, t)


def build(config: Config, shape: ImageShape, parent: System | None = None) -> FSDDIM:
    """FSDDIM for images of ``shape``; it has no parent."""
    sizes = Shape(
        image_channels=shape.channels,
        channels=config.channels,
        multipliers=tuple(config.multipliers),
        blocks=config.blocks,
        time_steps=config.time_steps,
        diffusion_steps=config.diffusion_steps,
    )
    check_image_size(sizes, shape.size)
    return FSDDIM(config, shape, SpikingUNet(sizes))


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(time_steps=4, channels=8, multipliers=(1, 2), blocks=1, learning_rate=2e-3),
    "small": dict(
        time_steps=4, channels=16, multipliers=(1, 1, 2, 4), blocks=1, learning_rate=2e-3,
        warmup_steps=200, decay="linear", ema_decay=0.995, gradient_clip=1.0,
    ),
    "medium": dict(channels=64, ema_decay=0.999, decay="linear"),
    "paper": dict(),
}  # fmt: skip
