"""What is measured of a checkpoint stands beside its weights, never inside the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sddpm
from bench.run.settled import gamma_of
from sddpm.checkpoint import shipped_checkpoints
from sddpm.guidance import GUIDANCE, Guided, read_guided
from sddpm.protocol import ImageShape
from sddpm.system import Config, build
from sddpm.user_state import state_folder

SHIPPED = shipped_checkpoints()["fashion-mnist"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_users_checkpoint_keeps_its_own(home: Path, tmp_path: Path) -> None:
    assert state_folder(tmp_path) == tmp_path


def test_a_shipped_checkpoints_state_is_the_users(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in SHIPPED.rglob("*")}
    folder = state_folder(SHIPPED)
    assert folder.parent == home / "sddpm-bench"
    assert folder.name.startswith("fashion-mnist-")
    own = 4
    assert read_guided(SHIPPED, own, own) == Guided()
    folder.mkdir(parents=True)
    (folder / GUIDANCE).write_text(json.dumps({"thresholds": 0.9, "time_steps": own}))
    assert read_guided(SHIPPED, own, own) == Guided(0.9)
    assert sddpm.SDDPM.from_pretrained("fashion-mnist").guided.thresholds == 0.9
    assert {path: path.stat().st_mtime_ns for path in SHIPPED.rglob("*")} == before


class Grey:
    """As many grey images as are asked for."""

    def __len__(self) -> int:
        return 2

    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        return torch.full((len(indices), 1, 8, 8), 200, dtype=torch.uint8)


def measure(folder: Path, said: list[str]) -> torch.Tensor:
    torch.manual_seed(0)
    config = Config(1, channels=8, multipliers=(1, 2), blocks=1, diffusion_steps=3)
    model = build(config, ImageShape(1, 8)).eval()
    return gamma_of(model, folder, 1, Grey, None, said.append)  # type: ignore[arg-type]


def test_statistics_that_cannot_be_written_are_used_all_the_same(tmp_path: Path) -> None:
    written: list[str] = []
    kept = measure(tmp_path, written)
    (path,) = tmp_path.glob("gamma-*.safetensors")
    assert not any("warning" in line for line in written)
    # Nothing can take the place of a folder, whoever the user is.
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    said: list[str] = []
    assert torch.allclose(measure(tmp_path, said), kept)
    assert "warning" in said[-1]
    assert path.name in said[-1]
