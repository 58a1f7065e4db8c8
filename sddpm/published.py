"""Read the published checkpoint formats of SDDPM and of SDDPM with TSM.

Format: ``torch.save`` of a dict whose ``net_model`` is the state dict of the network in
AndyCao1125/SDDPM, or of that in AndyCao1125/SDM, where every 2-d convolution is a ``tsmconv``
with its scales ``tsmp``, ``[time_steps, 1, 1, 1, 1]``. A file is read without executing pickled
code, the configuration is inferred from the shapes, and the weights are loaded strictly.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from sddpm.checkpoint import check_plain
from sddpm.unet import UNet, UNetConfig

_RENAMES = [
    (r"^time_embedding\.timembedding\.0\.weight$", "time_embedding.table"),
    (r"^time_embedding\.timembedding\.1\.", "time_embedding.linear1."),
    (r"^time_embedding\.timembedding\.3\.", "time_embedding.linear2."),
    (r"^conv\.", "stem.conv1."),
    (r"^bn\.", "stem.bn1."),
    (r"^conv_identity\.", "stem.conv2."),
    (r"^bn_identity\.", "stem.bn2."),
    (r"^downblocks\.", "down."),
    (r"^middleblocks\.", "middle."),
    (r"^upblocks\.", "up."),
    (r"\.temb_proj\.1\.", ".embed."),
    (r"^tail_bn\.", "head.bn."),
    (r"^tail_conv\.", "head.conv."),
    (r"^T_output_layer\.", "head.temporal_conv."),
    (r"^last_bn\.", "head.temporal_bn."),
    (r"\.tsmconv\.", "."),
    (r"\.tsmp$", ".p"),
]
DEFAULT_TIME_STEPS = 4
"""Default of the published code, used if neither the caller nor the file states the time steps."""


def load_published(path: str | Path, time_steps: int | None = None, threshold: float = 1.0) -> UNet:
    """Load a published SDDPM checkpoint as a network in evaluation mode: ``eps = net(x, t)``.

    Args:
        path: file in a published format, of a network with TSM or without.
        time_steps: spiking time steps to run it with. A network with TSM has a scale for each, so
            None is what the file holds; without TSM no weight depends on them, and None is 4.
        threshold: firing threshold of every neuron.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, not of this format, or of another network; or its
            network with TSM has another number of time steps.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a published SDDPM checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may end in any
        raise ValueError(
            f"{path}: not a complete torch.save file of tensors ({_first_line(error)})"
        ) from error
    state = content.get("net_model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise ValueError(f"{path}: no state dict under 'net_model', the published format's key")
    for key, value in state.items():
        try:
            _check(value)
        except ValueError as error:
            raise ValueError(f"{path}: {key} {error}") from error
    # Multi-GPU checkpoints of the published code carry DataParallel's prefix.
    renamed = {_rename(key.removeprefix("module.")): value for key, value in state.items()}
    weight = renamed.get("head.temporal_conv.weight")
    if weight is not None and weight.ndim == 5:
        renamed["head.temporal_conv.weight"] = weight.squeeze(-1)
    for key, value in renamed.items():
        if key.endswith(".p") and value.shape[1:] == (1, 1, 1, 1):
            renamed[key] = value.flatten()

    config = _infer_config(renamed, path, time_steps, threshold)
    with torch.device("meta"):  # shapes are compared before memory is taken
        own = UNet(config).state_dict()
    # The published neurons hold no tensors.
    own = {k: v for k, v in own.items() if k in renamed or not k.endswith(".theta")}
    missing, unexpected = own.keys() - renamed.keys(), renamed.keys() - own.keys()
    if missing or unexpected:
        raise ValueError(
            f"{path}: not the published SDDPM network: lacks {_some(missing)}, "
            f"has besides {_some(unexpected)}"
        )
    for key, value in renamed.items():
        if value.shape != own[key].shape:
            raise ValueError(
                f"{path}: {key} has shape {tuple(value.shape)}, expected {tuple(own[key].shape)}"
            )
    net = UNet(config)
    net.load_state_dict({**net.state_dict(), **renamed}, strict=True)
    return net.eval()


def _check(value: Tensor) -> None:
    """Raise ValueError if a tensor cannot be weights, or whole numbers beside them."""
    check_plain(value)
    # A few stored numbers can be declared a tensor of any size.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"declares shape {tuple(value.shape)}, holds less")
    if value.dtype == torch.bool or value.is_complex():
        raise ValueError(f"holds {value.dtype}, expected real numbers")
    odd = 0 if value.isfinite().all() else int((~value.isfinite()).sum())
    if odd:
        raise ValueError(f"holds {odd} of {value.numel()} numbers that are NaN or infinite")


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _infer_config(
    state: dict[str, Tensor], path: Path, time_steps: int | None, threshold: float
) -> UNetConfig:
    """Read widths from the shapes: a down-sample separates two levels."""
    temporal_scaling = "stem.conv1.p" in state
    try:
        channels, image_channels, *_ = _sizes(state, "stem.conv1.weight", 4)
        diffusion_steps, _ = _sizes(state, "time_embedding.table", 2)
        scales = _sizes(state, "stem.conv1.p", 1)[0] if temporal_scaling else None
        levels: list[list[int]] = [[]]
        for index in range(1 + max(_indices(state, "down"))):
            if f"down.{index}.conv.weight" in state:
                levels.append([])
            else:
                levels[-1].append(_sizes(state, f"down.{index}.conv1.weight", 4)[0])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: not the published SDDPM network: lacks {error}") from error
    blocks = {len(level) for level in levels}
    if len(blocks) != 1 or 0 in blocks or any(level[0] % channels for level in levels):
        raise ValueError(f"{path}: levels of widths {levels} are not a published SDDPM network")
    if scales is not None and time_steps not in (None, scales):
        raise ValueError(
            f"{path}: time_steps={time_steps}: its TSM scales are for {scales} spiking time steps"
        )
    return UNetConfig(
        image_channels=image_channels,
        channels=channels,
        multipliers=tuple(level[0] // channels for level in levels),
        blocks=blocks.pop(),
        time_steps=scales or time_steps or DEFAULT_TIME_STEPS,
        threshold=threshold,
        diffusion_steps=diffusion_steps,
        temporal_scaling=temporal_scaling,
    )


def _sizes(state: dict[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    found = tuple(state[key].shape)
    if len(found) != dimensions or 0 in found:
        raise ValueError(f"{key} with {dimensions} sizes above 0 (it has {found})")
    return found


def _indices(state: dict[str, Tensor], prefix: str) -> list[int]:
    found = [int(key.split(".")[1]) for key in state if re.match(rf"{prefix}\.\d+\.", key)]
    if not found:
        raise ValueError(f"{prefix}.*")
    return found


def _some(keys: set[str]) -> str:
    names = sorted(keys)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "-"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
