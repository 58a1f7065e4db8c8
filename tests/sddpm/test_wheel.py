"""The wheel as a user without a compiler gets it; minutes, so by `pytest -m wheel` alone."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from sddpm.kernels.build import SOURCES, find_compiler
from sddpm.kernels.processor import LEVELS, features

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.wheel,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() != "x86_64",
        reason="wheels carry kernels for Linux on x86-64 alone",
    ),
]
REPORT = """
import json, torch
from sddpm.kernels import library, neurons
choice = library.choose()
loaded = {name: library.load(name) is not None for name in library.SOURCES}
spikes, _ = neurons.fire(torch.ones(8), 4, neurons.Dynamics(0, 1.0, 1.0, 2.0))
print(json.dumps([choice.way, choice.level, loaded, spikes.tolist(), library.__file__]))
"""


def pip(*arguments: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        check=True,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the distribution that the kernels need, so that no build folder is left in
    the checkout."""
    folder = tmp_path_factory.mktemp("source")
    copied = subprocess.run(
        ["git", "ls-files", "setup.py", "pyproject.toml", "LICENSE", "README.md", "sddpm/*"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in copied.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def wheel(source: Path, into: Path, **environment: str) -> Path:
    arguments = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(into), str(source))
    pip("wheel", *arguments, **environment)
    (file,) = into.glob("*.whl")
    return file


def test_the_wheel_is_fast_where_there_is_no_compiler(source: Path, tmp_path: Path) -> None:
    if find_compiler() is None:
        pytest.skip("no C++ compiler to build the wheel with")
    file = wheel(source, tmp_path)
    assert file.name.endswith("-py3-none-linux_x86_64.whl")
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    pip("install", "--no-deps", "--target", str(installed), str(file))
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("CXX", "PYTHONPATH")},
        "PATH": str(empty),
        "XDG_CACHE_HOME": str(empty),
        "PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_path("purelib")]),
        "SDDPM_KERNELS": "",
    }
    ran = subprocess.run(
        [sys.executable, "-P", "-c", REPORT],
        env=environment, cwd=empty, capture_output=True, text=True, check=True,
    )  # fmt: skip
    way, level, loaded, spikes, where = json.loads(ran.stdout)
    assert where.startswith(str(installed))
    assert (way, level) == ("packaged", next(x.name for x in LEVELS if x.needs <= features()))
    assert loaded == dict.fromkeys(SOURCES, True)
    assert spikes == [1.0] * 8
    assert list(empty.iterdir()) == []
    assert ran.stderr == ""


def test_made_without_a_compiler_it_carries_the_sources(source: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = wheel(source, tmp_path, PATH=str(empty), CXX="")
    assert file.name.endswith("-py3-none-any.whl")
