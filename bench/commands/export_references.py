"""``sddpm-bench export-references``: the real images that scores are made against, in files."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands import complete, options
from bench.commands.terminal import print_pairs, say


@click.command("export-references")
@click.option("--dataset", required=True, metavar="NAME", shell_complete=complete.datasets,
              help="Data set: a name, or folder:PATH.")  # fmt: skip
@options.split
@click.option("--image-size", type=options.COUNT, metavar="PIXELS",
              help="Size of the images. [default: the data set's]")  # fmt: skip
@options.references
@click.option("--out", required=True, type=options.PATH, metavar="FILE|DIR",
              help="The images: .npz (arr_0: uint8 [n, H, W, 3], as ADM's evaluator reads it), "
              ".npy (uint8 [n, channels, H, W]), or a folder of PNG pictures.")  # fmt: skip
@click.option(
    "--expect", metavar="HASH", help="reference_hash of a record; other images are refused."
)
@options.data_root
def export_references(
    dataset: str,
    split: str,
    image_size: int | None,
    references: int,
    out: Path,
    expect: str | None,
    data_root: str | None,
) -> None:
    """Write the real images that evaluate, score and run compare with.

    They are the same pixels in the same order: cropped, resized, and chosen at random where
    --references is less than the data set. The output names the hashes that records of
    Inception and of the embedded extractor state for them (reference_hash).

    \b
    Examples:
      sddpm-bench export-references --dataset cifar10 --out references.npz
      sddpm-bench export-references --dataset digits --references 300 --out references
    """
    from bench.data.datasets import load
    from bench.quality.extractors import is_installed
    from bench.quality.fidelity import reference_hash
    from bench.quality.registry import EMBEDDED, EXTRACTORS, INCEPTION
    from bench.run.image_sets import check_set, write_set

    check_set("--out", out)
    real = load(dataset, split, image_size=image_size, data_root=data_root, limit=references)
    for note in real.notes:
        say(note)
    pinned = [entry for entry in EXTRACTORS.values() if entry.pinned and is_installed(entry)]
    hashes = {entry.key: reference_hash(real, entry) for entry in pinned}
    shown = {entry.key: hashes[entry.key] for entry in (INCEPTION, EMBEDDED)}
    if expect is not None and expect not in hashes.values():
        found = ", ".join(f"{made} ({key})" for key, made in shown.items())
        raise ValueError(
            f"--expect {expect}: {len(real)} {split} images of {real.label} have the hashes {found}"
        )
    write_set(real.__getitems__(range(len(real))).numpy(), out)
    print_pairs(
        {
            "references": f"{len(real)} {split} images of {real.label}: {out}",
            **{f"reference_hash ({key})": made for key, made in shown.items()},
        }
    )
