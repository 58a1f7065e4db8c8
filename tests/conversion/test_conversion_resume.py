"""A calibration that is killed goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from baselines import ann_twin
from conversion.convert import build, config_of
from conversion.methods import METHODS
from sddpm.checkpoint import MODEL
from sddpm.denoising import Denoiser
from sddpm.protocol import ImageShape
from sddpm.training import TrainConfig, fit
from tests.support.images import GeneratedImages

SHAPE = ImageShape(1, 8)
BATCHES = 4


class KilledError(Exception):
    pass


class KilledImages(GeneratedImages):
    """Ends the run at its third batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def __getitems__(self, indices: list[int]) -> Tensor:
        self.batches += 1
        if self.batches > 2:
            raise KilledError
        return super().__getitems__(indices)


@pytest.fixture
def twin() -> Denoiser:
    """A ReLU twin with channels that never are active, which is where thresholds are lent."""
    torch.manual_seed(0)
    config = ann_twin.Config(channels=8, multipliers=(1, 2), blocks=1, ema_decay=0.0)
    system = ann_twin.build(config, SHAPE)
    with torch.no_grad():
        for name, parameter in system.net.named_parameters():
            if name.endswith("bn1.bias"):
                parameter[::3] = -9.0
    return system.eval()


def calibrated(twin: Denoiser, method: str, images: GeneratedImages, folder: Path) -> Path:
    child = build(
        config_of(twin, time_steps=4, method=method, calibration_steps=BATCHES), SHAPE, twin
    )
    training = TrainConfig(BATCHES, 8, checkpoint_seconds=0)
    fit(child, images, config=training, folder=folder, description={}, progress=False)
    return folder / "checkpoint" / MODEL


@pytest.mark.parametrize("method", [name for name, found in METHODS.items() if found.statistic])
def test_a_killed_calibration_ends_in_the_same_thresholds(
    method: str, twin: Denoiser, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        calibrated(twin, method, KilledImages(), tmp_path / "killed")
    assert list((tmp_path / "killed" / "steps").iterdir())
    resumed = load_file(calibrated(twin, method, GeneratedImages(), tmp_path / "killed"))
    whole = load_file(calibrated(twin, method, GeneratedImages(), tmp_path / "whole"))
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
