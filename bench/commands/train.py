"""``sddpm-bench train``: one system, as a suite trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import complete, options


@click.command()
@options.suite
@click.option("--system", required=True, metavar="NAME", shell_complete=complete.systems,
              help="System to train; see sddpm-bench list systems.")  # fmt: skip
@click.option(
    "--time-steps", type=options.COUNT, help="Spiking time steps. [default: the suite's first]"
)
@options.budget
@options.data_root
@click.option(
    "--out", required=True, type=options.PATH, metavar="DIR", help="Folder for checkpoint/."
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
    """Train one system with a suite's settings, and write its checkpoint to OUT/checkpoint.

    The same command continues a stopped training. Parents are trained in OUT/parents.

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
            ctx,
            ("time_steps",),
            f"one checkpoint of {system} serves every number of time steps; give it to sample, "
            "evaluate or energy",
        )
    from bench.files import lock_folder
    from bench.machine import Machine
    from bench.plan.plan import Options, load_split, make_plan
    from bench.run import stages
    from bench.run.buildable import check_plan

    chosen = () if time_steps is None else (time_steps,)
    # An option that was not given keeps the default that Options states.
    given = {name: value for name, value in given.items() if value is not None}
    plan = make_plan(Options(systems=(system,), time_steps=chosen, seeds=(seed,), out=out, **given))
    check_plan(plan)
    images = load_split(plan, "train")
    machine = Machine(device, devices, nodes)
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out, machine.first):
        checkpoint = stages.train_chain(plan.cells[0].training, out, images, machine)
    if machine.first:
        click.echo(f"checkpoint: {checkpoint}")
