"""``sddpm-bench import``: a checkpoint of the published code as one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import complete, options


@click.command("import")
@click.argument("published", type=options.PATH, metavar="PUBLISHED.pt")
@click.option(
    "--out", required=True, type=options.PATH, metavar="DIR", help="New checkpoint folder."
)
@click.option("--time-steps", type=options.COUNT,
              help="Spiking time steps of the training. Only a file with TSM states them. "
              "[default: the file's, or 4]")  # fmt: skip
@click.option("--threshold", type=options.Positive(), default=1.0, metavar="X",
              help="Firing threshold of every neuron in the training. No file states it; the "
              "published code uses 1.")  # fmt: skip
@click.option("--image-size", type=options.COUNT, default=32, help="Side of an image in pixels.")
@click.option("--dataset", metavar="NAME", shell_complete=complete.datasets,
              help="Data set of the training, for evaluate.")  # fmt: skip
def import_(published: Path, out: Path, dataset: str | None, **facts: Any) -> None:
    """Turn a checkpoint of the published SDDPM code, or of SDM's TSM, into a checkpoint folder.

    No code in the file is run. The folder works with every other command.

    \b
    Examples:
      sddpm-bench import SDDPM_cifar10.pt --time-steps 4 --dataset cifar10 --out runs/published
      sddpm-bench import SDM_TSM_8T.pt --dataset cifar10 --out runs/published_tsm
      sddpm-bench sample --ckpt runs/published --grid out.png
    """
    from bench.data.datasets import find_spec
    from bench.registry import load_hook

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: is there already; give a new folder")
    if dataset is not None:
        find_spec(dataset)
    _, import_published = load_hook("import")
    parameters = import_published(published, out, dataset=dataset, **facts)
    click.echo(f"checkpoint: {out} ({parameters / 1e6:.2f} million parameters)")
