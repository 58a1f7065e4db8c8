"""``sddpm-bench guide``: the firing threshold and the output's gain with the best samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.terminal import print_table, say


@click.command()
@options.checkpoint
@click.option("--values", type=options.POSITIVES,
              help="Thresholds to try. If each layer has its own threshold, multiples of it. "
              "[default: 0.97 to 1.03 of the trained ones; with --gains, none]")  # fmt: skip
@click.option("--gains", type=options.POSITIVES,
              help="Gains to try: factors of the network's output at every step. "
              "[default: 0.96 to 1.25; with --values, none]")  # fmt: skip
@click.option("--method", type=click.Choice(["grid", "loss", "gradient", "match", "best"]),
              default="best",
              help="Method of the choice. grid: the scores of the images, for a threshold, a gain, "
              "and the best of both together. loss: the held-out loss, for one threshold. "
              "gradient: the gradient of that loss, for one threshold in each layer. match: "
              "contrast and noise of a few images, for a gain. best: the method with the best "
              "score.")  # fmt: skip
@click.option(
    "--samples", type=options.Whole(10), default=1000, help="Images drawn for each setting."
)
@click.option("--held-out", type=options.Whole(2), default=512,
              help="Largest number of test images for the loss.")  # fmt: skip
@click.option("--bootstrap", type=options.Whole(0), default=20,
              help="Resamplings for the confidence interval.")  # fmt: skip
@click.option("--confirm/--no-confirm", default=True,
              help="Draw images at the chosen settings again, from other noise.")  # fmt: skip
@click.option(
    "--keep",
    is_flag=True,
    help="Store the chosen setting even if it is not measurably better than the trained one.",
)
@options.references
@options.sampler
@options.engine
@options.extractor
@options.batch
@options.seed
@options.data_root
@options.device
@click.option("--out", type=options.PATH, metavar="DIR",
              help="Folder for report, plot and intermediate results. [default: the checkpoint's "
              "folder; for a shipped checkpoint, a folder of the user]")  # fmt: skip
@click.pass_context
def guide(ctx: click.Context, checkpoint: str, out: Path | None, **given: Any) -> None:
    """Find the firing threshold and the gain with the best samples, and store them with the
    checkpoint.

    The gain multiplies the network's output at every step. The search draws images from the same
    noise at every setting. It prints the difference from the trained setting with a confidence
    interval. Gains whose images saturate cannot win, because a distance of features keeps falling
    with them.

    guidance.json goes beside the weights (for a shipped checkpoint, to
    ~/.local/state/sddpm-bench). It holds the setting to use, which is the trained one if no other
    is better. If the interval includes 0, the file is written only with --keep. sample, evaluate,
    show, energy and export use that file; run does where a suite says `guided`. guidance.md,
    guidance.csv and guidance.png go to --out. The same command continues a stopped search.

    \b
    Examples:
      sddpm-bench guide --ckpt CHECKPOINT
      sddpm-bench guide --ckpt CHECKPOINT --values 0.99,0.995,1.005,1.01 --samples 2000
      sddpm-bench guide --ckpt CHECKPOINT --method loss --sampler ddim:20:1
      sddpm-bench guide --ckpt CHECKPOINT --method match --sampler dpm_solver++:20
    """
    method = given["method"]
    if method in ("gradient", "match"):
        options.refuse(ctx, ("values",), f"--method {method} tries no values; leave out either")
    if method in ("loss", "gradient"):
        options.refuse(ctx, ("gains",), f"--method {method} tries no gains; leave out either")
    if given["confirm"] and method not in ("grid", "best"):
        options.refuse(ctx, ("confirm",), f"--method {method} picks without images; leave it out")
    from bench.checkpoints import Checkpoint
    from bench.files import check_folder
    from bench.guide.run import GuideOptions, run_guide
    from sddpm.user_state import state_folder

    opened = Checkpoint.find(checkpoint)
    home = state_folder(opened.folder)
    check_folder("--ckpt", home)  # where guidance.json goes
    check_folder("--out", out or home)
    given = {name: value for name, value in given.items() if value is not None}
    request = GuideOptions(opened, out or home, command=options.command_line(ctx), **given)
    found = run_guide(request, say=say)
    print_table(found.headings, found.cells, repeat=2)
    for line in (*found.costs, found.sentence):
        click.echo(line)
    for path in found.files:
        click.echo(f"wrote: {path}")
