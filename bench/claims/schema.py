"""Claims as YAML states them: what a paper says, and the cells whose records answer it.

A claim names cells, never figures of this project: those come from the records, and the verdict
from :mod:`bench.claims.verdict`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from bench.claims.effects import Compare
from bench.claims.verdict import Expects
from bench.files import read_text

LIST = "systems"
"""Field of a cell that stands for several comparisons, one with each system."""
Words = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cell(_Part):
    """One cell, at every seed that was run. Fields that are not given match any value."""

    folder: Words
    """Folder of the records, below the folder of all results."""
    system: Words
    """Key of the registry."""
    dataset: str | None = None
    """Data set, where a folder holds several."""
    variant: str = ""
    """The suite's variant; empty: the system's own row."""
    time_steps: int | None = None
    """Spiking time steps."""
    sampler: str | None = None
    """``NAME:STEPS`` or ``NAME:STEPS:ETA``, as ``--sampler`` takes it."""
    threshold: FiniteFloat | Literal["guided"] | None = None
    """Firing threshold; not given: as trained."""
    train_steps: int | None = None
    """Steps of its training, where a folder holds several budgets."""

    def __str__(self) -> str:
        given = {
            k: v for k, v in self.model_dump(exclude={"folder"}).items() if v not in (None, "")
        }
        return ", ".join(f"{name}={value}" for name, value in given.items())


class PublishedRow(_Part):
    """One row of published.csv on the data set that the comparison states."""

    system: Words
    time_steps: int | None = None


class PublishedPair(_Part):
    """Two rows of published.csv, from which a claimed figure follows."""

    dataset: Words
    of: PublishedRow
    against: PublishedRow


class SearchTable(_Part):
    """Two rows of the table that ``guide`` wrote, and the 95 % interval of their difference."""

    file: Words
    """CSV below the folder of all results."""
    of: dict[str, str]
    """Values of columns that choose the row."""
    against: dict[str, str]
    about: Words
    """The network and its budget, for people: the CSV does not say it."""
    command: Words
    """The command that wrote it."""


class Comparison(_Part):
    """One line of the answer to a claim."""

    of: Cell | None = None
    """The cell that the claim is about."""
    against: Cell | None = None
    """The cell that it is compared with."""
    curve: tuple[Cell, ...] = ()
    """Rivals at several energies, between which the quality at the energy of ``of`` is
    interpolated. A cell without ``time_steps`` stands for each number of them."""
    table: SearchTable | None = None
    """In place of cells: a table of ``guide``."""
    measure: Words = "quality"
    """``quality``; ``energies`` for a line each accounting; the key of one accounting; ``8-bit``,
    ``4-bit`` and so on for products in integers."""
    energy: Words = "strict"
    """Accounting by which the energies of ``curve`` are equal; or bits, for a rival in integers."""
    compare: Compare = "ratio"
    figure: FiniteFloat | None = None
    """The claimed figure, in the unit of ``compare``."""
    published: PublishedPair | None = None
    """Origin of the claimed figure, where published.csv has it."""
    optional: bool = False
    """Whether the records may be missing."""


class Claim(_Part):
    """One claim, with every comparison that bears on it."""

    id: Words
    group: Words
    """Heading under which it stands."""
    source: Words
    """Paper and place."""
    title: Words
    """The claim in a few words."""
    claim: Words
    """The claim in one sentence, with its figure."""
    question: str | None = None
    """For a claim of nobody: the question, whose answer is stated for each line."""
    expects: Expects = "better"
    notes: tuple[Words, ...] = ()
    """Facts that a reader needs to weigh the lines."""
    untested: str | None = None
    """Reason why nothing here answers it."""
    comparisons: tuple[Comparison, ...] = ()


def read_claims(path: Path | None = None) -> list[Claim]:
    """The claims of a YAML file, or those in the package, in the order of the files' names.

    Raises:
        FileNotFoundError, ValueError: no such file, or a claim that cannot be read; the message
            names the claim and the field.
    """
    if path is None:
        found = sorted(resources.files("bench.claims").iterdir(), key=lambda file: file.name)
        shipped = [file for file in found if file.name.endswith(".yaml")]
        return [
            claim
            for file in shipped
            for claim in _parse(file.read_text(encoding="utf-8"), file.name)
        ]
    if not path.is_file():
        raise FileNotFoundError(f"--claims {path}: no such file; expected a YAML list of claims")
    return _parse(read_text(path), f"--claims {path}")


def _parse(text: str, where: str) -> list[Claim]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date with month 13
        raise ValueError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list) or not content:
        raise ValueError(f"{where}: expected a list of claims")
    claims = [_claim(entry, f"{where}, claim {n}") for n, entry in enumerate(content, start=1)]
    names = [claim.id for claim in claims]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{where}: id {twice[0]}: occurs twice; every claim has its own")
    return claims


def _claim(entry: Any, where: str) -> Claim:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: expected fields, as id and claim; not {str(entry)[:60]}")
    where = f"{where.rpartition(', ')[0]}, claim {entry['id']}" if "id" in entry else where
    fields = dict(entry)
    defaults = fields.pop("defaults", {})
    lines = fields.get("comparisons", [])
    if not isinstance(defaults, Mapping) or not isinstance(lines, list):
        raise ValueError(f"{where}: expected fields under defaults, a list under comparisons")
    fields["comparisons"] = [part for line in lines for part in _expanded(line, defaults, where)]
    try:
        claim = Claim.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{where}: {field}: {problem['msg']}") from error
    if bool(claim.comparisons) == bool(claim.untested):
        raise ValueError(
            f"{where}: expected comparisons, or under untested the reason why there are none"
        )
    for line in claim.comparisons:
        _check(line, claim, where)
    return claim


def _expanded(line: Any, defaults: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A comparison with the claim's defaults below its own fields; one for each of ``systems``."""
    if not isinstance(line, Mapping):
        raise ValueError(f"{where}: expected fields under comparisons, not {str(line)[:60]}")
    merged = {**defaults, **line}
    shared = {name: merged.pop(name) for name in ("folder", "dataset") if name in merged}
    for side in ("of", "against"):
        own, below = line.get(side), defaults.get(side)
        if isinstance(own, Mapping) and isinstance(below, Mapping):
            merged[side] = {**below, **own}
        if isinstance(merged.get(side), Mapping):
            merged[side] = {**shared, **merged[side]}
    against = merged.get("against")
    if isinstance(against, Mapping) and LIST in against:
        rest = {key: value for key, value in against.items() if key != LIST}
        if not isinstance(against[LIST], list):
            raise ValueError(f"{where}: {LIST}: expected a list, not {str(against[LIST])[:60]}")
        return [{**merged, "against": {**rest, "system": name}} for name in against[LIST]]
    return [merged]


def _check(line: Comparison, claim: Claim, where: str) -> None:
    """Refuse a comparison that could not be made, or could never be decided."""
    rivals = (line.against is not None) + bool(line.curve) + (line.compare == "value")
    if line.table is None and (line.of is None or rivals != 1):
        raise ValueError(
            f"{where}: expected table, or of with one of against and curve; compare: value has "
            "neither"
        )
    if line.table is not None and (line.of or rivals):
        raise ValueError(f"{where}: a table has no cells of, against or curve")
    if line.figure is not None and line.published is not None:
        raise ValueError(f"{where}: figure and published both state the claimed figure")
    if line.compare == "value" and line.figure is None:
        raise ValueError(f"{where}: compare: value needs a figure")
