"""The command line as tests call it, inside this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from bench.cli import main


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def report(*arguments: object) -> Result:
    return call("report", *arguments)


def call_run(suite: Path, out: Path, *more: object) -> Result:
    return call("run", "--suite", suite, "--preset", "smoke", "--out", out, "--extractor",
                "embedded", "--device", "cpu", *more)  # fmt: skip


def refused(result: Result, *words: str, code: int = 2) -> str:
    """The one line of an error."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    for word in words:
        assert word in line, line
    return line
