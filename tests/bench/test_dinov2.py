"""DINOv2 from a file of weights, against the network's definition written out in plain tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x as resize,
)

from bench.data.datasets import load
from bench.quality import dinov2, extractors, fidelity
from tests.support.calling import call, refused

NAME, WIDTH, DEPTH, HEADS = "dinov2-vit-s-14", 384, 12, 6


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights under the names and in the shapes of the published file."""
    rng = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, 37 * 37 + 1, WIDTH), "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14), "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
    }  # fmt: skip
    for i in range(DEPTH):
        block = {
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,), "ls1.gamma": (WIDTH,), "ls2.gamma": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,),
            "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
            "mlp.fc1.weight": (4 * WIDTH, WIDTH), "mlp.fc1.bias": (4 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return {name: 0.05 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def weights(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "dinov2.pth"
    torch.save(state, path)
    return path


def forward(state: dict[str, Tensor], pictures: Tensor) -> Tensor:
    """The class token of DINOv2's vision transformer, as its authors define it."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    mean, std = (torch.tensor(v)[:, None, None] * 255 for v in
                 ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
    x = (resize(pictures.float(), size=(224, 224), align_corners=False) - mean) / std
    name = "patch_embed.proj"
    x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=14)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1)
    # Positions of 37 x 37 patches on 16 x 16: bicubic, with the authors' 0.1 patches too many.
    positions = state["pos_embed"]
    grid = positions[:, 1:].reshape(1, 37, 37, WIDTH).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    x = x + torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    for i in range(DEPTH):
        b = f"blocks.{i}"
        n, t, _ = x.shape
        qkv = linear(norm(x, f"{b}.norm1"), f"{b}.attn.qkv")
        q, k, v = qkv.reshape(n, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        mixed = linear((weight @ v).transpose(1, 2).reshape(n, t, WIDTH), f"{b}.attn.proj")
        x = x + state[f"{b}.ls1.gamma"] * mixed
        hidden = F.gelu(linear(norm(x, f"{b}.norm2"), f"{b}.mlp.fc1"))
        x = x + state[f"{b}.ls2.gamma"] * linear(hidden, f"{b}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def test_features_are_those_of_the_definition(state: dict[str, Tensor], weights: Path) -> None:
    chosen = extractors.choose_extractor(NAME, weights)
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        (found,) = extractors.build(chosen, torch.device("cpu"))(pictures)
        wanted = forward(state, pictures)
    assert found.shape == (2, WIDTH)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_columns_are_named_for_it_and_another_file_has_another_hash(
    state: dict[str, Tensor], weights: Path, tmp_path: Path
) -> None:
    chosen = extractors.choose_extractor(NAME, weights)
    few = load("digits", "train", limit=12)
    got = fidelity.score(few.__getitems__(range(10)), few, extractor=chosen, cache_dir=tmp_path)
    columns = {name for name in got if "dinov2" in name}
    kinds = ("fd", "fd_std", "kid", "kid_std", "precision", "recall", "density", "coverage")
    assert columns == {f"{kind}_{NAME}" for kind in kinds}
    assert got["extractor"] == NAME
    other = tmp_path / "other.pth"
    torch.save({**state, "cls_token": state["cls_token"] + 1}, other)
    assert (
        fidelity.reference_hash(few, extractors.choose_extractor(NAME, other))
        != got["reference_hash"]
    )


def test_the_command_scores_with_it(weights: Path, tmp_path: Path) -> None:
    call(
        "export-references", "--dataset", "digits", "--references", 12, "--out", tmp_path / "r.npz"
    )
    how = ["score", tmp_path / "r.npz", "--dataset", "digits", "--references", 12, "--device",
           "cpu", "--extractor", NAME, "--extractor-weights"]  # fmt: skip
    done = call(*how, weights)
    assert done.exit_code == 0, done.output
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert abs(float(shown[f"fd_{NAME}"])) < 0.1
    assert shown[f"coverage_{NAME}"] == "1"
    damaged = tmp_path / "cut.pth"
    damaged.write_bytes(weights.read_bytes()[:1000])
    refused(call(*how, damaged), str(damaged), f"not the weights of {NAME}")


def test_weights_of_another_network_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"pos_embed": state["pos_embed"]}, tmp_path / "few.pth")
    with pytest.raises(ValueError, match=r"few\.pth: not the weights of dinov2-vit-b-14"):
        dinov2.load_dinov2("dinov2-vit-b-14", tmp_path / "few.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth: not the weights"):
        dinov2.load_dinov2(NAME, tmp_path / "list.pth")
