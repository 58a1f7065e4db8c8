"""Results stand under hashes: a move of code, or a rewritten suite file, must not change one.

``tests/golden/hashes.json`` holds the hash of every cell and training of every shipped suite and
preset. A hash that changes on purpose makes the committed results of that cell stale: then run
this file as a program to write the hashes anew, and say in the commit which changed and why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.data.datasets import find_spec
from bench.plan.cells import Cell, Data, expand
from bench.suites.reading import load_suite, shipped_suites

GOLDEN = Path(__file__).parents[1] / "golden" / "hashes.json"


def cells_of(suite_name: str, preset: str) -> list[Cell]:
    """The cells of a shipped suite, at the precision of a machine with bfloat16 (``auto``)."""
    suite = load_suite(suite_name)
    spec = find_spec(suite.dataset)
    data = Data(
        suite.dataset,
        spec.name,
        spec.channels or 3,
        suite.image_size,
        spec.horizontal_flip,
        spec.train_images,
        spec.manifold,
    )
    return expand(suite, preset, data)


def hashes() -> dict[str, Any]:
    """Suite/preset -> its cells' names and its trainings' names with their whole hashes."""
    found: dict[str, Any] = {}
    for name in sorted(shipped_suites()):
        for preset in load_suite(name).presets:
            cells = cells_of(name, preset)
            trainings = {}
            for cell in cells:
                training = cell.training
                while training is not None:
                    trainings[training.name] = training.hash
                    training = training.parent
            found[f"{name}/{preset}"] = {
                "cells": {cell.label: cell.hash for cell in cells},
                "trainings": trainings,
            }
    return found


def test_no_hash_of_a_shipped_suite_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.plan.cells.fast_precision", lambda: "bf16-mixed")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    now = hashes()
    assert set(now) == set(golden)
    for key in golden:
        assert now[key] == golden[key], key


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.plan.cells.fast_precision", lambda: "bf16-mixed")
        GOLDEN.write_text(json.dumps(hashes(), indent=1) + "\n", encoding="utf-8")
