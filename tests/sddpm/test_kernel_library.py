"""What is compiled, kept, refused and chosen of the native kernels."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sddpm.kernels import build, library, processor
from sddpm.kernels.store import RefusedError, Store

STRANGER = 4711
ZEN3 = frozenset(["sse2", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"])
SKYLAKE_SERVER = ZEN3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
SAPPHIRE_RAPIDS = SKYLAKE_SERVER | frozenset(["avx512_vnni", "avx512_bf16", "amx_int8"])


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No switch, an empty cache folder, and nothing loaded before."""
    monkeypatch.delenv("SDDPM_KERNELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for cached in (library.load, library._say_once):
        cached.cache_clear()
    yield
    for cached in (library.load, library._say_once):
        cached.cache_clear()


@pytest.fixture
def compiler() -> str:
    found = build.find_compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: str) -> Path:
    """A source of one function, in the place of the real ones; leaves a file when it is loaded."""
    folder, mark = tmp_path / "sources", tmp_path / "loaded"
    folder.mkdir()
    (folder / "small.cpp").write_text(
        "#include <cstdio>\n"
        'extern "C" int answer() { return 42; }\n'
        f'__attribute__((constructor)) static void mark() {{ fclose(fopen("{mark}", "w")); }}\n'
    )
    monkeypatch.setattr(build, "HERE", folder)
    for name in list(build.SOURCES):
        monkeypatch.delitem(build.SOURCES, name)
    monkeypatch.setitem(build.SOURCES, "small", ())
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "no package")
    return mark


def built() -> list[Path]:
    return list(library.cache_folder().iterdir())


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it another user's."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, STRANGER)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)


def test_a_kernel_is_compiled_once_into_a_folder_of_the_user_alone(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0)
    try:
        loaded = library.load("small")
    finally:
        os.umask(before)
    assert loaded is not None
    assert loaded.answer() == 42
    folder = library.cache_folder()
    for path in (folder, folder.parent, *folder.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    monkeypatch.setattr(library, "compile_kernel", None)  # would fail if it were called
    library.load.cache_clear()
    assert library.load("small") is not None


@pytest.mark.parametrize("kept", [0, 1, 5000, -1])
def test_a_damaged_kernel_is_not_loaded_but_built_again(small: Path, kept: int) -> None:
    """Loading one that is cut short would end the process with a bus error."""
    assert library.load("small") is not None
    small.unlink()
    (path,) = built()
    content = path.read_bytes()
    path.unlink()  # a new file: the old one is mapped into this process
    path.write_bytes(content[:kept])
    path.chmod(0o700)
    assert Store(library.cache_folder()).load(path.name.rsplit("-", 1)[0]) is None
    assert not small.exists()
    library.load.cache_clear()
    assert library.load("small") is not None
    assert [path.read_bytes() for path in built()] == [content]


@pytest.mark.parametrize("what", ["folder", "file"])
@pytest.mark.parametrize("how", ["owner", "mode", "link"])
def test_what_others_could_have_planted_is_refused_in_one_line(
    small: Path,
    what: str,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert library.load("small") is not None
    small.unlink()
    (file,) = built()
    path = file if what == "file" else file.parent
    if how == "owner":
        give_away(path, monkeypatch)
    elif how == "mode":
        path.chmod(0o777)
    elif what == "file":
        target = path.rename(path.parents[2] / "elsewhere")
        path.symlink_to(target)
    else:
        path.rename(path.with_name("elsewhere")).chmod(0o777)
        path.symlink_to(path.with_name("elsewhere"))
    library.load.cache_clear()
    caplog.clear()
    assert library.load("small") is None
    assert not small.exists(), "its constructor ran"
    (record,) = caplog.records
    assert "torch operators are used" in record.message
    assert str(file.parent) in record.message
    assert "\n" not in record.message


def test_a_packaged_kernel_is_as_safe_as_the_program(tmp_path: Path) -> None:
    """In a folder that a group may write, pip installs the Python files so as well."""
    program, folder = tmp_path / "program.py", tmp_path / "built"
    program.touch(0o664)
    program.chmod(0o664)
    folder.mkdir()
    folder.chmod(0o775)
    store = Store(folder, like=program)
    assert store.load("anything") is None
    folder.chmod(0o777)
    with pytest.raises(RefusedError, match="others can write it"):
        store.load("anything")


def test_a_kernel_of_the_package_is_taken_first_and_not_compiled(
    small: Path,
    compiler: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(processor, "features", lambda: SKYLAKE_SERVER)
    package = tmp_path / "built"
    package.mkdir()
    monkeypatch.setattr(library, "PACKAGED", package)
    (v3,) = (level for level in processor.LEVELS if level.name == "x86-64-v3")
    content = build.compile_kernel(compiler, "small", (), tmp_path).read_bytes()
    path = package / f"{build.packaged_prefix('small', v3)}-{build.digest(content)}.so"
    path.write_bytes(content)
    assert (library.choose().way, library.choose().level) == ("packaged", "x86-64-v3")
    assert library.load("small") is not None
    assert not library.cache_folder().exists()
    # A changed source: the package's kernel is of another one.
    build.source("small").write_text('extern "C" int answer() { return 43; }')
    assert library.choose().way == "compiled"


def test_a_compilation_stopped_by_sigterm_leaves_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "compiling"
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ > {mark}.new; mv {mark}.new {mark}; sleep 60\n")
    slow.chmod(0o700)
    script = "from sddpm.kernels.library import load; load('neurons')"
    environment = {**os.environ, "CXX": str(slow), "SDDPM_KERNELS": "build"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        for _ in range(600):
            if mark.exists():
                break
            time.sleep(0.1)
        compiling = int(mark.read_text())
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert built() == []
    with pytest.raises(ProcessLookupError):
        os.kill(compiling, 0)


def test_a_killed_compilation_is_swept_by_a_later_one(small: Path) -> None:
    left = library.cache_folder() / "building-1"
    left.mkdir(parents=True, mode=0o700)
    (left / "part.o").touch()
    long_ago = time.time() - 7200
    os.utime(left, (long_ago, long_ago))
    for folder in (left.parent, left.parents[1]):
        folder.chmod(0o700)
    assert library.load("small") is not None
    assert len(built()) == 1


def test_without_a_compiler_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "PACKAGED", tmp_path)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [library.load(name) for name in build.SOURCES] == [None] * len(build.SOURCES)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "install g++" in record.message


def test_switched_off_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SDDPM_KERNELS", "0")
    assert library.load("neurons") is None
    assert library.choose().why == "SDDPM_KERNELS=0"
    assert not caplog.records


def test_a_failing_compiler_is_reported_and_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("SDDPM_KERNELS", "build")
    assert library.load("neurons") is None
    assert "could not be built" in caplog.text
    assert built() == []


@pytest.mark.parametrize(
    ("features", "asked", "levels", "kind"),
    [
        (ZEN3, "", ["x86-64-v3"], "AVX2"),
        (SKYLAKE_SERVER, "", ["x86-64-v4", "x86-64-v3"], "AVX-512"),
        (SKYLAKE_SERVER, "x86-64-v3", ["x86-64-v3"], "AVX2"),
        (
            SAPPHIRE_RAPIDS,
            "",
            ["x86-64-v4-vnni-bf16", "x86-64-v4", "x86-64-v3"],
            "AVX-512 with VNNI and bfloat16",
        ),
        (SAPPHIRE_RAPIDS, "x86-64-v4", ["x86-64-v4", "x86-64-v3"], "AVX-512"),
    ],
)
def test_the_level_is_the_most_that_processor_and_switch_allow(
    features: frozenset[str],
    asked: str,
    levels: list[str],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "features", lambda: features)
    monkeypatch.setenv("SDDPM_KERNELS", asked)
    assert [level.name for level in processor.usable_levels()] == levels
    assert processor.kind() == kind
    assert processor.allows("avx512_vnni") == (asked == "")


@pytest.mark.parametrize(
    ("value", "words"),
    [("off", "expected 0, build, x86-64-v4-vnni-bf16"), ("x86-64-v4", "lacks avx512bw, avx512cd")],
)
def test_a_switch_that_cannot_be_obeyed_is_an_error(
    value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "features", lambda: ZEN3)
    monkeypatch.setenv("SDDPM_KERNELS", value)
    with pytest.raises(ValueError, match=f"SDDPM_KERNELS={value}: .*{words}"):
        library.choose()


def test_kernels_use_the_openmp_runtime_of_torch(compiler: str) -> None:
    """A second runtime would bring a second set of threads."""
    script = (
        "import torch\n"
        "def runtimes():\n"
        "    return {x.split()[-1] for x in open('/proc/self/maps') if 'omp' in x}\n"
        "before = runtimes()\n"
        "from sddpm.kernels import neurons\n"
        "assert neurons.library() is not None\n"
        "neurons.fire(torch.ones(1 << 20), 4, neurons.Dynamics(0, 1.0, 1.0, 2.0))\n"
        "assert before and runtimes() == before, runtimes()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("XDG_CACHE_HOME")
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_the_library_of_the_process_names_no_openmp_runtime(small: Path) -> None:
    """By the dynamic section of what is built: the runtime is whichever torch has loaded."""
    assert library.load("small") is not None
    (path,) = built()
    assert isinstance(ctypes.CDLL(str(path)), ctypes.CDLL)
    assert b"libgomp" not in path.read_bytes()
