"""Imports go downwards only; modules load; no option is without a reader."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from bench.registry import SYSTEMS

ROOT = Path(__file__).parents[1]
FLOORS = ("sddpm", "baselines", "conversion", "bench")
FILES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]
NAMES = {module.removesuffix(".__init__") for module in MODULES}
# What the harness may know of the ground floor: protocols, files and the training loop.
BENCH_MAY = {
    "protocol", "layers", "rng", "training", "checkpoint", "configuration", "export", "samplers",
    "analytic", "guidance", "hardware", "manifolds", "opening", "precision", "progress",
    "replacing", "threads", "user_state", "version",
}  # fmt: skip

# The packages and modules of bench/, from the ground up: each imports from rows below its own only.
BENCH_FLOORS = (
    ("files", "machine", "registry", "data", "energy", "visible"),
    ("suites", "quality"),
    ("plan",),
    ("records", "checkpoints"),
    ("tables", "look"),
    ("run", "check", "report"),
    ("convert", "guide", "claims"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
BENCH_FLOOR = {name: number for number, row in enumerate(BENCH_FLOORS) for name in row}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or inside a function, `from a import b` as
    both ``a`` and ``a.b``."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_shared(module: str, target: str) -> bool:
    """Whether ``target`` is a part that several baselines are made of and ``module`` may use it:
    no system (no registry line leads to it), beside ``module`` or above it."""
    parts = target.split(".")
    while parts and ".".join(parts) not in NAMES:
        parts.pop()  # an attribute of a module
    home, system = ".".join(parts[:-1]), {entry.module for entry in SYSTEMS.values()}
    return ".".join(parts) not in system and f"{module}.".startswith(f"{home or '-'}.")


def offends(module: str, target: str) -> bool:
    """Whether ``module`` must not import ``target``."""
    floor, to = module.split(".")[0], target.split(".")
    if to[0] not in FLOORS or target in FLOORS:
        return to[0] in FLOORS and to[0] != floor and target != "sddpm"
    if floor == "sddpm":
        return to[0] != "sddpm"
    if floor in ("baselines", "conversion"):
        own = floor == "conversion" and to[0] == "conversion"
        own = own or (to[0] == floor == "baselines" and is_shared(module, target))
        return not own and (to[0] != "sddpm" or to[1] == "system")
    if to[0] == "sddpm":
        return to[1] not in BENCH_MAY
    own = module.removesuffix(".__init__").split(".")[1:2]
    if to[0] != "bench" or own == to[1:2]:
        return to[0] != "bench"
    return not own or BENCH_FLOOR[own[0]] <= BENCH_FLOOR[to[1]]


@pytest.mark.parametrize("path", FILES, ids=MODULES)
def test_imports_go_downwards(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    bad = [target for target in imported(path) if offends(module, target)]
    assert not bad, f"{module} imports {bad}"


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("sddpm.unet", "baselines.ddpm"),
        ("sddpm.unet", "bench"),
        ("baselines.gans.sgad", "baselines.vaes.fsvae"),
        ("conversion.convert", "baselines.spiking_layers"),
        ("baselines.gans.sgad", "baselines.gans.sgan"),
        ("baselines.gans.sgad", "baselines.fsddim.unet"),
        ("baselines.gans.sgad", "sddpm.system"),
        ("conversion.convert", "baselines.ann_twin"),
        ("bench.plan.cells", "baselines.ann_twin"),
        ("bench.plan.cells", "sddpm.system"),
        ("bench.plan.cells", "sddpm.neurons"),
        ("bench.plan.plan", "bench.run.states"),
        ("bench.checkpoints", "bench.run.settled"),
        ("bench.look.plots", "bench.guide.search"),
        ("bench.files", "bench.registry"),
        ("bench.commands.run", "bench.cli"),
    ],
)
def test_the_check_sees_a_wrong_edge(module: str, target: str) -> None:
    assert offends(module, target)


def test_every_part_of_bench_has_a_floor_and_no_package_stands_above_the_eighth() -> None:
    home = ROOT / "bench"
    packages = {path.parent.name for path in home.glob("*/__init__.py")}
    modules = {path.stem for path in home.glob("*.py")} - {"__init__"}
    assert packages | modules == BENCH_FLOOR.keys()
    assert max(BENCH_FLOOR[name] for name in packages) < 8


@pytest.mark.parametrize("module", MODULES)
def test_every_module_loads(module: str) -> None:
    import_module(module.removesuffix(".__init__"))


def test_only_the_command_line_knows_click() -> None:
    known = {m for p, m in zip(FILES, MODULES, strict=True) if "click" in imported(p)}
    outside = {m for m in known if m != "bench.cli" and not m.startswith("bench.commands.")}
    assert not outside, f"{outside}: only the commands know the command line"


def test_no_system_is_named_outside_the_registry() -> None:
    for path, module in zip(FILES, MODULES, strict=True):
        if module.startswith("bench.") and module != "bench.registry":
            constants = {
                node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)
            }
            named = {value for value in constants if isinstance(value, str)} & set(SYSTEMS)
            assert not named, f"{module} names {named}"


def test_no_test_imports_another() -> None:
    """What several tests share stands in tests/support."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        names = {part for target in imported(path) for part in target.split(".")}
        assert not {name for name in names if name.startswith("test_")}, path


def option_classes() -> list[type]:
    """Every class of options, but DiffusionConfig, which diffusers reads whole."""
    from bench.plan.plan import Options
    from sddpm.denoising import DenoiserTraining
    from sddpm.samplers import Sampling
    from sddpm.training import TrainConfig
    from sddpm.unet import UNetConfig

    systems = [import_module(entry.module).Config for entry in SYSTEMS.values()]
    others = [Options, DenoiserTraining, Sampling, TrainConfig, UNetConfig]
    return [*systems, *others]


@cache
def closure(module: str) -> frozenset[str]:
    """The module and, of our own, all that it imports."""
    seen, left = set(), [module]
    while left:
        name = left.pop()
        if name in MODULES and name not in seen:
            seen.add(name)
            left += imported(FILES[MODULES.index(name)])
    return frozenset(seen)


@cache
def read_attributes(module: str) -> set[str]:
    """Attributes that the module, or what it imports, reads from something that is called a
    configuration (or ``self``)."""
    names = set()
    for node in (node for name in closure(module) for node in ast.walk(source_tree(name))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            holder = node.value
            owner = holder.attr if isinstance(holder, ast.Attribute) else None
            owner = holder.id if isinstance(holder, ast.Name) else owner
            if owner and owner.lstrip("_").split("_")[-1] in {
                "config", "training", "sampling", "settings", "options", "self", "diffusion",
            }:  # fmt: skip
                names.add(node.attr)
    return names


def source_tree(module: str) -> ast.Module:
    return tree(FILES[MODULES.index(module)])


def documented(options: type) -> set[str]:
    """Fields of the class, its parents' included, with a string below them."""
    names = set()
    for base in options.__mro__:
        if base.__module__ not in MODULES:
            continue
        found = (n for n in ast.walk(source_tree(base.__module__)) if isinstance(n, ast.ClassDef))
        (body,) = (node.body for node in found if node.name == base.__name__)
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                assert isinstance(field.target, ast.Name)
                names.add(field.target.id)
    return names


# Where it is not the module of the class itself.
READERS = {
    "bench.plan.plan.Options": "bench.run.runner",
    "sddpm.samplers.Sampling": "sddpm.denoising",
}


@pytest.mark.parametrize("options", option_classes(), ids=lambda c: f"{c.__module__}.{c.__name__}")
def test_every_option_has_a_reader_and_a_description(options: type) -> None:
    assert is_dataclass(options)
    name = f"{options.__module__}.{options.__name__}"
    read = read_attributes(READERS.get(name, options.__module__))
    unread = [field.name for field in fields(options) if field.name not in read]
    assert not unread, f"{name}: nothing reads {unread}"
    missing = {field.name for field in fields(options)} - documented(options)
    assert not missing, f"{name}: no line below {sorted(missing)} says what it is"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["guide", "--help"],
        ["report", "--help"],
        ["list", "systems"],
        ["list", "suites"],
    ],
)
def test_help_and_lists_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom bench.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_tables_import_no_torch() -> None:
    code = "import sys, bench.check.compare, bench.tables.table; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
