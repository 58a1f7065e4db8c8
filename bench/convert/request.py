"""Options of a conversion, and the check that its folder belongs to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.energy.prices import DEFAULT_TABLE
from bench.files import read_json, write_json
from bench.machine import DeviceName
from bench.records.conversions import Times
from sddpm.checkpoint import CONFIG
from sddpm.replacing import sweep_unfinished

CLAIM = "conversion.json"


@dataclass(frozen=True)
class ConvertRequest:
    """Options of a conversion; see ``sddpm-bench convert --help``."""

    ann: Path
    out: Path
    command: str = ""
    method: str = "rate-percentile"
    signed: bool = False
    percentile: float = 99.9
    time_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    schedules: tuple[tuple[int, ...], ...] = ()
    calibration_images: int = 256
    held_out: int = 32
    readout: str = "mean"
    finetune: str = "end-to-end"
    finetune_steps: int = 0
    finetune_rate: float = 1e-4
    clip_steps: int = 500
    levels: int = 16
    distill: str | None = None
    distill_steps: int = 3000
    dataset: str | None = None
    evaluate: bool = False
    samples: int = 200
    sampler: str | None = None
    engine: str | None = None
    energy_images: int = 2
    references: int = 10000
    extractor: str = "auto"
    extractor_weights: Path | None = None
    batch: int = 100
    energy_table: str = DEFAULT_TABLE
    seed: int = 0
    data_root: str | None = None
    device: DeviceName = "auto"

    @property
    def children(self) -> list[Times]:
        """Time steps of the networks that are made, in order."""
        return [*sorted(self.time_steps), *self.schedules]

    def identity(self) -> dict[str, Any]:
        """Settings that decide every child; two requests that agree here can share a folder."""
        mine = ("method", "signed", "percentile", "readout", "calibration_images", "held_out",
                "finetune", "finetune_steps", "finetune_rate", "clip_steps", "levels", "distill",
                "distill_steps", "dataset", "energy_table", "seed")  # fmt: skip
        return {"ann": fingerprint(self.ann), **{k: getattr(self, k) for k in mine}}


def folder_name(times: Times) -> str:
    """Folder under ``--out`` of the child at ``times``."""
    return f"T{times}" if isinstance(times, int) else f"T{'-'.join(map(str, times))}"


def claim_folder(request: ConvertRequest) -> None:
    """Mark ``--out`` as this conversion's, so that another one is not taken for it."""
    write_json(request.out / CLAIM, request.identity())


def check_folder(request: ConvertRequest) -> None:
    """Raise ValueError if ``--out`` holds something else than this very conversion.

    What a conversion that was killed in its first write left there is removed.
    """
    out, path = request.out, request.out / CLAIM
    sweep_unfinished(path)
    if path.is_file():
        theirs, ours = read_json(path), json.loads(json.dumps(request.identity()))
        odd = [key for key in ours if theirs.get(key) != ours[key]]
        if odd:
            key = odd[0]
            said = "of another network" if key == "ann" else f"{key}={theirs.get(key)!r}"
            raise ValueError(
                f"--out {out}: holds another conversion ({said}); give a new folder, or that "
                "one's options to go on with it"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: is there already and no conversion; give a new folder")


def fingerprint(folder: Path) -> str:
    """16 hex digits of a network's files, in this project's format or diffusers'."""
    found = hashlib.sha256()
    for home in (folder, folder / "unet"):
        for pattern in (CONFIG, "*.safetensors", "*.bin"):
            for path in sorted(home.glob(pattern)):
                found.update(path.read_bytes())
    return found.hexdigest()[:16]
