"""What the command line tells about itself: lists, help, examples and defaults."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from bench.cli import main
from bench.commands.options import command_line
from bench.commands.run import run
from sddpm.kernels import library, processor
from sddpm.training import TrainConfig
from tests.support.calling import call


@pytest.mark.parametrize("what", ["systems", "suites", "datasets", "samplers"])
def test_lists(what: str) -> None:
    result = call("list", what)
    assert result.exit_code == 0
    expected = {"systems": "sddpm", "suites": "fashion_mnist", "datasets": "celeba",
                "samplers": "ddim"}  # fmt: skip
    assert expected[what] in result.stdout


def test_the_list_of_devices_says_which_kernels_run_and_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("SDDPM_KERNELS", "0")
    library.load.cache_clear()
    shown = call("list", "devices")
    library.load.cache_clear()
    assert shown.exit_code == 0
    assert re.search(r"kernels +none +SDDPM_KERNELS=0", shown.stdout)
    assert processor.kind() in shown.stdout
    monkeypatch.setenv("SDDPM_KERNELS", "fast")
    wrong = call("list", "devices")
    assert wrong.exit_code == 2
    assert "SDDPM_KERNELS=fast: expected 0, build, x86-64-v4" in wrong.stderr


def test_help_shows_examples() -> None:
    assert "sddpm-bench run --suite digits" in call("--help").stdout
    for command in ("run", "train", "sample", "evaluate", "energy", "guide", "import", "show"):
        assert f"  sddpm-bench {command} " in call(command, "--help").stdout


def test_help_shows_the_default_that_training_has() -> None:
    text = " ".join(call("run", "--help").stdout.split())
    words = text[text.index("--checkpoint-seconds") :]
    assert f"[default: {TrainConfig.checkpoint_seconds:g}]" in words.split(" --", 1)[0]


def options() -> Iterator[tuple[str, click.Option]]:
    """Every option of every command, with its name on the command line."""
    context = click.Context(main)

    def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Option]]:
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Option):
                yield f"{name} {parameter.opts[0]}", parameter
        for inner, below in getattr(command, "commands", {}).items():
            yield from walk(below, f"{name} {inner}")

    yield from walk(main, "sddpm-bench")


def test_every_option_has_a_help_text_of_its_own() -> None:
    found = dict(options())
    assert {"sddpm-bench --debug", "sddpm-bench run --seed", "sddpm-bench score --split"} < set(
        found
    )
    # A default and the name of a variable teach nothing.
    texts = {name: re.sub(r"\[.*?\]", "", option.help or "") for name, option in found.items()}
    assert not [name for name, text in texts.items() if len(text.split()) < 3]


def test_the_recorded_command_can_be_typed_again() -> None:
    given = ["--suite", "digits", "--system", "sddpm,ddpm", "--variant", "a, b", "--variant", "own"]
    with run.make_context("run", list(given)) as ctx:
        assert shlex.split(command_line(ctx)) == ["sddpm-bench", "run", *given]
