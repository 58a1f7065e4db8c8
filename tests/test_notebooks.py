"""The notebooks run from top to bottom, at a small size, and their stored outputs are clean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results/notebooks"
NAMES = ("first_tour", "plotting", "conversion")
SMALL: dict[str, dict[str, Any]] = {
    "first_tour": {"TRAIN_STEPS": 10, "SAMPLING_STEPS": 9, "IMAGES": 8},
    "plotting": {
        "RECORDS": str(ROOT / "results/demo/records.jsonl"),
        "PUBLISHED": str(ROOT / "bench/published.csv"),
        "SEVERAL": str(ROOT / "results/fashion_mnist_ablation/records.jsonl"),
    },
    "conversion": {
        "TRAIN_STEPS": 10, "TIME_STEPS": (1, 4), "CALIBRATION_IMAGES": 32, "HELD_OUT": 4,
        "IMAGES": 1, "SAMPLING_STEPS": 3,
    },
}  # fmt: skip
TRAINS = ("first_tour", "conversion")
PLACES = re.compile(r"(?<![\w.])/(home|root|tmp|work|usr|opt|Users|var|mnt)/|site-packages")


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def parameters(notebook: Any) -> Any:
    """The one cell that is tagged so; its assignments are what a run may change."""
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    return cell


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES) == set(SMALL)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, tmp_path: Path) -> None:
    notebook = read(name)
    cell = parameters(notebook)
    values = SMALL[name] | ({"FOLDER": str(tmp_path / "training")} if name in TRAINS else {})
    for key, value in values.items():
        cell.source, found = re.subn(
            rf"^{key} = .*$", lambda _, line=f"{key} = {value!r}": line, cell.source, flags=re.M
        )
        assert found == 1, f"{name} has no parameter {key}"
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # raises where a cell does
    assert pictures(notebook) == pictures(read(name))


def pictures(notebook: Any) -> int:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_show_figures_and_no_machine(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert pictures(notebook) >= 4
    for cell in code:
        for output in cell.outputs:
            assert output.get("name") != "stderr", output
            assert output.output_type != "error"
            shown = {k: v for k, v in output.get("data", {}).items() if k != "image/png"}
            assert not PLACES.search(str(shown) + output.get("text", "")), cell.source
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1_000_000
