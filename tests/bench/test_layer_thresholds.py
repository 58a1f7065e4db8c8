"""Guidance of a network whose layers have thresholds of their own, as a converted one has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.checkpoints import Checkpoint
from bench.guide.search import grid_values
from bench.run.settled import CANDIDATES, guided_thresholds
from sddpm.guidance import GUIDANCE, read_thresholds, spiking_layers
from sddpm.protocol import ImageShape
from sddpm.system import Config, build

OWN = (0.5, 0.75, 1.25)
"""Thresholds of the layers, in turn; its config says 1 for all, as that of a conversion does."""


class Grey:
    """As many grey images as are asked for."""

    def __len__(self) -> int:
        return 4

    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.full((len(indices), 1, 8, 8), 200, dtype=torch.uint8)


@pytest.fixture
def system() -> Any:
    torch.manual_seed(0)
    system = build(Config(2, channels=8, multipliers=(1, 2), blocks=1), ImageShape(1, 8))
    for number, layer in enumerate(spiking_layers(system.generator).values()):
        layer.theta.fill_(OWN[number % len(OWN)])
    return system


def test_guided_sampling_moves_multiples_of_each_layers_own(system: Any, tmp_path: Path) -> None:
    before = read_thresholds(system.generator)
    checkpoint = Checkpoint(tmp_path, {"system": "sddpm", "config": {"time_steps": 2}})
    chosen = guided_thresholds(lambda: system, checkpoint, 2, Grey, lambda line: None)  # type: ignore[arg-type, return-value]
    assert isinstance(chosen, dict)
    assert chosen.keys() == before.keys()
    factors = {round(value / before[name], 6) for name, value in chosen.items()}
    assert len(factors) == 1, "the layers' thresholds keep their ratios"
    assert factors <= set(CANDIDATES)
    kept = json.loads((tmp_path / GUIDANCE).read_text())
    assert kept["thresholds"] == chosen
    # As trained is a candidate: of the same loss as the network that is compared with.
    assert [row["difference"] for row in kept["curve"]].count(0.0) >= 1
    assert read_thresholds(system.generator) == before


def test_a_grid_holds_multiples_of_each_layers_own(system: Any) -> None:
    before = read_thresholds(system.generator)
    (lower, higher) = grid_values(system, [1.1, 1.0, 0.9])
    for factor, setting in ((0.9, lower), (1.1, higher)):
        assert setting == {name: pytest.approx(factor * value) for name, value in before.items()}
    assert all(isinstance(setting, dict) for setting in grid_values(system))
