"""``sddpm-bench show``: what goes on inside a checkpoint, as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.terminal import print_table, say


@click.command()
@options.checkpoint
@click.option("--out", required=True, type=options.PATH, metavar="DIR",
              help="Folder for the plots and firing_rates.csv.")  # fmt: skip
@click.option("--layer", metavar="NAME", help="Layer of the raster. [default: the first]")
@click.option("--images", type=options.COUNT, default=4, help="Number of images that are drawn.")
@click.option("--format", "kind", type=click.Choice(["png", "pdf", "svg"]), default="png",
              help="File format of the plots.")  # fmt: skip
@options.how
def show(checkpoint: str, out: Path, layer: str | None, images: int, kind: str, **how: Any) -> None:
    """Look inside a checkpoint: firing rates by layer, a spike raster, the denoising chain, the
    training curve and, where the system has them, the temporal scales p[s].

    \b
    Examples:
      sddpm-bench show --ckpt CHECKPOINT --out figures
      sddpm-bench show --ckpt CHECKPOINT --out figures --layer middle.0.act2 --format pdf
    """
    from bench.checkpoints import Checkpoint
    from bench.files import check_folder
    from bench.look.show import draw_everything
    from bench.run.drawing import DrawOptions, open_to_draw

    check_folder("--out", out)
    opened = Checkpoint.find(checkpoint)
    drawing = open_to_draw(opened, DrawOptions(**how), say)
    seen = draw_everything(
        opened, drawing.system, drawing.sampling, out, drawing.seed, images, layer, kind
    )
    if seen.rates:
        print_table(seen.headings, seen.rates)
    for path in seen.files:
        click.echo(f"wrote: {path}")
    for reason in seen.left_out:
        say(f"left out: {reason}")
