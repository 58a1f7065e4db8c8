"""``sddpm-bench score``: the quality of images that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import complete, options
from bench.commands.terminal import print_pairs, say


@click.command()
@click.argument("images", type=options.PATH, metavar="FOLDER|FILE")
@click.option("--dataset", required=True, metavar="NAME", shell_complete=complete.datasets,
              help="Real images to compare with: a name, or folder:PATH.")  # fmt: skip
@options.split
@click.option("--image-size", type=options.COUNT, metavar="PIXELS",
              help="Size at which both are compared. [default: the data set's]")  # fmt: skip
@options.references
@options.extractor
@options.data_root
@options.device
def score(
    images: Path,
    dataset: str,
    split: str,
    image_size: int | None,
    references: int,
    extractor: str,
    extractor_weights: Path | None,
    data_root: str | None,
    device: Any,
) -> None:
    """Score pictures of your own against a data set; no checkpoint is needed.

    FOLDER holds pictures, also in folders below it, or is a ZIP archive of them. They are cut to
    their centre square, resized to the data set's images, and given its colours. FILE is .npy
    (uint8 [n, channels, height, width]) or .npz (arr_0: uint8 [n, height, width, 3], as the
    evaluator of ADM reads it), of the data set's size.

    \b
    Examples:
      sddpm-bench score FOLDER --dataset cifar10
      sddpm-bench score samples.npz --dataset fashion_mnist --split test --data-root DATA
    """
    import torch

    from bench.data.datasets import load
    from bench.data.given import load_given
    from bench.machine import Machine
    from bench.quality.extractors import choose_extractor
    from bench.run.image_sets import ARRAYS, read_set
    from bench.run.stages import score_images

    real = load(dataset, split, image_size=image_size, data_root=data_root, limit=references)
    for note in real.notes:
        say(note)
    if images.suffix.lower() in ARRAYS:
        given = torch.from_numpy(read_set(images, real.shape.channels))
    else:
        pictures = load_given(images, real.shape)
        for note in pictures.notes:
            say(note)
        given = pictures.__getitems__(range(len(pictures)))
    chosen = choose_extractor(extractor, extractor_weights)
    say(f"extractor {chosen.key}: {chosen.reason}")
    scores = score_images(given, real, chosen, Machine(device))
    against = f"{scores['references']} {split} images of {scores['reference']}"
    print_pairs({**scores["metrics"], "images": len(given), "references": against})
