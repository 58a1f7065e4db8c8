"""``sddpm-bench run``: a suite, from training to the table."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import click

from bench.commands import complete, options, terminal


@click.command()
@options.suite
@click.option("--system", "systems", multiple=True, callback=options.split_names, metavar="NAMES",
              shell_complete=complete.systems,
              help="Systems, in place of the suite's.")  # fmt: skip
@click.option("--variant", "variants", multiple=True, metavar="NAME",
              help="Only this variant of the suite's systems; repeat it for several. 'own' is a "
              "system's own row. [default: all]")  # fmt: skip
@click.option(
    "--time-steps",
    type=options.numbers(1),
    help="Spiking time steps, in place of the suite's, e.g. 4,8.",
)
@click.option("--sampler", "samplers", multiple=True, callback=options.split_names,
              metavar="NAME[:STEPS[:ETA]],...", shell_complete=complete.samplers,
              help="Samplers, in place of the suite's.")  # fmt: skip
@options.data_root
@click.option(
    "--out",
    type=options.PATH,
    metavar="DIR",
    help="Folder of the run. The same folder continues it. [default: runs/SUITE-PRESET]",
)
@click.option("--seed", "seeds", type=options.numbers(0, options.MOST_SEED), default="0",
              help="Seeds, each a training and a row of its own. With several, e.g. 0,1,2, the "
              "table shows mean and standard deviation.")  # fmt: skip
@options.budget
@click.option(
    "--precision",
    type=click.Choice(["auto", "32-true", "bf16-mixed"]),
    help="Precision of the training, in place of the suite's. auto is the "
    "precision that this machine computes fast. For seeds from "
    "several machines, name one.",
)
@options.devices
@options.extractor
@options.energy_table
@click.option("--checkpoint-seconds", type=options.Finite(0), metavar="SECONDS",
              help="Seconds of training between two checkpoints, which is the most that a killed "
              "run loses. [default: 120]")  # fmt: skip
@options.workers
@click.option("--dry-run", is_flag=True, help="Show the cells and their state, and run nothing.")
@click.option(
    "--estimate",
    is_flag=True,
    help="With --dry-run: time a few steps of each network, and show the "
    "operations and the remaining hours on this device.",
)
@click.pass_context
def run(
    ctx: click.Context,
    device: Any,
    devices: int,
    nodes: int,
    workers: str | None,
    worker_cpus: int,
    worker_gpus: float,
    ray_folder: Path | None,
    dry_run: bool,
    estimate: bool,
    **given: Any,
) -> None:
    """Train, sample, score and measure every cell of a suite, then print the table.

    A cell is one system with one number of time steps, one sampler and one seed. Finished work is
    reused: the same command continues a stopped run and makes only the missing cells. run.json in
    --out holds every setting. --dry-run shows the settings, and whether the cells can be made.

    \b
    Examples:
      sddpm-bench run --suite digits
      sddpm-bench run --suite cifar10 --preset smoke --data-root DATA
      sddpm-bench run --suite cifar10 --preset medium --device cuda --time-steps 4,8
      sddpm-bench run --suite fashion_mnist --system sddpm --sampler ddim:20 --seed 0,1,2
      sddpm-bench run --suite digits --preset converged --system ann_twin --budget 2
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
        options.refuse(ctx, ("worker_cpus", "worker_gpus", "ray_folder"), "give it with --workers")
    else:
        from bench.run.workers import parse_workers

        if devices * nodes > 1:
            raise click.UsageError(
                "--workers: a task takes one device; leave out --devices, --nodes"
            )
        address = parse_workers(workers)
        if address != "local":
            options.refuse(ctx, ("ray_folder",), f"the cluster at {address} has its own")
    plan = make_plan(Options(**given, command=options.command_line(ctx)), read_data=not dry_run)
    for note in plan.notes:
        terminal.say(note)
    if plan.cells and all(cell.time_steps is None for cell in plan.cells):
        options.refuse(ctx, ("time_steps",), "no chosen system has spiking time; leave it out")
    if plan.cells and all(cell.sampling is None for cell in plan.cells):
        options.refuse(ctx, ("samplers",), "no chosen system denoises; leave it out")
    from bench.run.ready import check_ready

    check_ready(plan)
    if dry_run:
        from bench.run.buildable import check_plan

        check_plan(plan)
        terminal.print_configuration(plan)
        if estimate:
            from bench.machine import Machine
            from bench.run.estimate import estimate_plan

            terminal.print_estimate(estimate_plan(plan, Machine(device)))
        else:
            terminal.print_states(plan)
            if workers is None:  # a cluster has its own devices
                _tell_absent(device, devices)
        return

    from bench.machine import Machine
    from bench.run.runner import Runner

    spread = None
    if workers is not None:
        from bench.run.workers import Needs, on_ray

        needs = Needs(worker_cpus, worker_gpus)
        spread = on_ray(address, device, needs, folder=ray_folder)
        device = "cpu"  # the driver trains nothing

    def show(error: BaseException) -> None:
        if ctx.find_root().params["debug"]:
            traceback.print_exception(error)

    machine = Machine(device, devices, nodes)
    if machine.first:
        terminal.print_summary(plan)
        if spread is None:
            terminal.say(f"device: {machine.name}, {machine.cores} cores")
    runner = Runner(plan, machine, say=terminal.say, on_failure=show)
    result = runner.run(spread)
    if machine.first:
        terminal.print_result(result)
    if result.failed:
        ctx.exit(terminal.FAILURE)


def _tell_absent(device: Any, devices: int) -> None:
    """Say that this machine lacks the devices of a plan, which another machine may run."""
    from bench.machine import check_devices

    try:
        check_devices(device, devices)
    except ValueError as error:
        terminal.say(f"on this machine the run would stop: {error}")
