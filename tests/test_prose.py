"""Docstrings of the four packages open with the thing that they describe."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BARE = re.compile(r"(What|Of|Where|Its|How|As|Which|Whose|Why)\b")
"""Openings without a subject: "Of the generator." in place of "Step size of the generator."."""


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings of modules, classes and functions, and those below a field: line and text."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        # The body of a lambda is one expression.
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text.strip()


def bare(source: str) -> list[int]:
    """Lines of the docstrings that open with a bare word."""
    return [line for line, text in strings(source) if BARE.match(text)]


@pytest.mark.parametrize("package", ["sddpm", "baselines", "conversion", "bench"])
def test_docstrings_say_their_subject(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        for line in bare(path.read_text(encoding="utf-8"))
    ]
    assert files
    assert not found, "open with a noun or a verb, not with What, Of, Where, ..."


def test_a_bare_docstring_is_seen() -> None:
    source = (
        '"""Where it is."""\n\n'
        "class A:\n"
        "    rate: float\n"
        '    """Of the generator."""\n'
        "    size: int\n"
        '    """Offset in pixels."""\n'
    )
    assert bare(source) == [1, 5]
