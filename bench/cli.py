"""The command line: the group, and the commands on a suite. Click is known here and in
:mod:`bench.commands.checkpoint` and :mod:`bench.commands.convert` (on a checkpoint),
:mod:`bench.commands.check` (on tables), :mod:`bench.commands.report` (on runs) and
:mod:`bench.commands.options` alone; only here ends a process.

Library code raises ValueError, OSError or KeyError with one sentence; here it becomes one line
on standard error and an exit code: 2 for bad input, 1 for a failure, 130 for an interrupt.
Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import click

from bench.commands import check as check_commands
from bench.commands import checkpoint as commands
from bench.commands import convert as convert_commands
from bench.commands import options
from bench.commands import report as report_commands
from bench.commands.checkpoint import command_line
from bench.commands.listing import LISTS
from bench.commands.terminal import (
    FAILURE,
    INTERRUPTED,
    exit_code,
    one_line,
    print_configuration,
    print_estimate,
    print_result,
    print_states,
    print_table,
)
from sddpm.version import __version__


class Group(click.Group):
    """Turns exceptions of library code into one line; ``--debug`` lets them through. Takes no
    empty words: they are unset variables of a shell, and would silently mean every system, or the
    current folder."""

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


@click.group(
    cls=Group,
    commands=(
        *commands.COMMANDS,
        *convert_commands.COMMANDS,
        *check_commands.COMMANDS,
        *report_commands.COMMANDS,
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="sddpm-bench")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Spiking diffusion models, their ANN twins and prior spiking generators, measured by one
    harness: sample quality and energy in one table.

    \b
    Start here (8x8 digits, no download, 10 to 30 minutes on two cores):
      sddpm-bench run --suite digits
    What there is:
      sddpm-bench list systems
      sddpm-bench list suites
    One stage by itself:
      sddpm-bench sample --ckpt CHECKPOINT --num 64 --grid out.png
    A better firing threshold, and a look inside:
      sddpm-bench guide --ckpt CHECKPOINT
      sddpm-bench show --ckpt CHECKPOINT --out figures
    From a trained ANN to a spiking network:
      sddpm-bench convert --ann CHECKPOINT --out converted
    A page of figures from finished runs, and a regression check:
      sddpm-bench report runs/digits-small --out report
      sddpm-bench check --baseline OLD/table.csv --candidate NEW/table.csv
    """


@main.command()
@options.suite
@click.option("--system", "systems", multiple=True, callback=options.split_names, metavar="NAMES",
              help="Instead of the suite's.")  # fmt: skip
@click.option("--time-steps", type=options.Numbers(1), help="Instead of the suite's, e.g. 4,8.")
@click.option("--sampler", "samplers", multiple=True, callback=options.split_names,
              metavar="NAME[:STEPS[:ETA]],...", help="Instead of the suite's.")  # fmt: skip
@options.data_root
@click.option("--out", type=options.PATH, metavar="DIR", help="[default: runs/SUITE-PRESET]")
@click.option("--seed", "seeds", type=options.Numbers(0), default="0", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "32-true", "bf16-mixed"]),
              help="Of training, instead of the suite's; auto is what this machine does fast, so "
              "seeds made on several machines want one named.")  # fmt: skip
@options.devices
@options.extractor
@options.energy_table
@click.option("--checkpoint-seconds", type=options.Finite(0), metavar="SECONDS",
              help="Most training that a kill can lose. [default: 120]")  # fmt: skip
@options.workers
@click.option("--dry-run", is_flag=True, help="Show the cells and their state; do nothing.")
@click.option("--estimate", is_flag=True,
              help="With --dry-run: measure a few steps of each network, and show operations and "
              "hours that are left on this device.")  # fmt: skip
@click.pass_context
def run(
    ctx: click.Context,
    device: Any,
    devices: int,
    nodes: int,
    workers: str | None,
    worker_cpus: int,
    worker_gpus: float,
    dry_run: bool,
    estimate: bool,
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
      sddpm-bench run --suite cifar10 --preset medium --dry-run --estimate
      sddpm-bench run --suite cifar10 --preset medium --device cuda --workers ray
      sddpm-bench run --suite cifar10 --preset medium --workers ray:10.0.0.1:6379 --out SHARED
    """
    from bench.plan.plan import Options, make_plan

    # An option that was not given keeps the default that Options states.
    given = {name: value for name, value in given.items() if value is not None}
    if estimate and not dry_run:
        raise click.UsageError("--estimate: give it with --dry-run")
    if workers is None:
        options.refuse(ctx, ("worker_cpus", "worker_gpus"), "give it with --workers")
    plan = make_plan(Options(**given, command=command_line(ctx)), read_data=not dry_run)
    if plan.cells and all(cell.time_steps is None for cell in plan.cells):
        options.refuse(ctx, ("time_steps",), "no chosen system has spiking time; leave it out")
    if plan.cells and all(cell.sampling is None for cell in plan.cells):
        options.refuse(ctx, ("samplers",), "no chosen system denoises; leave it out")
    if dry_run:
        print_configuration(plan)
        if estimate:
            from bench.machine import Machine
            from bench.run.estimate import estimate_plan

            print_estimate(estimate_plan(plan, Machine(device)))
        else:
            print_states(plan)
        return

    from bench.machine import Machine
    from bench.run.runner import Runner

    spread = None
    if workers is not None:
        from bench.run.workers import Needs, on_ray, parse_workers

        if devices * nodes > 1:
            raise click.UsageError(
                "--workers: a task takes one device; leave out --devices, --nodes"
            )
        needs = Needs(worker_cpus, worker_gpus)
        spread = on_ray(parse_workers(workers), device, needs)
        device = "cpu"  # the driver trains nothing

    def show(error: BaseException) -> None:
        if ctx.find_root().params["debug"]:
            traceback.print_exception(error)

    machine = Machine(device, devices, nodes)
    if machine.first:
        print_configuration(plan)
        if spread is None:
            click.echo(f"device: {machine.name}, {machine.cores} cores", err=True)
    runner = Runner(
        plan,
        machine,
        say=lambda line: click.echo(line, err=True),
        on_failure=show,
    )
    result = runner.run(spread)
    if machine.first:
        print_result(result)
    if result.failed:
        ctx.exit(FAILURE)


@main.command()
@options.suite
@click.option("--system", required=True, metavar="NAME")
@click.option("--time-steps", type=options.COUNT, help="Instead of the suite's first.")
@options.data_root
@click.option(
    "--out", required=True, type=options.PATH, metavar="DIR", help="Receives checkpoint/."
)
@options.seed
@options.devices
@click.pass_context
def train(
    ctx: click.Context,
    system: str,
    time_steps: int | None,
    out: Path,
    seed: int,
    device: Any,
    devices: int,
    nodes: int,
    **given: Any,
) -> None:
    """Train one system as a suite says, and leave its checkpoint in OUT/checkpoint.

    A killed training goes on where it stopped; a system's parents are trained in OUT/parents.

    \b
    Example:
      sddpm-bench train --suite digits --system sddpm --time-steps 4 --out runs/mine
    """
    from bench.registry import find

    axis = find(system).time_axis
    if axis == "none":
        options.refuse(ctx, ("time_steps",), f"{system} has no spiking time; leave it out")
    if axis == "free":
        options.refuse(
            ctx, ("time_steps",),
            f"one checkpoint of {system} serves every number of time steps; give it to sample, "
            "evaluate or energy",
        )  # fmt: skip
    from bench.files import lock_folder
    from bench.machine import Machine
    from bench.plan.plan import Options, load_split, make_plan
    from bench.run import stages

    chosen = () if time_steps is None else (time_steps,)
    plan = make_plan(Options(systems=(system,), time_steps=chosen, seeds=(seed,), out=out, **given))
    images = load_split(plan, "train")
    machine = Machine(device, devices, nodes)
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out, machine.first):
        checkpoint = stages.train_chain(plan.cells[0].training, out, images, machine)
    if machine.first:
        click.echo(f"checkpoint: {checkpoint}")


@main.command("list")
@click.argument("what", type=click.Choice(list(LISTS)))
def list_(what: str) -> None:
    """Show what there is: systems, suites, datasets or samplers."""
    headings, *rows = LISTS[what]()
    print_table(headings, rows)


if __name__ == "__main__":
    sys.exit(main())
