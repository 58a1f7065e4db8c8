"""``sddpm-bench sample``: images of a checkpoint, as a grid, an array, pictures or an animation."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.terminal import say


@click.command()
@options.checkpoint
@click.option("--num", type=options.COUNT, default=64, help="Number of images.")
@click.option("--grid", type=options.PATH, metavar="FILE.png",
              help="File of the sample grid; also .jpg or .webp.")  # fmt: skip
@click.option(
    "--out",
    type=options.PATH,
    metavar="FILE|DIR",
    help="The images: .npy (uint8 [num, channels, H, W]), .npz (arr_0: uint8 [num, H, W, 3], as "
    "ADM's evaluator reads it), or a folder of PNG pictures.",
)
@click.option("--gif", type=options.PATH, metavar="FILE.gif",
              help="Animation of the denoising of the first images; also .webp.")  # fmt: skip
@click.option("--strip", type=options.PATH, metavar="FILE.png",
              help="Denoising of the first images as one picture: one row for each image, one "
              "column for each moment.")  # fmt: skip
@click.option("--class", "label", type=click.IntRange(min=0), metavar="N",
              help="Class of all images, for a system that was trained with classes. "
              "[default: one at random for each image]")  # fmt: skip
@options.batch
@options.engine
@options.how
def sample(
    checkpoint: str,
    num: int,
    grid: Path | None,
    out: Path | None,
    gif: Path | None,
    strip: Path | None,
    label: int | None,
    batch: int,
    **how: Any,
) -> None:
    """Draw images from a checkpoint.

    \b
    Examples:
      sddpm-bench sample --ckpt CHECKPOINT --num 64 --grid out.png
      sddpm-bench sample --ckpt CHECKPOINT --num 1000 --sampler ddim:20:1 --out samples.npz
      sddpm-bench sample --ckpt CHECKPOINT --num 1000 --out pictures
      sddpm-bench sample --ckpt CHECKPOINT --num 16 --threshold 0.998 --gif denoising.gif
      sddpm-bench sample --ckpt CHECKPOINT --num 8 --sampler analytic_ddpm:25 --strip strip.png
    """
    if not (grid or out or gif or strip):
        raise click.UsageError(
            "nothing to write: give --grid FILE.png, --out FILE.npz, --gif FILE.gif or "
            "--strip FILE.png"
        )
    from bench.checkpoints import Checkpoint
    from bench.data.grids import PICTURES, save_grid
    from bench.files import check_file
    from bench.look import trace
    from bench.run.drawing import DrawOptions, open_to_draw
    from bench.run.image_sets import check_set, write_set

    wanted: dict[str, tuple[Path | None, Collection[str]]] = {
        "--grid": (grid, PICTURES), "--gif": (gif, trace.ANIMATIONS), "--strip": (strip, PICTURES),
    }  # fmt: skip
    if out is not None:
        check_set("--out", out)
    taken: dict[Path, str] = {}
    for option, (path, endings) in wanted.items():
        if path is None:
            continue
        if path.suffix.lower() not in endings:
            raise ValueError(f"{option} {path}: expected a name that ends in {', '.join(endings)}")
        check_file(option, path)
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise ValueError(f"{option} {path}: is the file of {other} too; give another name")
    drawing = open_to_draw(Checkpoint.find(checkpoint), DrawOptions(label=label, **how), say)
    watched: Any = None
    if gif or strip:
        if drawing.sampling is None:
            given = f"--gif {gif}" if gif else f"--strip {strip}"
            raise ValueError(f"{given}: the system of {checkpoint} does not denoise")
        count = max(trace.GIF_SIDE**2 if gif else 0, trace.STRIP_ROWS if strip else 0)
        denoiser: Any = drawing.system
        watched = trace.Recorder(denoiser, min(num, batch, count))
    images = drawing.draw(num, batch, by=watched)
    if out is not None:
        write_set(images, out)
        click.echo(f"samples: {out}")
    if grid is not None:
        save_grid(images, grid)
        click.echo(f"grid: {grid}")
    if gif is not None and watched is not None:
        trace.save_animation(watched.frames, gif)
        click.echo(f"animation: {gif}")
    if strip is not None and watched is not None:
        trace.save_strip(watched.frames[:, : trace.STRIP_ROWS], strip)
        click.echo(f"strip: {strip}")
