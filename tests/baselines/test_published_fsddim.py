"""FSDDIM's spiking U-Net, losses and chain, as the authors' code computed them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from baselines.fsddim import system as fsddim
from baselines.fsddim.unet import SplitConv2d
from sddpm.protocol import ImageShape
from tests.support import golden

LAST = 2  # level, of 0 to 2
RULES = [
    (r"^conv_in\.", "stem."),
    (r"^conv_out\.", "out."),
    (r"^pe$", "time_embedding.table"),
    (r"^temb\.0\.", "time_embedding.linear1."),
    (r"^temb\.1\.", "time_embedding.linear2."),
    (rf"^(down|up)s\.{LAST}\.2\.bn\.", rf"\1.{LAST}.leave.bn."),
    (rf"^(down|up)s\.{LAST}\.2\.", rf"\1.{LAST}.leave.conv."),
    (r"^downs\.(\d)\.2\.conv\.1\.", r"down.\1.leave."),
    (r"^ups\.(\d)\.2\.conv\.", r"up.\1.leave.conv."),
    (r"^(down|up)s\.(\d)\.([01])\.", r"\1.\2.blocks.\3."),
    (r"^mid_block1\.", "middle.0."),
    (r"^mid_block2\.", "middle.1."),
    (r"^final_res_block\.", "final."),
]


class Names:
    """Published tensors by our names. A convolution of concatenated parts is two of ours."""

    def __init__(self, recorded: dict, net: nn.Module) -> None:
        drawn = golden.draw(recorded["parameters"], recorded["first"])
        self.weights = {**drawn, **recorded["buffers"]}
        self.net = net

    def whole(self, name: str) -> str:
        pattern, ours = next(rule for rule in RULES if re.search(rule[0], name))
        renamed = re.sub(pattern, ours, name).replace(".temb_proj.", ".embed.")
        renamed = renamed.replace(".conv2.bn.", ".bn2.")
        block, shortcut, rest = name.partition(".nin_shortcut.")
        norm = f"{block}{shortcut}bn.weight" not in self.weights or rest.startswith("bn.")
        renamed = renamed.replace(".nin_shortcut.bn.", ".nin_shortcut.")
        return renamed.replace(".nin_shortcut.", ".shortcut_bn." if norm else ".shortcut.")

    def parts(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """Our names and values of a published tensor."""
        path, _, kind = self.whole(name).rpartition(".")
        value, module = golden.without_time(self.weights[name]), self.net.get_submodule(path)
        if not isinstance(module, SplitConv2d):
            yield f"{path}.{kind}", value
        elif kind == "bias":
            yield f"{path}.layers.{next(iter(module.layers))}.bias", value
        else:
            # Two parts: what a level is handed has the output's width; else they are equal.
            sizes = [len(value), value.shape[1] - len(value)]
            if len(module.kinds) != 2:
                sizes = [value.shape[1] // len(module.kinds)] * len(module.kinds)
            owned = list(zip(module.kinds, value.split(sizes, 1), strict=True))
            for kind in module.layers:
                mine = [part for owner, part in owned if owner == kind]
                yield f"{path}.layers.{kind}.weight", torch.cat(mine, 1)


@pytest.fixture(scope="module")
def recorded() -> dict:
    return golden.read("fsddim")


def build(recorded: dict, diffusion_steps: int = 1000) -> tuple[fsddim.FSDDIM, Names]:
    config = fsddim.Config(
        time_steps=4, channels=16, multipliers=(1, 2, 3), diffusion_steps=diffusion_steps
    )
    system = fsddim.build(config, ImageShape(3, 16))
    names = Names(recorded, system.net)
    ours = dict(part for name in names.weights for part in names.parts(name))
    # The table's rows are the same for any number of them.
    ours["time_embedding.table"] = ours["time_embedding.table"][:diffusion_steps]
    golden.load(system.net, ours)
    return system, names


def folded(currents: Tensor) -> Tensor:
    """``[batch, C, H, W, T]`` as ours, ``[T * batch, C, H, W]``."""
    return currents.movedim(-1, 0).flatten(0, 1)


def test_one_update(recorded: dict) -> None:
    system, names = build(recorded)
    training, images, t = recorded["training"], 2 * recorded["x"] - 1, recorded["t"]
    wanted = training["outputs"]
    noisy = system.encode(system.diffusion.add_noise(images, recorded["noise"], t))
    with torch.no_grad():
        evaluated = system.net.eval()(noisy, t)
        trained = system.net.train()(noisy, t)
    assert golden.distance(evaluated, folded(recorded["evaluation"]["currents"])) < 1e-4
    assert golden.distance(trained, folded(wanted["currents"])) < 1e-4

    step = golden.RecordedStep(system, t, recorded["noise"])
    losses = system.train().train_step(images, step)
    assert losses["image"].item() == pytest.approx(wanted["image_loss"], rel=1e-5)
    assert losses["constancy"].item() == pytest.approx(wanted["constancy_loss"], rel=1e-5)
    assert step.losses["net"] == pytest.approx(wanted["loss"], rel=1e-5)
    found = step.gradients["net"]
    gradients = {
        ours: golden.without_time(value)
        for name, value in training["gradients"].items()
        for ours, _ in names.parts(name)
    }
    golden.gradients_agree(found, gradients, 1e-4)
    joined = {
        name: torch.cat([found[ours].flatten() for ours, _ in names.parts(name)])
        for name in training["gradient_norms"]
    }
    golden.norms_agree(joined, training["gradient_norms"])


def test_weights_of_the_losses(recorded: dict) -> None:
    system, _ = build(recorded)
    wanted, t = recorded["training"]["outputs"], recorded["t"]
    ours = 1 / system.output.weight(t).flatten().double()
    assert ours.tolist() == pytest.approx(wanted["image_weight"].tolist(), rel=1e-5)
    constancy = system.constancy[t].double()
    assert constancy.tolist() == pytest.approx(wanted["constancy_weight"].tolist(), rel=1e-6)


@pytest.mark.parametrize(("name", "steps"), [("chain", 10), ("late", 1000)])
def test_the_last_ten_steps_of_the_published_chain(name: str, steps: int, recorded: dict) -> None:
    """Deterministic DDIM on currents without clipping; of 10 steps it is the whole chain. In
    float64, because ten evaluations in float32 give a rounding ten chances to flip a spike."""
    system, _ = build(recorded, steps)
    system.double().eval()
    chain = recorded[name]
    abar = chain["alphas_cumprod"]
    assert golden.distance(system.diffusion.alphas_cumprod[:10], abar) < 1e-6
    options = system.diffusion.config.scheduler_options()
    ddim = DDIMScheduler(**options, clip_sample=False, timestep_spacing="trailing")
    ddim.set_timesteps(steps)
    currents = system.encode(chain["x_T" if name == "chain" else "x_9"].double())
    for t, state in zip(ddim.timesteps[-10:], chain["states"], strict=True):
        with torch.no_grad():
            eps = system._noise(currents, system.encode(t.expand(2)))
        currents = ddim.step(eps, t, currents).prev_sample
        assert golden.distance(system.decode(currents), state) < 1e-4, int(t)
    if "images" in chain:
        images = (system.decode(currents).clamp(-1, 1) + 1) / 2
        assert golden.distance(images, chain["images"]) < 1e-4
