"""The native kernels' sources, and their compilation.

Used when a kernel is first needed and no built one suits, and by ``setup.py``, which builds those
of the wheel; so it imports neither torch nor anything that is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sddpm.kernels.processor import Level

HERE = Path(__file__).parent
SOURCES: dict[str, tuple[str, ...]] = {
    # A fused multiply-add would round a membrane differently from the torch formula.
    "neurons": ("-ffp-contract=off",),
    "lookup": ("-ffp-contract=off",),
    "winograd": ("-ffp-contract=fast",),
}
"""Name of each source (``NAME.cpp`` beside this file) and the flags that it alone needs."""
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_SECONDS = 300
"""The longest that a compiler may take."""


def source(name: str) -> Path:
    """The file of a source."""
    return HERE / f"{name}.cpp"


def fingerprint(name: str, *more: str) -> str:
    """16 hexadecimal digits that change with the source, its flags and ``more``."""
    key = hashlib.sha256(source(name).read_bytes())
    key.update("\0".join((*_FLAGS, *SOURCES[name], *more)).encode())
    return key.hexdigest()[:16]


def packaged_prefix(name: str, level: Level) -> str:
    """The first part of the file name of a kernel that the package carries for a level."""
    return f"{name}-{level.name}-{fingerprint(name, *level.flags)}"


def digest(content: bytes) -> str:
    """Digest of a built file's content, which is part of its name."""
    return hashlib.sha256(content).hexdigest()[:32]


def find_compiler() -> str | None:
    """Path of a C++ compiler: ``$CXX`` if it is set, else the first of the usual names."""
    # GCC first: what Clang makes of OpenMP asks for a runtime that torch may not have loaded.
    names = [os.environ.get("CXX"), "g++", "c++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def compile_kernel(compiler: str, name: str, flags: tuple[str, ...], folder: Path) -> Path:
    """Compile a source into ``folder``, which also holds the compiler's intermediate files.

    The library names no OpenMP runtime: it finds the functions in the one that torch has loaded,
    since a second runtime in a process would bring a second set of threads.

    Raises:
        OSError: there is no such compiler, or it failed; its first complaint is in the text.
        TimeoutError: it took too long.
    """
    object_file, library = folder / f"{name}.o", folder / f"{name}.so"
    compiling = (*_FLAGS, *SOURCES[name], *flags, "-c", str(source(name)), "-o", str(object_file))
    for arguments in (compiling, ("-shared", str(object_file), "-o", str(library))):
        _run([compiler, *arguments], folder)
    object_file.unlink()
    return library


def _run(command: list[str], folder: Path) -> None:
    """Run a compiler; it and all that it started end with this call, whatever ends it."""
    environment = {**os.environ, "TMPDIR": str(folder), "LC_ALL": "C"}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{command[0]} did not end in {_SECONDS} seconds") from error
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        complaints = [line for line in said.splitlines() if "error" in line.lower()]
        first = (complaints or said.splitlines() or ["no message"])[0]
        raise OSError(f"{command[0]} failed ({process.returncode}): {first}")


class _StoppedError(BaseException):
    """SIGTERM was received. A BaseException, so that no handler of errors catches it."""


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Let SIGTERM unwind the body first, so that no files remain, then end the process.

    A handler of the program itself stays, and so does the default outside the main thread.
    """
    stoppable = threading.current_thread() is threading.main_thread()
    if not stoppable or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        raise _StoppedError

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _StoppedError:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
