"""What the figures of a report share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bench.registry import SYSTEMS
from bench.report.style import looks


def test_no_two_systems_are_drawn_alike() -> None:
    report: Any = SimpleNamespace(systems=[*SYSTEMS])
    found = looks(report)
    assert len(found) == len(SYSTEMS) > 10
    assert len(set(found.values())) == len(SYSTEMS)
