"""Builds the native kernels into the wheel; everything else is in pyproject.toml.

A wheel made on an x86-64 Linux with a C++ compiler (GCC 11 or later) carries kernels for every
level of :data:`sddpm.kernels.processor.LEVELS`, and its name says so. Made elsewhere it carries
the sources alone, for any system. An editable install never carries built kernels.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))

from sddpm.kernels.build import SOURCES, compile_kernel, digest, find_compiler, packaged_prefix
from sddpm.kernels.processor import LEVELS, Level


class BuildKernels(build_py):
    """Compiles the kernels behind the copying of the Python files."""

    def run(self) -> None:
        super().run()
        if self.editable_mode or not _can_build():
            return
        folder = Path(self.build_lib) / "sddpm" / "kernels" / "built"
        shutil.rmtree(folder, ignore_errors=True)  # of sources that have changed since
        folder.mkdir()
        for level in LEVELS:
            for name in SOURCES:
                self._build(name, level, folder)

    def _build(self, name: str, level: Level, folder: Path) -> None:
        compiler = find_compiler()
        with tempfile.TemporaryDirectory() as place:
            try:
                built = compile_kernel(compiler, name, level.flags, Path(place))
            except OSError as error:
                self.warn(f"the wheel goes without {name} for {level.name}: {error}")
                return
            content = built.read_bytes()
        path = folder / f"{packaged_prefix(name, level)}-{digest(content)}.so"
        path.write_bytes(content)
        path.chmod(0o755)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        built = Path(self.build_lib).glob("sddpm/kernels/built/*.so")
        return [*super().get_outputs(include_bytecode), *map(str, built)]


class Wheel(bdist_wheel):
    """Named for the platform if it carries kernels, and for any Python: they do not call it."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, system = super().get_tag()
        return (python, abi, system) if self.root_is_pure else ("py3", "none", system)


class Carrier(Distribution):
    """A distribution for one platform, where kernels can be built, though it has no extension
    modules."""

    def has_ext_modules(self) -> bool:
        return super().has_ext_modules() or _can_build()


def _can_build() -> bool:
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    return linux and find_compiler() is not None


setup(distclass=Carrier, cmdclass={"build_py": BuildKernels, "bdist_wheel": Wheel})
