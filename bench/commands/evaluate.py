"""``sddpm-bench evaluate``: the quality of a checkpoint's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import complete, options
from bench.commands.terminal import print_pairs, say


@click.command()
@options.checkpoint
@click.option("--samples", type=options.PATH, metavar="FILE.npy",
              help="Images to score, also .npz. Without it, --num images are drawn.")  # fmt: skip
@click.option("--num", type=options.Whole(10), default=1000, help="Number of images.")
@click.option("--dataset", metavar="NAME", shell_complete=complete.datasets,
              help="Images to compare with. [default: those of the training]")  # fmt: skip
@options.split
@options.references
@options.extractor
@options.batch
@options.engine
@options.how
@click.pass_context
def evaluate(
    ctx: click.Context,
    checkpoint: str,
    samples: Path | None,
    num: int,
    dataset: str | None,
    split: str,
    references: int,
    extractor: str,
    extractor_weights: Path | None,
    batch: int,
    **how: Any,
) -> None:
    """Score images of a checkpoint against the data set that it was trained on, or another.

    \b
    Examples:
      sddpm-bench evaluate --ckpt CHECKPOINT --num 1000
      sddpm-bench evaluate --ckpt CHECKPOINT --samples samples.npy --split test
      sddpm-bench evaluate --ckpt ddpm-cifar10-32 --dataset cifar10
    """
    if samples is not None:
        unread = ("num", "batch", "engine", "sampler", "time_steps", "threshold", "gain", "seed")
        options.refuse(ctx, unread, "says how to draw, and --samples are drawn; leave out either")
    import torch

    from bench.checkpoints import Checkpoint
    from bench.machine import Machine
    from bench.quality.extractors import choose_extractor
    from bench.run.drawing import DrawOptions, open_to_draw
    from bench.run.image_sets import read_set
    from bench.run.stages import score_images

    opened = Checkpoint.find(checkpoint)
    real = opened.images(split, how["data_root"], references, dataset)
    for note in real.notes:
        say(note)
    chosen = choose_extractor(extractor, extractor_weights)
    say(f"extractor {chosen.key}: {chosen.reason}")
    if samples is not None:
        images, machine = read_set(samples, real.shape.channels), Machine(how["device"])
    else:
        drawing = open_to_draw(opened, DrawOptions(**how), say)
        images, machine = drawing.draw(num, batch), drawing.machine
    scores = score_images(torch.from_numpy(images), real, chosen, machine)
    against = f"{scores['references']} {split} images of {scores['reference']}"
    print_pairs({**scores["metrics"], "samples": len(images), "references": against})
