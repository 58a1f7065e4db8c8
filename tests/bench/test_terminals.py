"""The command line in terminals, pipes and shells as they are: few letters, a closed end, a tab."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.commands.streams import Output, spell
from tests.support.calling import call

ROOT = Path(__file__).parents[2]


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "list", "systems"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=120) == 0


def test_ascii_terminals_get_ascii() -> None:
    result = CliRunner(charset="ascii").invoke(main, ["list", "systems"])
    assert result.exit_code == 0
    text = result.stdout_bytes.decode("ascii")
    assert "sddpm_tsm" in text
    assert "time steps" in text


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("0.5 ± 0.1, −3 × 10⁻²", "ascii", "0.5 +/- 0.1, -3 x 10-2"),
        ("0.5 ± 0.1", "latin-1", "0.5 ± 0.1"),
        ("0.5 ± 0.1", "utf-8", "0.5 ± 0.1"),
        ("Müller, 雪", "ascii", "Muller, ?"),
        ("a name in no encoding: \udc80", "utf-8", "a name in no encoding: ?"),
    ],
)
def test_letters_that_a_terminal_lacks_are_spelled(text: str, encoding: str, shown: str) -> None:
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding=encoding, newline=""))
    assert output.write(text) == len(text)
    output.flush()
    assert raw.getvalue().decode(encoding) == shown
    assert spell(text, encoding) == shown


def offered(words: str) -> list[str]:
    """What Bash is offered for the last word of a command line."""
    arguments = ["sddpm-bench", *words.split()]
    asked = {
        "_SDDPM_BENCH_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(arguments),
        "COMP_CWORD": str(len(arguments) - 1),
    }
    answer = CliRunner().invoke(main, prog_name="sddpm-bench", env=asked)
    return [line.removeprefix("plain,") for line in answer.output.split()]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("run --suite lsu", ["lsun_bedroom"]),
        ("run --suite ./my", ["file,./my"]),
        ("run --suite digits --preset sm", ["smoke", "small"]),
        ("run --suite absent --preset sm", []),
        ("run --suite digits --system vae,sddpm_ts", ["vae,sddpm_tsm"]),
        ("train --system fsv", ["fsvae"]),
        ("sample --ckpt fash", ["fashion-mnist", "fashion-mnist-plus"]),
        ("sample --ckpt ./fash", ["dir,./fash"]),
        ("sample --sampler analytic_dd", ["analytic_ddpm", "analytic_ddim"]),
        ("convert --dataset cifar10", ["cifar10"]),
    ],
)
def test_the_shell_completes_names(words: str, names: list[str]) -> None:
    assert offered(words) == names


def test_one_number_is_asked_for_in_words(tmp_path: Path) -> None:
    result = call("sample", "--ckpt", tmp_path, "--grid", tmp_path / "g.png", "--seed", "0,1,2")
    assert result.exit_code == 2
    assert "--seed" in result.stderr
    assert "'0,1,2': expected one whole number of at least 0" in result.stderr
