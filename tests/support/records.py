"""Records for tests: a line as it was stored, and changes to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.records.record import Record
from bench.records.upgrade import upgrade

# A line as schema version 1 wrote it. Never edit it: old results must load.
VERSION_1 = (
    '{"schema_version":1,"status":"ok","reason":null,"suite":"digits","preset":"smoke","command'
    '":"sddpm-bench run --suite digits --preset smoke","system":"sddpm","title":"SDDPM","time_s'
    'teps":4,"sampler":"ddim","sampler_steps":10,"eta":1.0,"config":{"learning_rate":0.002,"war'
    'mup_steps":20,"decay":"constant","gradient_clip":1.0,"ema_decay":0.0,"time_steps":4,"neuro'
    'n":"if","threshold":1.0,"channels":16,"multipliers":[1,2],"blocks":1,"diffusion_steps":100'
    '0},"config_hash":"aaf68dd217fcadce2a9ce7c80094d4aec5111a12f0aa2e5b017c38bb308da4aa","train'
    'ing_hash":"dd3a83500e959ed51d92ccaa675958e3b423be9aaa3da54b4e3ba99be38767ac","seed":0,"dat'
    'aset":"digits","image_size":8,"train_steps":60,"batch_size":32,"train_images":1920,"precis'
    'ion":"32-true","samples":100,"reference_images":300,"reference_split":"train","reference_h'
    'ash":"a96acca50ea4cc2d","extractor":"efficientnet-lite0","metrics":{"fd_efflite0":126.9223'
    '3647938059,"is_efflite0":1.1166845104601912,"is_std_efflite0":0.0244834255061529,"kid_effl'
    'ite0":0.2990280342102051,"kid_std_efflite0":0.006033012949442826,"precision_efflite0":0.0,'
    '"recall_efflite0":0.0},"params_millions":0.178029,"evaluations_per_image":10,"counts_per_e'
    'valuation":{"evaluations":1,"macs_first_conv":9216.0,"macs":656640.0,"acs":2824450.4,"dens'
    'e_macs_spikes":14893056.0,"sops":4197339.9},"counts_per_image":{"evaluations":10,"macs_fir'
    'st_conv":92160.0,"macs":6566400.0,"acs":28244504.0,"dense_macs_spikes":148930560.0,"sops":'
    '41973399.0},"energy_images":4,"energy_table":"horowitz-45nm-fp32","energy_published":{"per'
    '_evaluation_mj":0.003819999510000001,"per_image_mj":0.0381999951},"energy_strict":{"per_ev'
    'aluation_mj":0.005562549359999999,"per_image_mj":0.0556254936},"firing_rate":0.22955789005'
    '055147,"wall_seconds":{"train":40.72053029399967,"sample":0.9804872750000868,"energy":0.69'
    '84977059996709,"score":35.747806028000014},"peak_memory_mib":1021.5703125,"device":"AMD EP'
    'YC","cores":2,"versions":{"python":"3.11.7","torch":"2.15.0","spikingjelly":"2.0.0","diffu'
    'sers":"0.42.1","torch-fidelity":"0.4.0","sddpm-bench":"0.1.0"},"git_commit":"8d1dafc1ed09"'
    "}"
)

MEASURED = (
    "status", "system", "time_steps", "config", "config_hash", "training_hash", "seed", "dataset",
    "train_steps", "train_images", "samples", "reference_images", "reference_hash", "extractor",
    "metrics", "params_millions", "counts_per_evaluation", "counts_per_image", "energies",
    "firing_rate",
)  # fmt: skip
"""Fields of a record that two runs of one command must share: all but times and places."""


def record(system: str = "sddpm", fd: float | None = 10.0, **changes: object) -> Record:
    """The stored record as another system's, with this Frechet distance and these changes."""
    facts = {
        **upgrade(json.loads(VERSION_1)),
        "system": system,
        "title": system.upper(),
        "metrics": {} if fd is None else {"fd_efflite0": fd, "kid_efflite0": fd / 100},
    }
    return Record(**{**facts, **changes})


def failed(system: str = "sddpm", seed: int = 0) -> Record:
    """The record of a cell that broke."""
    return record(
        system, None, seed=seed, status="failed", reason="it broke", params_millions=None,
        energies={}, firing_rate=None,
    )  # fmt: skip


HASHES = [f"{number:02x}" * 32 for number in range(16)]


def cell(number: int, system: str = "sddpm", fd: float = 10.0, **more: Any) -> Record:
    """A record with the configuration hash of this number."""
    ann = {"time_steps": None, "firing_rate": None} if system == "ann_twin" else {}
    return record(system, fd, config_hash=HASHES[number], **{**ann, **more})


def conversion(
    rows: Sequence[Sequence[Any]],
    distances: Sequence[float] | None = None,
    schedules: Mapping[int, Sequence[int]] | None = None,
    **changes: Any,
) -> list[Record]:
    """Records of a conversion of a twin on digits.

    Args:
        rows: of each network, the parent first: time steps (None), relative error, denoising
            loss, loss over the parent's, firing rate, published and strict mJ of an evaluation.
        distances: Frechet distance of each; None: no samples were drawn.
        schedules: number of a row -> its schedule.
        changes: fields of every record's configuration and of its conversion facts.
    """
    facts = {"id": "c" * 64, "calibration_images": 8, "held_out_images": 4,
             "finetune": "end-to-end", "finetune_steps": 0}  # fmt: skip
    config = {"method": "ltb", "signed": False, "percentile": 99.9, "readout": "mean"}
    facts |= {key: value for key, value in changes.items() if key not in config}
    config |= {key: value for key, value in changes.items() if key in config}
    unscored = {"samples": 0, "sampler": None, "sampler_steps": None, "eta": None,
                "extractor": None, "reference_hash": None}  # fmt: skip
    found = []
    for number, (steps, error, loss, ratio, rate, published, strict) in enumerate(rows):
        measured = {"relative_error": error, "denoising_loss": loss, "loss_ratio": ratio,
                    "firing_rate": rate,
                    "evaluation_mj": {"published": published, "strict": strict}}  # fmt: skip
        schedule = (schedules or {}).get(number, ())
        child = {**config, "time_steps": steps, "schedule": list(schedule)}
        more = unscored if distances is None else {"eta": 1.0, "engine": "exact"}
        found.append(
            record(
                "ann_twin" if steps is None else "converted",
                None if distances is None else distances[number],
                time_steps=steps,
                config={} if steps is None else child,
                config_hash=f"{number:064x}",
                command="sddpm-bench convert --ann twin --out converted",
                conversion={**facts, **measured},
                **more,
            )
        )
    return found


CONVERSION_ROWS = [
    (None, 0.0, 0.02, 1.0, None, 0.4, 0.4),
    (4, 0.25, 0.06, 3.0, 0.1, 0.05, 0.1),
    (16, 0.05, 0.03, 1.5, 0.1, 0.2, 0.5),
]
