"""uv.lock is of this pyproject.toml, and holds files of the public registry alone."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())


def wanted() -> set[tuple[str, str, str, frozenset[str]]]:
    """Name, extra, versions and the name's own extras of every requirement in pyproject.toml."""
    groups = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    found = set()
    for extra, lines in groups.items():
        for line in lines:
            need = Requirement(line)
            name = canonicalize_name(need.name)
            found.add((name, extra, str(need.specifier), frozenset(need.extras)))
    return found


def locked(facts: dict[str, Any]) -> tuple[str, str, str, frozenset[str]]:
    extra = re.search(r"extra == '(\w+)'", facts.get("marker", ""))
    versions = Requirement(f"a{facts.get('specifier', '')}").specifier
    extras = frozenset(facts.get("extras", ()))
    return facts["name"], extra[1] if extra else "", str(versions), extras


def test_the_lock_is_of_these_requirements() -> None:
    (own,) = (package for package in LOCK["package"] if package["name"] == "sddpm-bench")
    found = {locked(facts) for facts in own["metadata"]["requires-dist"]}
    assert found == wanted(), "run `uv lock`"


def test_the_lock_names_the_public_registry_alone() -> None:
    text = (ROOT / "uv.lock").read_text()
    assert set(re.findall(r"https?://[^/\"]+", text)) == {
        "https://pypi.org", "https://files.pythonhosted.org",
    }  # fmt: skip


def test_the_constraints_name_every_package_of_the_extras() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    needed = {name for name, extra, _, _ in wanted() if extra != "docs"}
    assert needed - {"sddpm-bench"} <= pinned
