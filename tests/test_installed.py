"""The wheel as a user installs it: complete, typed, and at work where no checkout is.

The tests take minutes, so they run by `pytest -m wheel` alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sddpm", "baselines", "conversion", "bench")
pytestmark = [pytest.mark.wheel, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that $SDDPM_WHEEL names, else one that is built outside the checkout."""
    if given := os.environ.get("SDDPM_WHEEL"):
        return Path(given)
    source, dist = (tmp_path_factory.mktemp(name) for name in ("source", "dist"))
    names = ["setup.py", "pyproject.toml", "LICENSE", "README.md", *PACKAGES]
    listed = subprocess.run(
        ["git", "ls-files", *names], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", dist, source)
    (file,) = dist.glob("*.whl")
    return file


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *map(str, arguments)], check=True)


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(listed.stdout.splitlines()) <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert not any(name.startswith(("tests/", "results/", "benchmarks/")) for name in names)


def test_it_samples_and_runs_a_suite_where_no_checkout_is(wheel: Path, tmp_path: Path) -> None:
    installed, home = tmp_path / "installed", tmp_path / "home"
    home.mkdir()
    pip("install", "--no-deps", "--target", installed, wheel)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "SDDPM_DATA_ROOT"},
        "PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_path("purelib")]),
        "XDG_CACHE_HOME": str(home / "cache"),
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "bench", *arguments]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "--extractor-weights" in run("score", "--help")
    run("sample", "--ckpt", "fashion-mnist", "--num", "4", "--sampler", "ddim:4:1", "--out", "out")
    assert len(list((home / "out").glob("*.png"))) == 4
    run("run", "--suite", "digits", "--preset", "smoke", "--extractor", "embedded", "--device",
        "cpu", "--system", "sddpm,pixel_gaussian", "--out", "run")  # fmt: skip
    run("check-records", "run/records.jsonl")
    assert (home / "run" / "table.md").is_file()
