"""The command line: the only file with Click, and the only one that ends a process.

Library code raises ValueError, OSError or KeyError with one sentence; here it becomes one line
on standard error and an exit code: 2 for bad input, 1 for a failure, 130 for an interrupt.
Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bench.console import (
    FAILURE,
    INTERRUPTED,
    exit_code,
    one_line,
    print_configuration,
    print_outcome,
    print_pairs,
    print_states,
    print_table,
)
from bench.listing import LISTS
from sddpm.version import __version__


class Group(click.Group):
    """Turns exceptions of library code into one line; ``--debug`` lets them through."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Stopped; the same command goes on from here.", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"Error: {one_line(error)}", err=True)
            ctx.exit(exit_code(error))


class Numbers(click.ParamType):
    """Whole numbers of at least ``least``, separated by commas."""

    name = "N,N,..."

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < self.least:
            wanted = f"whole numbers of at least {self.least}, separated by commas"
            self.fail(f"{value!r}: expected {wanted}", param, ctx)
        return tuple(dict.fromkeys(numbers))


def _names(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Names separated by commas, of an option that may also be repeated."""
    names = (name.strip() for text in value for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


Command = Callable[..., Any]


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_PATH = click.Path(path_type=Path)
_DEVICE = click.Choice(["auto", "cpu", "cuda"])
_EXTRACTOR = click.Choice(["auto", "inception", "embedded"])
_POSITIVE = click.IntRange(1)

_suite = _options(
    click.option("--suite", required=True, metavar="NAME|FILE", help="Shipped, or a YAML file."),
    click.option("--preset", default="small", show_default=True, metavar="PRESET"),
)
_data_root = click.option(
    "--data-root", envvar="SDDPM_DATA_ROOT", metavar="DIR",
    help="Folder with a folder per data set; without it the Hub. [env: SDDPM_DATA_ROOT]",
)  # fmt: skip
_device = _options(
    click.option("--device", type=_DEVICE, default="auto", show_default=True),
    click.option("--devices", type=_POSITIVE, default=1, show_default=True, help="How many."),
)
_extractor = click.option(
    "--extractor", type=_EXTRACTOR, default="auto", show_default=True,
    help="auto: Inception-v3 where its weights can be had, else the embedded network.",
)  # fmt: skip
_energy_table = click.option(
    "--energy-table", metavar="NAME", help="Picojoules per operation. [default: 45 nm]"
)
_seed = click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
_checkpoint = click.option(
    "--ckpt", "checkpoint", required=True, type=_PATH, metavar="DIR",
    help="Checkpoint folder (config.json and model.safetensors).",
)  # fmt: skip
_how = _options(
    click.option(
        "--sampler", metavar="NAME[:STEPS[:ETA]]",
        help="For systems that denoise. [default: ddim:50:1]",
    ),
    click.option("--time-steps", type=_POSITIVE, help="Where not the checkpoint's."),
    _seed,
    click.option("--device", type=_DEVICE, default="auto", show_default=True),
)  # fmt: skip
_batch = click.option(
    "--batch", type=_POSITIVE, default=100, show_default=True, help="Images drawn at once."
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sddpm-bench")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Spiking diffusion models, their ANN twins and prior spiking generators, measured by one
    harness: sample quality and energy in one table.

    \b
    Start here (8x8 digits, no download, about ten minutes on two cores):
      sddpm-bench run --suite digits
    What there is:
      sddpm-bench list systems
      sddpm-bench list suites
    One stage by itself:
      sddpm-bench sample --ckpt CHECKPOINT --num 64 --grid out.png
    """


@main.command()
@_suite
@click.option("--system", "systems", multiple=True, callback=_names, metavar="NAME,...",
              help="Instead of the suite's.")  # fmt: skip
@click.option("--time-steps", type=Numbers(1), help="Instead of the suite's, e.g. 4,8.")
@click.option("--sampler", "samplers", multiple=True, callback=_names,
              metavar="NAME[:STEPS[:ETA]],...", help="Instead of the suite's.")  # fmt: skip
@_data_root
@click.option("--out", type=_PATH, metavar="DIR", help="[default: runs/SUITE-PRESET]")
@click.option("--seed", "seeds", type=Numbers(0), default="0", show_default=True)
@_device
@_extractor
@_energy_table
@click.option("--checkpoint-seconds", type=click.FloatRange(0), default=120.0, show_default=True,
              help="Most training that a kill can lose.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the cells and their state; do nothing.")
@click.pass_context
def run(
    ctx: click.Context,
    device: Any,
    devices: int,
    checkpoint_seconds: float,
    dry_run: bool,
    **given: Any,
) -> None:
    """Train, sample, score and measure every cell of a suite, then print the table.

    Cells are systems x time steps x samplers x seeds. What is done is not redone: a second run
    only fills gaps, and a killed one goes on where it stopped.

    \b
    Examples:
      sddpm-bench run --suite digits
      sddpm-bench run --suite cifar10 --preset smoke --data-root DATA
      sddpm-bench run --suite cifar10 --preset medium --device cuda --time-steps 4,8
      sddpm-bench run --suite fashion_mnist --system sddpm --sampler ddim:20 --seed 0,1,2
      sddpm-bench run --suite my_suite.yaml --dry-run
    """
    from bench.plan import Options, make_plan

    # An option that was not given keeps the default that Options states.
    given = {name: value for name, value in given.items() if value is not None}
    plan = make_plan(Options(**given, command=_command_line(ctx)), read_data=not dry_run)
    if dry_run:
        print_configuration(plan)
        print_states(plan)
        return

    from bench.machine import Machine
    from bench.run import Runner

    def show(error: BaseException) -> None:
        if ctx.find_root().params["debug"]:
            traceback.print_exception(error)

    machine = Machine(device, devices)
    if machine.first:
        print_configuration(plan)
        click.echo(f"device: {machine.name}, {machine.cores} cores", err=True)
    runner = Runner(
        plan,
        machine,
        say=lambda line: click.echo(line, err=True),
        on_failure=show,
        checkpoint_seconds=checkpoint_seconds,
    )
    outcome = runner.run()
    if machine.first:
        print_outcome(outcome)
    if outcome.failed:
        ctx.exit(FAILURE)


@main.command()
@_suite
@click.option("--system", required=True, metavar="NAME")
@click.option("--time-steps", type=_POSITIVE, help="Instead of the suite's first.")
@_data_root
@click.option("--out", required=True, type=_PATH, metavar="DIR", help="Receives checkpoint/.")
@_seed
@_device
def train(
    system: str,
    time_steps: int | None,
    out: Path,
    seed: int,
    device: Any,
    devices: int,
    **given: Any,
) -> None:
    """Train one system as a suite says, and leave its checkpoint in OUT/checkpoint.

    A killed training goes on where it stopped; a system's parents are trained in OUT/parents.

    \b
    Example:
      sddpm-bench train --suite digits --system sddpm --time-steps 4 --out runs/mine
    """
    from bench import stages
    from bench.machine import Machine
    from bench.plan import Options, load_split, make_plan

    chosen = () if time_steps is None else (time_steps,)
    plan = make_plan(Options(systems=(system,), time_steps=chosen, seeds=(seed,), out=out, **given))
    images = load_split(plan, "train")
    machine = Machine(device, devices)
    checkpoint = stages.train_chain(plan.cells[0].training, out, images, machine)
    if machine.first:
        click.echo(f"checkpoint: {checkpoint}")


@main.command()
@_checkpoint
@click.option("--num", type=_POSITIVE, default=64, show_default=True, help="Images.")
@click.option("--grid", type=_PATH, metavar="FILE.png", help="Where the sample grid goes.")
@click.option("--out", type=_PATH, metavar="FILE.npy", help="uint8 [num, channels, H, W].")
@_batch
@_how
def sample(checkpoint: Path, num: int, grid: Path | None, out: Path | None, **how: Any) -> None:
    """Draw images from a checkpoint.

    \b
    Examples:
      sddpm-bench sample --ckpt CHECKPOINT --num 64 --grid out.png
      sddpm-bench sample --ckpt CHECKPOINT --num 1000 --sampler ddim:20:1 --out samples.npy
    """
    if grid is None and out is None:
        raise click.UsageError("nothing to write: give --grid FILE.png, --out FILE.npy or both")
    from bench import stages
    from bench.grids import save_grid

    images = _draw(checkpoint, num, **how)
    if out is not None:
        stages.write_samples(images, out)
        click.echo(f"samples: {out}")
    if grid is not None:
        save_grid(images, grid)
        click.echo(f"grid: {grid}")


@main.command()
@_checkpoint
@click.option("--samples", type=_PATH, metavar="FILE.npy",
              help="Score these; without it, --num images are drawn.")  # fmt: skip
@click.option("--num", type=click.IntRange(10), default=1000, show_default=True, help="Images.")
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
@click.option("--references", type=click.IntRange(10), default=10000, show_default=True,
              help="Real images, at most.")  # fmt: skip
@_data_root
@_extractor
@_batch
@_how
def evaluate(
    checkpoint: Path,
    samples: Path | None,
    num: int,
    split: str,
    references: int,
    data_root: str | None,
    extractor: str,
    **how: Any,
) -> None:
    """Score images of a checkpoint against the data set that it was trained on.

    \b
    Examples:
      sddpm-bench evaluate --ckpt CHECKPOINT --num 1000
      sddpm-bench evaluate --ckpt CHECKPOINT --samples samples.npy --split test
    """
    import torch

    from bench import stages
    from bench.checkpoints import read_facts
    from bench.datasets import load
    from bench.extractors import choose_extractor
    from bench.machine import Machine

    facts = read_facts(checkpoint)
    size = facts["shape"]["size"]
    real = load(facts["dataset"], split, image_size=size, data_root=data_root, limit=references)
    chosen = choose_extractor(extractor)
    click.echo(f"extractor {chosen.key}: {chosen.reason}", err=True)
    images = stages.read_samples(samples) if samples else _draw(checkpoint, num, **how)
    machine = Machine(how["device"])
    scores = stages.score_images(torch.from_numpy(images), real, chosen, machine)
    against = f"{scores['references']} {split} images of {scores['reference']}"
    print_pairs({**scores["metrics"], "samples": len(images), "references": against})


@main.command()
@_checkpoint
@click.option("--num", type=_POSITIVE, default=4, show_default=True, help="Images.")
@_energy_table
@_how
def energy(checkpoint: Path, num: int, energy_table: str | None, **how: Any) -> None:
    """Count the operations of really drawing images, and price them.

    \b
    Example:
      sddpm-bench energy --ckpt CHECKPOINT --num 4 --sampler ddim:50
    """
    from bench import stages
    from bench.energy import DEFAULT_TABLE, TABLES
    from bench.measured import summarise_energy
    from bench.registry import choose

    table = choose("energy table", energy_table or DEFAULT_TABLE, TABLES)
    opened = _open(checkpoint, **how)
    print_pairs(summarise_energy(stages.count_operations(*opened, images=num), table))


@main.command("list")
@click.argument("what", type=click.Choice(list(LISTS)))
def list_(what: str) -> None:
    """Show what there is: systems, suites, datasets or samplers."""
    headings, *rows = LISTS[what]()
    print_table(headings, rows)


def _open(checkpoint: Path, **how: Any) -> tuple[Any, ...]:
    """System, machine, seed and sampling options, as the functions of bench.stages take them."""
    from bench.checkpoints import open_checkpoint
    from bench.machine import Machine

    machine = Machine(how["device"])
    system, sampling = open_checkpoint(checkpoint, machine, how["sampler"], how["time_steps"])
    return system, machine, how["seed"], sampling


def _draw(checkpoint: Path, num: int, batch: int, **how: Any) -> Any:
    from bench import stages

    return stages.draw(*_open(checkpoint, **how), count=num, batch=batch)


def _command_line(ctx: click.Context) -> str:
    """The command as it was given, in the options' own order."""
    words = ["sddpm-bench", str(ctx.info_name)]
    for param in ctx.command.params:
        name = param.name or ""
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE and name != "dry_run":
            value = ctx.params[name]
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [param.opts[0], text]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
