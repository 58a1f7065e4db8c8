"""Suites: what a run compares, as YAML validated by pydantic.

A suite names one data set, the systems, their time steps and samplers, and up to four
presets, which fix the budget. Nothing here imports torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from bench.registry import SYSTEMS, choose

PresetName = Literal["smoke", "small", "medium", "paper"]
FEWEST_IMAGES = 10
"""Images that can be scored, of either kind (:data:`bench.quality.fidelity.MIN_IMAGES`)."""
MOST_SAMPLES = 1_000_000
"""Image seeds that belong to one run's seed (:data:`sddpm.rng.SEEDS_PER_RUN`)."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _system(name: str) -> str:
    return choose("system", name, SYSTEMS)


def _sampler(name: str) -> str:
    # Imported late: only a suite that names samplers needs their table.
    from sddpm.samplers import SAMPLERS

    return choose("sampler", name, SAMPLERS)


def _dataset(name: str) -> str:
    from bench.data.datasets import find_spec

    find_spec(name)
    return name


SystemName = Annotated[str, AfterValidator(_system)]
SamplerName = Annotated[str, AfterValidator(_sampler)]
DatasetName = Annotated[str, AfterValidator(_dataset)]
TimeSteps = Annotated[int, Field(ge=1)]


class SamplingChoice(_Strict):
    """One sampler at one number of steps."""

    sampler: SamplerName
    steps: int = Field(ge=1, description="network evaluations per image")
    eta: float = Field(0.0, ge=0, le=1, description="DDIM's noise: 0 none, 1 ancestral")
    threshold: Annotated[float, Field(gt=0)] | Literal["guided"] | None = None
    """Firing threshold while sampling, or the one that guidance chooses."""
    engine: Literal["plain", "exact", "fast"] = "exact"
    """How the network runs while sampling."""

    @model_validator(mode="after")
    def _legal(self) -> SamplingChoice:
        from sddpm.samplers import Sampling

        Sampling(self.sampler, self.steps, self.eta)  # raises for an eta that nothing reads
        return self


def _expand(choices: Any) -> Any:
    """Every combination of a choice's lists: ``{sampler: [ddpm, ddim], steps: [10, 50]}`` is
    four choices."""
    if not isinstance(choices, list):
        return choices

    def combinations(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
        values = [value if isinstance(value, list) else [value] for value in choice.values()]
        return (dict(zip(choice, chosen, strict=True)) for chosen in product(*values))

    return [
        single
        for choice in choices
        for single in (combinations(choice) if isinstance(choice, dict) else [choice])
    ]


Samplings = Annotated[list[SamplingChoice], BeforeValidator(_expand), Field(min_length=1)]
"""A field given as a list is swept."""


class Budget(_Strict):
    """How long a system trains. Exactly one of ``train_steps`` and ``train_images``."""

    train_steps: int | None = Field(None, ge=0)
    train_images: int | None = Field(None, ge=1, description="images seen, repeats counted")
    batch_size: int = Field(32, ge=1)
    precision: Literal["32-true", "bf16-mixed", "auto"] = "32-true"
    """``auto`` is bf16-mixed where the machine multiplies bfloat16 natively, else 32-true."""

    @model_validator(mode="after")
    def _one_length(self) -> Budget:
        if (self.train_steps is None) == (self.train_images is None):
            raise ValueError("expected one of train_steps and train_images")
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps; a last partial batch counts as one."""
        if self.train_steps is not None:
            return self.train_steps
        assert self.train_images is not None
        return -(-self.train_images // self.batch_size)


class Preset(_Strict):
    """One size of the comparison."""

    budget: Budget
    budgets: dict[SystemName, Budget] = Field(
        default_factory=dict, description="systems that train on another budget than the rest"
    )
    samples: int = Field(
        ge=FEWEST_IMAGES, le=MOST_SAMPLES, description="images drawn and scored per cell"
    )
    sample_batch: int = Field(100, ge=1, description="images drawn at once, and saved at once")
    references: int = Field(
        ge=FEWEST_IMAGES, description="real images they are scored against, at most"
    )
    energy_images: int = Field(ge=1, description="images drawn while operations are counted")
    systems: list[SystemName] | None = Field(None, min_length=1)
    time_steps: list[TimeSteps] | None = Field(None, min_length=1)
    sampling: Samplings | None = None
    config: dict[SystemName, dict[str, Any]] = Field(
        default_factory=dict, description="fields of a system's Config that differ from its preset"
    )


class Suite(_Strict):
    """What a run compares."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    title: str
    dataset: DatasetName
    image_size: int = Field(ge=4)
    reference_split: Literal["train", "test"] = "train"
    systems: list[SystemName] = Field(min_length=1)
    time_steps: list[TimeSteps] = Field(min_length=1)
    sampling: Samplings
    presets: dict[PresetName, Preset] = Field(min_length=1)

    _source: tuple[str, yaml.Node | None] = PrivateAttr(default=("suite", None))

    def where(self, *path: str | int) -> str:
        """File, line and field of what stands at ``path``, for error messages."""
        file, root = self._source
        line = f", line {_line_of(root, list(path))}" if root is not None else ""
        return f"{file}{line}: {'.'.join(map(str, path))}"


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
    shipped = shipped_suites()
    if name in shipped:
        return parse_suite(shipped[name].read_text(encoding="utf-8"), f"suite {name}")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        choose("suite", name, [*shipped, "a path to a .yaml file"])
    if not path.is_file():
        raise FileNotFoundError(f"--suite {name}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not a text file in UTF-8 ({error.reason})") from error
    return parse_suite(text, name)


def read_outline(file: Traversable) -> dict[str, Any]:
    """A suite's content unchecked: checking its names would import torch."""
    content: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    return content


def parse_suite(text: str, file: str) -> Suite:
    """Validate the text of a suite; ``file`` is its name in error messages."""
    root, content = _read(text, file)
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        # A field that is misspelt is missing besides: the misspelling explains more.
        found = sorted(error.errors(), key=lambda problem: problem["type"] == "missing")
        problems = [_explain(problem, root, file) for problem in found]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(problems[0] + more) from error
    suite._source = (file, root)
    _check_configs(suite)
    return suite


def _read(text: str, file: str) -> tuple[yaml.Node | None, Any]:
    """A text's nodes, which know their lines, and its content."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        _check_nodes(root, file)
        return root, _construct(text, file)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise ValueError(f"{file}, line {line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ValueError(f"{file}: lists or mappings stand too deep inside each other") from error


def _construct(text: str, file: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, LookupError, AttributeError) as error:
        # A date in a month 13, or text that is no number under a tag that says so.
        raise ValueError(f"{file}: not YAML: a value does not fit its kind ({error})") from error


def _check_configs(suite: Suite) -> None:
    """Raise ValueError for a field of a system's Config that no network can be built or trained
    with, or that the suite's own ``time_steps`` would override."""
    for preset, content in suite.presets.items():
        for system, config in content.config.items():
            for field, value in config.items():
                problem = None
                if field == "time_steps" and SYSTEMS[system].time_axis == "trained":
                    problem = "give it as time_steps of the suite or the preset, which decide"
                for number in value if isinstance(value, list) else [value]:
                    # No field of any Config has a meaning below 0.
                    if isinstance(number, int | float) and not 0 <= number < math.inf:
                        problem = f"expected a finite number of at least 0, not {number!r}"
                if problem:
                    where = suite.where("presets", preset, "config", system, field)
                    raise ValueError(f"{where}: {problem}")


_EXPECTED = {
    "model_type": "expected a mapping",
    "dict_type": "expected a mapping",
    "list_type": "expected a list",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected text",
}
"""Pydantic's error types in the words of YAML."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: without this, ``2e-4`` is a string."""


_Loader.yaml_implicit_resolvers = dict(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _explain(problem: Any, root: yaml.Node | None, file: str) -> str:
    """One pydantic problem as "file, line N: field: what is wrong"."""
    path = [part for part in problem["loc"] if part != "[key]"]
    line = _line_of(root, path)
    field = ".".join(map(str, path)) or "the file"
    message = _EXPECTED.get(problem["type"], problem["msg"].removeprefix("Value error, "))
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
            message += f", not {given!r}"
    return f"{file}, line {line}: {field}: {message}"


def _fields_at(path: list[str | int]) -> list[str]:
    """Names of the fields that are legal at ``path``."""
    if not path:
        return list(Suite.model_fields)
    if path[0] == "presets" and len(path) == 2:
        return list(Preset.model_fields)
    if "sampling" in path:
        return list(SamplingChoice.model_fields)
    if "budget" in path or "budgets" in path:
        return list(Budget.model_fields)
    return []


def _line_of(root: yaml.Node | None, path: list[str | int]) -> int:
    """Line, from 1, of the deepest node on ``path`` that the file has."""
    node, line = root, 1
    for part in path:
        child = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    child, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            # A sweep has more choices than entries.
            child = node.value[min(part, len(node.value) - 1)]
            line = child.start_mark.line + 1
        if child is None:
            break
        node = child
    return line


def _check_nodes(node: yaml.Node | None, file: str, above: tuple[yaml.Node, ...] = ()) -> None:
    """Raise ValueError for what YAML allows and no suite can mean: a key given twice, of which
    the last would be kept in silence, one that is no text, an alias inside what it names."""
    if node is None:
        return

    def refuse(at: yaml.Node, problem: str) -> NoReturn:
        raise ValueError(f"{file}, line {at.start_mark.line + 1}: {problem}")

    if node in above:
        refuse(node, "what stands here holds itself, by an alias")
    inside = (*above, node)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                refuse(key, "a list or a mapping as a key: expected text")
            if key.value in seen:
                refuse(key, f"{key.value}: given twice")
            seen.add(key.value)
            _check_nodes(value, file, inside)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_nodes(value, file, inside)
