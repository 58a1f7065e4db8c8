"""The commands on a checkpoint: sample, evaluate, energy, guide, import, show.

Everything heavy is imported inside the commands, which hold no logic of their own.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands import options
from bench.commands.terminal import print_pairs, print_table

if TYPE_CHECKING:
    from bench.checkpoints import Checkpoint


@click.command()
@options.checkpoint
@click.option("--num", type=options.COUNT, default=64, show_default=True, help="Images.")
@click.option("--grid", type=options.PATH, metavar="FILE.png", help="Where the sample grid goes.")
@click.option("--out", type=options.PATH, metavar="FILE.npy", help="uint8 [num, channels, H, W].")
@click.option("--gif", type=options.PATH, metavar="FILE.gif",
              help="The first images as they are denoised, animated.")  # fmt: skip
@click.option("--strip", type=options.PATH, metavar="FILE.png",
              help="The same as a strip: a row an image, a column a moment.")  # fmt: skip
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
    batch: int,
    **how: Any,
) -> None:
    """Draw images from a checkpoint.

    \b
    Examples:
      sddpm-bench sample --ckpt CHECKPOINT --num 64 --grid out.png
      sddpm-bench sample --ckpt CHECKPOINT --num 1000 --sampler ddim:20:1 --out samples.npy
      sddpm-bench sample --ckpt CHECKPOINT --num 16 --threshold 0.998 --gif denoising.gif
      sddpm-bench sample --ckpt CHECKPOINT --num 8 --sampler analytic_ddpm:25 --strip strip.png
    """
    if not (grid or out or gif or strip):
        raise click.UsageError(
            "nothing to write: give --grid FILE.png, --out FILE.npy, --gif FILE.gif or "
            "--strip FILE.png"
        )
    from bench.checkpoints import Checkpoint
    from bench.data.grids import save_grid
    from bench.files import check_file
    from bench.look import trace
    from bench.run.drawing import draw
    from bench.run.samples import write_samples

    wanted = {"--grid": grid, "--out": out, "--gif": gif, "--strip": strip}
    for option, path in wanted.items():
        if path is not None:
            check_file(option, path)
    system, machine, seed, sampling = _open(Checkpoint.find(checkpoint), **how)
    watched: Any = None
    if gif or strip:
        if sampling is None:
            given = f"--gif {gif}" if gif else f"--strip {strip}"
            raise ValueError(f"{given}: the system of {checkpoint} does not denoise")
        count = max(trace.GIF_SIDE**2 if gif else 0, trace.STRIP_ROWS if strip else 0)
        watched = trace.Recorder(system, min(num, batch, count))
    images = draw(watched or system, machine, seed, sampling, count=num, batch=batch)
    if out is not None:
        write_samples(images, out)
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


@click.command()
@options.checkpoint
@click.option("--samples", type=options.PATH, metavar="FILE.npy",
              help="Score these; without it, --num images are drawn.")  # fmt: skip
@click.option("--num", type=click.IntRange(10), default=1000, show_default=True, help="Images.")
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
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
    split: str,
    references: int,
    extractor: str,
    batch: int,
    **how: Any,
) -> None:
    """Score images of a checkpoint against the data set that it was trained on.

    \b
    Examples:
      sddpm-bench evaluate --ckpt CHECKPOINT --num 1000
      sddpm-bench evaluate --ckpt CHECKPOINT --samples samples.npy --split test
    """
    if samples is not None:
        drawing = ("num", "batch", "engine", "sampler", "time_steps", "threshold", "seed")
        options.refuse(ctx, drawing, "says how to draw, and --samples are drawn; leave out either")
    import torch

    from bench.checkpoints import Checkpoint
    from bench.machine import Machine
    from bench.quality.extractors import choose_extractor
    from bench.run.drawing import draw
    from bench.run.samples import read_samples
    from bench.run.stages import score_images

    opened = Checkpoint.find(checkpoint)
    real = opened.images(split, how["data_root"], references)
    chosen = choose_extractor(extractor)
    click.echo(f"extractor {chosen.key}: {chosen.reason}", err=True)
    if samples is not None:
        images, machine = read_samples(samples), Machine(how["device"])
    else:
        system, machine, seed, sampling = _open(opened, **how)
        images = draw(system, machine, seed, sampling, count=num, batch=batch)
    scores = score_images(torch.from_numpy(images), real, chosen, machine)
    against = f"{scores['references']} {split} images of {scores['reference']}"
    print_pairs({**scores["metrics"], "samples": len(images), "references": against})


@click.command()
@options.checkpoint
@click.option("--num", type=options.COUNT, default=4, show_default=True, help="Images.")
@options.energy_table
@options.how
def energy(checkpoint: str, num: int, energy_table: str | None, **how: Any) -> None:
    """Count the operations of really drawing images, and price them in every accounting: as
    published, strict, with memory, in integers. docs/energy.md says what each assumes.

    \b
    Example:
      sddpm-bench energy --ckpt CHECKPOINT --num 4 --sampler ddim:50
    """
    from bench.checkpoints import Checkpoint
    from bench.energy.prices import DEFAULT_TABLE, TABLES
    from bench.records.make import summarise_energy
    from bench.registry import choose
    from bench.run import stages

    table = choose("energy table", energy_table or DEFAULT_TABLE, TABLES)
    opened = _open(Checkpoint.find(checkpoint), engine=None, **how)
    print_pairs(summarise_energy(stages.count_operations(*opened, images=num), table))


@click.command()
@options.checkpoint
@click.option("--values", type=options.Positive(many=True), metavar="X,X,...",
              help="Thresholds to try; where each layer has its own, multiples of it. "
              "[default: 0.97 to 1.03 of the trained ones]")  # fmt: skip
@click.option("--method", type=click.Choice(["grid", "loss", "gradient", "best"]), default="best",
              show_default=True,
              help="What chooses: the images' scores, the held-out loss (one threshold), its "
              "gradient (one a layer), or whichever of them scores best.")  # fmt: skip
@click.option("--samples", type=click.IntRange(10), default=1000, show_default=True,
              help="Images drawn per setting.")  # fmt: skip
@click.option("--held-out", type=click.IntRange(2), default=512, show_default=True,
              help="Test images behind the loss, at most.")  # fmt: skip
@click.option("--bootstrap", type=click.IntRange(0), default=20, show_default=True,
              help="Resamplings behind an interval.")  # fmt: skip
@click.option("--confirm/--no-confirm", default=True, show_default=True,
              help="Draw what won by its images again, from other noise.")  # fmt: skip
@options.references
@options.sampler
@options.engine
@options.extractor
@options.batch
@options.seed
@options.data_root
@options.device
@click.option("--out", type=options.PATH, metavar="DIR",
              help="Report, plot and kept results. [default: the checkpoint's folder]")  # fmt: skip
@click.pass_context
def guide(ctx: click.Context, checkpoint: str, out: Path | None, **given: Any) -> None:
    """Find the firing threshold that samples best, and keep it with the checkpoint.

    Draws the same noise at every threshold and says with an interval what differs. Writes
    guidance.json beside the weights, where sample and run find it; guidance.md, guidance.csv and
    guidance.png to --out. A killed search goes on where it stopped.

    \b
    Examples:
      sddpm-bench guide --ckpt CHECKPOINT
      sddpm-bench guide --ckpt CHECKPOINT --values 0.99,0.995,1.005,1.01 --samples 2000
      sddpm-bench guide --ckpt CHECKPOINT --method loss --sampler ddim:20:1
    """
    method = given["method"]
    if method == "gradient":
        options.refuse(ctx, ("values",), "--method gradient tries no values; leave out either")
    if given["confirm"] and method not in ("grid", "best"):
        options.refuse(ctx, ("confirm",), f"--method {method} picks without images; leave it out")
    from bench.checkpoints import Checkpoint
    from bench.files import check_folder
    from bench.guide.run import GuideOptions, run_guide

    opened = Checkpoint.find(checkpoint)
    folder = opened.folder
    check_folder("--ckpt", folder)  # where guidance.json goes
    check_folder("--out", out or folder)
    given = {name: value for name, value in given.items() if value is not None}
    request = GuideOptions(opened, out or folder, command=command_line(ctx), **given)
    outcome = run_guide(request, say=_say)
    print_table(outcome.headings, outcome.cells, repeat=2)
    for line in (*outcome.costs, outcome.sentence):
        click.echo(line)
    for path in outcome.files:
        click.echo(f"wrote: {path}")


@click.command("import")
@click.argument("published", type=options.PATH, metavar="PUBLISHED.pt")
@click.option("--out", required=True, type=options.PATH, metavar="DIR",
              help="New checkpoint folder.")  # fmt: skip
@click.option("--time-steps", type=options.COUNT,
              help="Spiking time steps it was trained with; a file says so only if its network "
              "has TSM.  [default: the file's, or 4]")  # fmt: skip
@click.option("--threshold", type=options.Positive(), default=1.0, show_default=True, metavar="X")
@click.option("--image-size", type=options.COUNT, default=32, show_default=True, help="Pixels.")
@click.option("--dataset", metavar="NAME", help="What it was trained on, for evaluate.")
def import_(
    published: Path,
    out: Path,
    time_steps: int | None,
    threshold: float,
    image_size: int,
    dataset: str | None,
) -> None:
    """Turn a checkpoint of the published SDDPM code, or of SDM's TSM, into a checkpoint folder.

    No code in the file is run. The folder works with every other command.

    \b
    Examples:
      sddpm-bench import SDDPM_cifar10.pt --time-steps 4 --dataset cifar10 --out runs/published
      sddpm-bench import SDM_TSM_8T.pt --dataset cifar10 --out runs/published_tsm
      sddpm-bench sample --ckpt runs/published --grid out.png
    """
    from bench.data.datasets import find_spec
    from bench.registry import load_importer

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: is there already; give a new folder")
    if dataset is not None:
        find_spec(dataset)
    parameters = load_importer()(
        published,
        out,
        time_steps=time_steps,
        threshold=threshold,
        image_size=image_size,
        dataset=dataset,
    )
    click.echo(f"checkpoint: {out} ({parameters / 1e6:.2f} million parameters)")


@click.command()
@options.checkpoint
@click.option("--out", required=True, type=options.PATH, metavar="DIR",
              help="Receives the plots and firing_rates.csv.")  # fmt: skip
@click.option("--layer", metavar="NAME", help="Layer of the raster. [default: the first]")
@click.option("--images", type=options.COUNT, default=4, show_default=True, help="Drawn.")
@click.option("--format", "kind", type=click.Choice(["png", "pdf", "svg"]), default="png",
              show_default=True, help="Of the plots.")  # fmt: skip
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

    check_folder("--out", out)
    opened = Checkpoint.find(checkpoint)
    system, _, seed, sampling = _open(opened, engine=None, **how)
    seen = draw_everything(opened, system, sampling, out, seed, images, layer, kind)
    if seen.rates:
        print_table(seen.headings, seen.rates)
    for path in seen.files:
        click.echo(f"wrote: {path}")
    for reason in seen.left_out:
        _say(f"left out: {reason}")


def command_line(ctx: click.Context) -> str:
    """The command as it was given, in the options' own order."""
    words = ["sddpm-bench", str(ctx.info_name)]
    for param in ctx.command.params:
        if param.name != "dry_run":
            words += options.given(ctx, param)
    return shlex.join(words)


def _open(checkpoint: Checkpoint, *, seed: int, device: Any, **how: Any) -> tuple[Any, ...]:
    """System, machine, seed and sampling options, as :mod:`bench.run.stages` takes them."""
    from bench.machine import Machine
    from bench.run.drawing import DrawOptions, open_to_draw

    machine = Machine(device)
    system, sampling = open_to_draw(checkpoint, machine, DrawOptions(**how), _say)
    return system, machine, seed, sampling


def _say(line: str) -> None:
    click.echo(line, err=True)


COMMANDS = (sample, evaluate, energy, guide, import_, show)
