"""The result of a cell: one JSON line, from which every table is made.

A record keeps operation counts and the energy table's name beside the energies, so that they
can be recomputed. A cell that failed has a reason and no number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from bench.records.identity import replaced_by
from bench.records.upgrade import upgrade
from sddpm.replacing import atomic_write

SCHEMA_VERSION = 2
"""2: energies by accounting; ``published`` and ``simple_memory`` as they are counted since."""

# A NaN would be ranked first or last, and a mean of it shown.
# Without an upper limit, a number could be too large to be computed or drawn with.
LARGEST_COUNT, LARGEST_FIGURE = 10**18, 1e30
Size = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Amount = Annotated[FiniteFloat, Field(ge=0, le=LARGEST_FIGURE)]
Figure = Annotated[FiniteFloat, Field(ge=-LARGEST_FIGURE, le=LARGEST_FIGURE)]
Seed = Annotated[int, Field(ge=-LARGEST_COUNT, le=LARGEST_COUNT)]


class _Part(BaseModel):
    # Fields of older versions that have gone are dropped: a stored line must load for ever.
    model_config = ConfigDict(extra="ignore", frozen=True)


class OperationCounts(_Part):
    """Products executed; means over the metered images, so not always whole numbers."""

    evaluations: Count
    macs_first_conv: Amount
    macs: Amount
    acs: Amount
    dense_macs_spikes: Amount
    sops: Amount | None


class MemoryAccesses(_Part):
    """Words (32 bits) moved, and the additions for their addresses; see
    :mod:`bench.energy.memory`."""

    weight_reads: Amount
    bias_reads: Amount
    input_reads: Amount
    output_writes: Amount
    potential_reads: Amount
    potential_writes: Amount
    neuron_updates: Amount
    spikes: Amount
    address_additions: Amount
    address_macs: Amount
    words_by_buffer_bytes: dict[Count, Amount]
    """Words by the size of the buffer they lie in, so that memory can be priced again."""


class Energy(_Part):
    """Millijoules by one accounting."""

    per_evaluation_mj: Amount
    per_image_mj: Amount


class ConversionFacts(_Part):
    """A network of a conversion, compared with the parent on the same noised held-out images."""

    id: str
    """Hash of everything that decides the conversion: equal in the records of all its networks."""
    relative_error: Amount
    """Norm of the difference of the noise predictions over the norm of the parent's; 0 for the
    parent."""
    denoising_loss: Amount
    """Mean squared error of the predicted noise."""
    loss_ratio: Amount
    """Denoising loss over the parent's."""
    firing_rate: Amount | None = None
    """Spikes per neuron and time step on the held-out images; None for the parent."""
    evaluation_mj: dict[str, Amount]
    """Millijoules of one network evaluation of a held-out image, by accounting."""
    calibration_images: Count
    held_out_images: Count
    """Images that thresholds were measured on, and that networks were compared on. Records of
    earlier versions hold the numbers that were asked for; fewer may have been there."""
    finetune: str
    """Way of fine-tuning children: end-to-end, or in blocks."""
    finetune_steps: Count
    """Steps of fine-tuning of each child, or of each of its blocks; 0: none."""
    notes: tuple[str, ...] = ()
    """Origin of the parent, as sentences."""


class Record(_Part):
    """One cell of the comparison, measured once."""

    schema_version: Size = SCHEMA_VERSION
    status: Literal["ok", "failed"] = "ok"
    reason: str | None = None
    """Reason for the failure."""

    suite: str
    preset: str
    command: str
    budget: Amount | None = None
    """Factor of the suite's length of training that was requested; None: 1."""
    system: str
    title: str
    """Name of the system and, in brackets, of its variant."""
    variant: str = ""
    """Name of the suite's variant of the system."""
    time_steps: Size | None = None
    """Spiking time steps; None for systems without."""
    sampler: str | None = None
    sampler_steps: Size | None = None
    eta: FiniteFloat | None = None
    threshold: FiniteFloat | Literal["guided"] | None = None
    """Firing threshold that was requested for sampling; None is as trained."""
    thresholds: FiniteFloat | dict[str, FiniteFloat] | None = None
    """Value of ``threshold``: one number, or one for each layer."""
    gain: FiniteFloat | Literal["guided"] | None = None
    """Factor of the network's output that was requested for sampling; None is as trained, 1."""
    guided_gain: FiniteFloat | None = None
    """Value of ``gain`` where it is ``guided``."""
    engine: str | None = None
    """Form of the network while sampling."""
    config: dict[str, Any] = Field(default_factory=dict)
    config_hash: str
    """Hash of everything that decides the samples."""
    training_hash: str
    """Hash of everything that decides the checkpoint."""
    seed: Seed

    dataset: str
    """Name with its variant: ``cifar10 (jpeg)``."""
    image_size: Size
    """Height and width in pixels, or the manifold's size."""
    manifold: str | None = None
    """Manifold on which the data are points; None for images."""
    train_steps: Count
    batch_size: Size
    train_images: Count
    """Images seen in training, repeats counted."""
    parent_images: tuple[Count, ...] = ()
    """The same of each of its parents' trainings, the first one first; earlier records of a system
    with a parent do not say it."""
    precision: str
    samples: Count
    """0: none were drawn."""

    reference_images: Size | None = None
    reference_split: str | None = None
    reference_hash: str | None = None
    extractor: str | None = None
    metrics: dict[str, Figure] = Field(default_factory=dict)

    params_millions: Amount | None = None
    """Parameters of the modules that run at sampling time, in millions."""
    evaluations_per_image: Count | None = None
    counts_per_evaluation: OperationCounts | None = None
    counts_per_image: OperationCounts | None = None
    energy_images: Size | None = None
    energy_table: str | None = None
    energies: dict[str, Energy] = Field(default_factory=dict)
    """Energies by the keys of :data:`bench.energy.accountings.ACCOUNTINGS`. An energy for which the
    counts do not suffice is left out."""
    memory_per_image: MemoryAccesses | None = None
    firing_rate: Amount | None = None
    """Spikes per neuron and time step; None for networks without spiking neurons."""

    conversion: ConversionFacts | None = None
    """Facts about the conversion, for the networks that ``convert`` makes and their parent; None
    for others."""

    wall_seconds: dict[str, Figure] = Field(default_factory=dict)
    """Seconds of each stage: train, sample, score, energy."""
    peak_memory_mib: Figure | None = None
    """Largest of the process (CPU) or of the device's allocator (GPU) in the stages run."""
    device: str
    cores: Count
    versions: dict[str, str] = Field(default_factory=dict)
    git_commit: str
    """``unknown`` outside a checkout; ends in ``-dirty`` if files were changed."""
    submitted_by: str | None = None
    """Person or group outside this project who measured and sent the record, with an address; None
    for the project's own."""


def read_records(path: Path) -> list[Record]:
    """The records of a file, in its order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a record, holds a figure that cannot be, or was written by a
            newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a records.jsonl")
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                records.append(_parse(line, f"{path}, line {number}"))
    return records


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Replace ``path`` by these records, one JSON line each, atomically."""
    with atomic_write(path) as temporary:
        lines = [record.model_dump_json() + "\n" for record in records]
        temporary.write_text("".join(lines), encoding="utf-8")


def merge(old: Iterable[Record], new: Iterable[Record]) -> list[Record]:
    """``old`` with each record of a cell in ``new`` replaced, and the others appended."""
    merged = {replaced_by(record): record for record in old}
    for record in new:
        merged[replaced_by(record)] = record
    return list(merged.values())


def decode(line: bytes) -> dict[str, Any]:
    """The content of a stored line, whose fields are not checked yet.

    Raises:
        ValueError: it is no JSON object, or was written by a newer version.
    """
    try:
        content = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not a text in UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply for a record") from error
    except ValueError as error:
        raise ValueError("a number of too many digits for a record") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError("not a record (no schema_version)")
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"record of schema version {version}; this version of sddpm-bench "
            f"reads up to {SCHEMA_VERSION}"
        )
    return content


def _parse(line: bytes, where: str) -> Record:
    try:
        content = decode(line)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    version = content["schema_version"]
    try:
        return Record.model_validate(upgrade(content) if version == 1 else content)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: not a record as schema version 1 has them") from error
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        given = problem["input"]
        text = repr(given) if not isinstance(given, int) or abs(given) < 10**30 else "more digits"
        value = "" if isinstance(given, dict | list) else f", not {text[:60]}"
        raise ValueError(f"{where}: {field}: {problem['msg']}{value}") from error
