"""DINOv2 as a feature extractor: torch-fidelity's, on timm's network and a file of weights.

torch-fidelity loads the network from its authors' repository with torch hub, which runs code from
the network, and accepts no file. timm's network is the same one under the same names.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

from bench.quality.registry import Extractor
from bench.quality.weights import cached_weights

NETWORKS = {
    "dinov2-vit-s-14": "vit_small_patch14_dinov2",
    "dinov2-vit-b-14": "vit_base_patch14_dinov2",
    "dinov2-vit-l-14": "vit_large_patch14_dinov2",
    "dinov2-vit-g-14": "vit_giant_patch14_dinov2",
}
"""Name of the extractor -> name of timm's network."""
SIZE, PATCH = 224, 14
OFFSET = 0.1
"""Patches that are added to the side of the grid when position embeddings are resized."""


class DinoV2(FeatureExtractorDinoV2):
    """torch-fidelity's extractor with the weights of a file."""

    def __init__(self, name: str, features_list: list[str], weights: Path, **kwargs: Any) -> None:
        FeatureExtractorBase.__init__(self, name, features_list)
        self.feature_extractor_internal_dtype = torch.float32
        self.model = load_dinov2(name, weights)
        self.requires_grad_(False)
        self.eval()


def dinov2_network(extractor: Extractor) -> FeatureExtractorBase:
    """DINOv2 with the chosen weights.

    Raises:
        FileNotFoundError: there is no file of weights.
        ValueError: the file holds something else.
    """
    path = extractor.weights or cached_weights(extractor)
    if not path.is_file():
        raise FileNotFoundError(f"{extractor.name} weights are not at {path}")
    return DinoV2(extractor.key, [extractor.feature_layer], path)


def load_dinov2(name: str, path: Path) -> nn.Module:
    """timm's network with the weights that DINOv2's authors publish for ``name``, for pictures of
    224 pixels.

    Raises:
        ValueError: the file is damaged, or holds other weights.
    """
    network: nn.Module = timm.create_model(
        NETWORKS[name], pretrained=False, num_classes=0, img_size=SIZE
    )
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
        state.pop("mask_token", None)
        state["pos_embed"] = resize_positions(state["pos_embed"], SIZE // PATCH)
        names = (k.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2.") for k in state)
        renamed = dict(zip(names, state.values(), strict=True))
        network.load_state_dict(renamed, strict=True)
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path}: not the weights of {name} ({reason})") from error
    return network.eval()


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings ``[1, 1 + n * n, d]`` for a grid of ``side`` patches.

    The authors' network resizes them at each call: bicubic, not antialiased, with a scale that has
    :data:`OFFSET` patches too many.
    """
    old = round((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (side + OFFSET) / old
    resized = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
