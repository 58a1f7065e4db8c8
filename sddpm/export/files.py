"""The files of an exported network: NIR graphs, numbers of the host, and the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from sddpm.checkpoint import CONFIG, MODEL
from sddpm.export.network import program_of
from sddpm.export.neurons import DT
from sddpm.export.program import OPERATIONS
from sddpm.replacing import atomic_write
from sddpm.version import __version__

FORMAT = 1
"""Version of the manifest's form."""
ENDING = ".nir"


def check_nir() -> None:
    """Raise ValueError, naming the extra to install, if the package nir is not there."""
    try:
        import nir  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "NIR needs the package nir, which is not installed: pip install 'sddpm-bench[nir]'"
        ) from error


def files_of(path: Path) -> dict[str, Path]:
    """The three files of an export to ``path``: graphs, tensors and manifest.

    Raises:
        ValueError: the name does not end in .nir, or the files of a checkpoint would be replaced.
    """
    if path.suffix != ENDING:
        raise ValueError(f"{path}: expected a name that ends in {ENDING}")
    if (path.parent / CONFIG).is_file() and (path.parent / MODEL).is_file():
        raise ValueError(f"{path}: {path.parent} holds a checkpoint; give a place outside of it")
    return {
        "graphs": path,
        "tensors": path.with_suffix(".safetensors"),
        "manifest": path.with_suffix(".json"),
    }


def write_nir(
    net: nn.Module,
    size: int,
    path: str | Path,
    facts: Mapping[str, Any] | None = None,
    gain: float = 1.0,
) -> dict[str, Any]:
    """Write a spiking U-Net as NIR graphs, the host's tensors and a manifest.

    Args:
        net: a :class:`sddpm.unet.UNet`, at its thresholds of now.
        size: height and width of the images, in pixels.
        path: file of the graphs, which ends in .nir; the other two are beside it, with the endings
            .safetensors and .json. The manifest is written last.
        facts: JSON-ready facts about the network that the manifest begins with.
        gain: factor of the network's output.

    Returns:
        The manifest.

    Raises:
        ValueError: NIR cannot hold the network, with the reason, or the package is missing.
    """
    check_nir()
    import nir

    files = files_of(Path(path))
    program = program_of(net, size, gain)
    manifest = {
        "format": FORMAT,
        "writer": f"sddpm-bench {__version__}",
        **(facts or {}),
        "graphs": files["graphs"].name,
        "tensors": files["tensors"].name,
        "time_steps": program.time_steps,
        **({} if gain == 1 else {"gain": gain}),
        "dt": DT,
        "inputs": {value.name: list(value.shape) for value in program.inputs},
        "output": program.steps[-1]["writes"],
        "operations": {
            name: text
            for name, text in OPERATIONS.items()
            if any(step.get("host") == name for step in program.steps)
        },
        "steps": program.steps,
    }
    # No edge joins two graphs, since the host stands between them; the check would add an input
    # and an output to each.
    graphs = nir.NIRGraph(nodes=program.graphs, edges=[], type_check=False)
    with atomic_write(files["graphs"]) as temporary:
        nir.write(temporary, graphs)
    tensors = {k: v.detach().float().cpu().contiguous().clone() for k, v in program.tensors.items()}
    with atomic_write(files["tensors"]) as temporary:
        temporary.write_bytes(save(tensors))
    with atomic_write(files["manifest"]) as temporary:
        temporary.write_text(_text(manifest), encoding="utf-8")
    return manifest


def _text(manifest: Mapping[str, Any]) -> str:
    """JSON with one line for each step."""
    lines = ",\n".join(f"    {json.dumps(step)}" for step in manifest["steps"])
    outline = json.dumps({**manifest, "steps": []}, indent=2)
    return outline.replace('"steps": []', f'"steps": [\n{lines}\n  ]') + "\n"
