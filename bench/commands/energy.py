"""``sddpm-bench energy``: operations and energy of a checkpoint's images."""

from __future__ import annotations

from typing import Any

import click

from bench.commands import options
from bench.commands.terminal import print_pairs, say


@click.command()
@options.checkpoint
@click.option("--num", type=options.COUNT, default=4, help="Number of images.")
@options.energy_table
@options.how
def energy(checkpoint: str, num: int, energy_table: str | None, **how: Any) -> None:
    """Count the operations while images are drawn, and compute the energy in every accounting.

    The accountings are: as published, strict, with memory, in integers. docs/energy.md states the
    assumptions of each.

    \b
    Example:
      sddpm-bench energy --ckpt CHECKPOINT --num 4 --sampler ddim:50
    """
    from bench.checkpoints import Checkpoint
    from bench.energy.prices import DEFAULT_TABLE, TABLES
    from bench.records.make import summarise_energy
    from bench.registry import choose
    from bench.run.drawing import DrawOptions, open_to_draw

    table = choose("energy table", energy_table or DEFAULT_TABLE, TABLES)
    drawing = open_to_draw(Checkpoint.find(checkpoint), DrawOptions(**how), say)
    print_pairs(summarise_energy(drawing.count_operations(num), table))
