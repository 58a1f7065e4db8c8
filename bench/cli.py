"""The command line: the group of commands, ``--debug``, and the exit codes.

Each command is one file of :mod:`bench.commands`; a new one is its file and its place in the list
below. Library code raises ValueError, OSError or KeyError with one sentence; here it becomes one
line on standard error and an exit code: 2 for bad input, 1 for a failure, 130 for an interrupt.
The commands import everything heavy when they are called.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from bench.commands.check import check
from bench.commands.check_records import check_records
from bench.commands.claims import claims
from bench.commands.convert import convert
from bench.commands.energy import energy
from bench.commands.evaluate import evaluate
from bench.commands.export import export
from bench.commands.export_references import export_references
from bench.commands.guide import guide
from bench.commands.import_published import import_
from bench.commands.list import list_
from bench.commands.report import report
from bench.commands.run import run
from bench.commands.sample import sample
from bench.commands.score import score
from bench.commands.show import show
from bench.commands.streams import forgiving_streams
from bench.commands.terminal import INTERRUPTED, exit_code, one_line
from bench.commands.train import train
from bench.visible import shortened
from sddpm.version import __version__

COMMANDS = (
    run, train, list_, sample, evaluate, score, export_references, energy, guide, import_, show,
    convert, export, check, check_records, report, claims,
)  # fmt: skip

COMPLETION = "_SDDPM_BENCH_COMPLETE"
"""Variable through which a shell asks for completions; Click names it after the command."""
RESUMABLE = {command.name for command in (run, train, guide, convert)}
"""Commands that, stopped and given again, go on where they were."""


class Group(click.Group):
    """Turns exceptions of library code into one line; ``--debug`` lets them through. Takes no
    empty words: they are unset variables of a shell, and would silently mean every system, or the
    current folder."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        if COMPLETION in os.environ:  # answers in bytes, to a shell
            return super().main(*arguments, **options)
        with forgiving_streams():
            return super().main(*arguments, **options)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, words = super().resolve_command(ctx, args)
        for before, word in zip(["", *words], words, strict=False):
            option, sign, value = word.partition("=") if word[:2] == "--" else (before, "=", word)
            if sign and not value:
                place = option if option.startswith("-") else "an argument"
                raise click.UsageError(f"{place}: came out empty; give a value or leave it out")
        return name, command, words

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise click.UsageError(shortened(error.format_message()), error.ctx) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            resumes = ctx.invoked_subcommand in RESUMABLE
            then = "goes on from here" if resumes else "starts anew"
            click.echo(f"Stopped; the same command {then}.", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"Error: {one_line(error)}", err=True)
            ctx.exit(exit_code(error))


@click.group(
    cls=Group,
    commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="sddpm-bench")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Compare spiking diffusion models with their ANN twins and older spiking generators.

    All are trained on the same images, and one table shows sample quality and energy.

    \b
    Start here (8x8 digits, no download, 10 to 30 minutes on two cores):
      sddpm-bench run --suite digits
    Systems and suites:
      sddpm-bench list systems
      sddpm-bench list suites
    Images from a checkpoint:
      sddpm-bench sample --ckpt CHECKPOINT --num 64 --grid out.png
    Pictures of your own, scored:
      sddpm-bench score FOLDER --dataset cifar10
    A better firing threshold, and plots of the activity:
      sddpm-bench guide --ckpt CHECKPOINT
      sddpm-bench show --ckpt CHECKPOINT --out figures
    From a trained ANN to a spiking network:
      sddpm-bench convert --ann CHECKPOINT --out converted
    The spiking parts for neuromorphic hardware:
      sddpm-bench export --ckpt CHECKPOINT --out model.nir
    A report on finished runs, and a regression check:
      sddpm-bench report runs/digits-small --out report
      sddpm-bench check --baseline OLD/table.csv --candidate NEW/table.csv
    The claims of the literature, against the records:
      sddpm-bench claims results --out claims.md
    """


if __name__ == "__main__":
    sys.exit(main())
