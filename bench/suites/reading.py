"""Suites from YAML: the shipped ones by name, others by path, each of which may extend another.

``extends: NAME`` lays a suite over a shipped one, or over a file relative to its own: mappings
are merged, lists and single values replaced, and null takes away. In the same way the preset
``converged`` is laid over the preset ``small`` of its suite. Every message names the file
and the line where the value stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bench.registry import SYSTEMS, choose
from bench.suites import nodes
from bench.suites.schema import BASES, LENGTHS, Budget, Preset, SamplingChoice, Suite

LONGEST_LIST = 100
LARGEST_NUMBER = 10**9
"""Bounds of the values that a suite may give to a field of a system's Config."""
NOT_INHERITED = ("name", "title")
"""Names must be unique, because a report could not distinguish two suites of one name."""


@dataclass(frozen=True)
class _Text:
    """A suite before it is read."""

    file: str
    """Name in messages."""
    content: str
    folder: Path | None
    """Folder of the files that it may extend; None: it extends shipped suites only."""


def shipped_suites() -> dict[str, Traversable]:
    """Name -> file of the suites inside the package, by name."""
    files = resources.files("bench.suites").iterdir()
    return {
        file.name.removesuffix(".yaml"): file
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".yaml")
    }


def load_suite(name: str) -> Suite:
    """Read a shipped suite by name, or a YAML file by path.

    Raises:
        ValueError: no such suite (near matches are named), or the file is not a valid suite;
            the message names file, line and field.
        FileNotFoundError: a path that is not there.
    """
    return _suite(_find(name, Path()))


def parse_suite(text: str, file: str) -> Suite:
    """Validate the text of a suite; ``file`` is its path, which need not exist, or its name.

    Raises:
        ValueError: as :func:`load_suite`.
    """
    return _suite(_Text(file, text, Path(file).parent))


def read_outline(name: str) -> dict[str, Any]:
    """The content of a shipped suite, unchecked: checking its names would import torch."""
    text = _find(name, None)
    content: dict[str, Any] = nodes.content_of(_read_whole(text), text.file)
    return content


def _suite(text: _Text) -> Suite:
    root = _read_whole(text)
    try:
        suite = Suite.model_validate(nodes.content_of(root, text.file))
    except ValidationError as error:
        # A field that is misspelt is missing besides: the misspelling explains more.
        found = sorted(error.errors(), key=lambda problem: problem["type"] == "missing")
        problems = [_explain(problem, root, text.file) for problem in found]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(problems[0] + more) from error
    suite._source = (text.file, root)
    _check_systems(suite)
    return suite


def _find(name: str, folder: Path | None) -> _Text:
    """A shipped suite, or the file ``name`` under ``folder``.

    Raises:
        ValueError, FileNotFoundError: there is none, or it is no text.
    """
    shipped = shipped_suites()
    if name in shipped:
        return _Text(f"suite {name}", shipped[name].read_text(encoding="utf-8"), None)
    path = (folder or Path()) / name
    if folder is None or (path.suffix not in (".yaml", ".yml") and not path.is_file()):
        choose("suite", name, [*shipped, "a path to a .yaml file"])
    if not path.is_file():
        raise FileNotFoundError(f"suite {path}: no such file")
    with path.open("rb") as file:
        content = file.read(4 * nodes.MOST_CHARACTERS + 1)
    try:
        return _Text(str(path), content.decode("utf-8"), path.parent)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason})") from error


def _read_whole(text: _Text) -> yaml.Node | None:
    """The nodes of a suite, with those of the suites that it extends and of the presets that its
    presets are laid over."""
    root = _read(text)
    for name, base in BASES.items():
        nodes.lay_over(nodes.child(root, "presets"), base, name, LENGTHS)
    return root


def _read(text: _Text, above: tuple[str, ...] = ()) -> yaml.Node | None:
    """The nodes of a suite, laid over those of the suite that it extends.

    Args:
        above: identities of the suites that extend this one.

    Raises:
        ValueError: a text that is no YAML, an extended suite that is not there, a cycle.
    """
    root = nodes.read_nodes(text.content, text.file)
    extends = nodes.pop(root, "extends")
    if extends is None:
        return root
    key, value = extends
    if value.tag != "tag:yaml.org,2002:str" or not value.value:
        nodes.refuse(key, "extends: expected the name of a suite, or a path")
    try:
        base = _find(value.value, text.folder)
    except (ValueError, FileNotFoundError) as error:
        nodes.refuse(key, f"extends: {error}")
    chain = (*above, _identity(text))
    if _identity(base) in chain:
        names = " -> ".join(name.rsplit("/", 1)[-1] for name in (*chain, _identity(base)))
        nodes.refuse(key, f"extends: these suites extend each other in a circle: {names}")
    below = _read(base, chain)
    for name in NOT_INHERITED:
        nodes.pop(below, name)
    presets = nodes.child(root, "presets")
    for name, base_preset in BASES.items():
        # A preset that is taken away takes those away that are laid over it.
        if nodes.is_null(nodes.child(presets, base_preset)) and not nodes.child(presets, name):
            nodes.pop(nodes.child(below, "presets"), name)
    return nodes.merged(below, root, LENGTHS)


def _identity(text: _Text) -> str:
    return text.file if text.folder is None else str(Path(text.file).resolve())


def _check_systems(suite: Suite) -> None:
    """Raise ValueError for what no system of that name can use: a share of a parent that it does
    not have, time steps or samplers of a system without any, a field of its Config that no network
    can be built or trained with, or that the suite's own ``time_steps`` would override."""
    for preset, content in suite.presets.items():
        for *path, problem in chain(_misplaced(content), _unusable(content)):
            raise ValueError(f"{suite.where('presets', preset, *path)}: {problem}")


def _misplaced(preset: Preset) -> Iterator[tuple[str, ...]]:
    """Field, system and problem of each value that a system cannot use."""
    for system, budget in preset.budgets.items():
        if budget.of_parent is not None and SYSTEMS[system].parent is None:
            yield "budgets", system, "of_parent: it is built from no other system"
    for system, parent in preset.parents.items():
        if problem := _problem_of_parent(preset, system, parent):
            yield "parents", system, problem
    for system in preset.system_time_steps:
        if SYSTEMS[system].time_axis == "none":
            yield "system_time_steps", system, "it has no spiking time steps"
    for system in preset.system_sampling:
        if not SYSTEMS[system].samplers:
            yield "system_sampling", system, "it is sampled by no sampler"


def _problem_of_parent(preset: Preset, system: str, parent: str) -> str | None:
    """Reason for which ``system`` cannot be built from ``parent``; None if it can. A legal parent
    is the usual one, or a system that is itself built from the usual one."""
    usual = SYSTEMS[system].parent
    if usual is None:
        return "it is built from no other system"
    line: list[str] = []
    above: str | None = parent
    while above is not None and above not in line:
        line.append(above)
        above = preset.parent_of(above)
    if above is not None or system in line:
        return "these systems are built from each other, in a circle"
    if usual not in line:
        return f"expected {usual}, or a system that is built from it, not {parent}"
    return None


def _unusable(preset: Preset) -> Iterator[tuple[str, ...]]:
    """Fields down to a value that no Config can have, and its problem."""
    configs: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("config", system), config) for system, config in preset.config.items()
    ]
    for system, variants in preset.variants.items():
        configs += [(("variants", system, name), config) for name, config in variants.items()]
    for place, config in configs:
        system = place[1]
        for field, value in config.items():
            problem = None
            values = value if isinstance(value, list) else [value]
            if field == "time_steps" and SYSTEMS[system].time_axis == "trained":
                problem = "give it as time_steps of the suite or the preset, which decide"
            if len(values) > LONGEST_LIST:
                problem = f"a list of {len(values):,}, expected at most {LONGEST_LIST}"
            for number in values:
                # No field of any Config has a meaning below 0.
                if isinstance(number, int | float) and not 0 <= number < math.inf:
                    problem = f"expected a finite number of at least 0, not {_brief(number)}"
                elif isinstance(number, int | float) and number > LARGEST_NUMBER:
                    problem = f"expected at most {LARGEST_NUMBER:,}, not {_brief(number)}"
            if problem:
                yield *place, field, problem


_EXPECTED = {
    "model_type": "expected a mapping",
    "dict_type": "expected a mapping",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected text",
}
"""Pydantic's error types in the words of YAML."""


def in_words(problem: ErrorDetails) -> str:
    """A problem that pydantic found, as an author of YAML would say it."""
    return _EXPECTED.get(problem["type"], problem["msg"].removeprefix("Value error, "))


_BRANCH = re.compile(r"\[key\]$|constrained-|literal\[|function-|nullable")


def _explain(problem: Any, root: yaml.Node | None, file: str) -> str:
    """One pydantic problem as "file, line N: field: what is wrong"."""
    # Pydantic names the branch of a union beside the fields.
    path = [part for part in problem["loc"] if not _BRANCH.match(str(part))]
    field = ".".join(map(str, path)) or "the file"
    message = in_words(problem)
    if problem["type"] == "extra_forbidden":
        message = "unknown field"
        legal = _fields_at(path[:-1])
        if legal:
            try:
                choose("field", str(path[-1]), legal)
            except ValueError as error:
                message = str(error)
    elif problem["type"] == "missing":
        message = "required, but missing"
    else:
        given = problem.get("input")
        if isinstance(given, str | int | float | bool) and repr(given) not in message:
            message += f", not {_brief(given)}"
    return f"{nodes.place_of(root, path, file)}: {field}: {message}"


def _brief(value: Any) -> str:
    """``repr``, cut to the length of a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}..."


def _fields_at(path: list[str | int]) -> list[str]:
    """Names of the fields that are legal at ``path``."""
    if not path:
        return ["extends", *Suite.model_fields]
    if path[0] == "presets" and len(path) == 2:
        return list(Preset.model_fields)
    if "sampling" in path or "system_sampling" in path:
        return list(SamplingChoice.model_fields)
    if "budget" in path or "budgets" in path:
        return list(Budget.model_fields)
    return []
