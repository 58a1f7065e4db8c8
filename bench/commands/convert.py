"""The command that turns a trained ANN into a spiking network: convert.

Everything heavy is imported inside it, and it holds no logic of its own.
"""

from __future__ import annotations

from typing import Any

import click

from bench.commands import complete, options
from bench.commands.terminal import print_table, say
from bench.registry import load_hook

_, METHODS = load_hook("methods")
SUMMARIES = "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
TAKE_PERCENTILE = ", ".join(name for name, each in METHODS.items() if each.reads_percentile)
TRAIN_CLIPS = ", ".join(name for name, each in METHODS.items() if each.trains_clips)


class Schedule(tuple[int, ...]):
    """Numbers of spiking time steps; its text is the text from which it was read."""

    def __str__(self) -> str:
        return "/".join(map(str, self))


def read_schedule(text: str) -> Schedule:
    """``8/16/32`` as a schedule; ValueError for anything else."""
    steps = Schedule(map(int, text.split("/")))
    if len(steps) < 2 or min(steps) < 1:
        raise ValueError(text)
    return steps


SCHEDULES = options.Values(
    "N/N/...,...", "two or more whole numbers of at least 1, such as 8/16/32", read_schedule
)


@click.command()
@click.option("--ann", required=True, metavar="DIR|NAME",
              help="Checkpoint of a ReLU twin or of a quantised twin. With --distill: checkpoint "
              "of any noise network, or a diffusers DDPM folder.")  # fmt: skip
@click.option("--method", default="rate-percentile",
              type=click.Choice(list(METHODS)),
              help=f"Rule that sets the thresholds. {SUMMARIES}.")  # fmt: skip
@click.option(
    "--signed/--unsigned",
    default=False,
    help="Signed neurons can emit negative spikes, which cancel earlier ones.",
)
@click.option("--percentile", type=options.Finite(0, 100, min_open=True), default=99.9,
              help=f"Percentile of the activations, for {TAKE_PERCENTILE}.")  # fmt: skip
@click.option("--readout", type=click.Choice(["mean", "window"]), default="mean",
              help="Read-out over spiking time. mean: the plain mean. window: weights fitted to "
              "the parent, which average out the charge that remains in the "
              "membranes.")  # fmt: skip
@click.option("--time-steps", type=options.numbers(1), default="1,2,4,8,16,32,64",
              help="Spiking time steps, one checkpoint for each.")  # fmt: skip
@click.option("--schedule", "schedules", type=SCHEDULES,
              help="Additional networks with a T for each equal part of the denoising, from noise "
              "to image.")  # fmt: skip
@click.option("--calibration-images", type=options.COUNT, default=256,
              help="Largest number of training images for the thresholds.")  # fmt: skip
@click.option("--held-out", type=options.COUNT, default=32,
              help="Largest number of test images for the comparison with the parent.")  # fmt: skip
@click.option("--finetune", type=click.Choice(["end-to-end", "blocks"]), default="end-to-end",
              help="Way of fine-tuning. end-to-end: through all spiking steps, on the parent's "
              "predictions. blocks: block by block, on the parent's activations.")  # fmt: skip
@click.option("--finetune-steps", type=options.Whole(0), default=0,
              help="Steps of fine-tuning for each network, or for each of its blocks.")  # fmt: skip
@click.option("--finetune-rate", type=options.Positive(), default="1e-4",
              help="First step size of the fine-tuning.")  # fmt: skip
@click.option("--clip-steps", type=options.COUNT, default=500,
              help=f"For {TRAIN_CLIPS} from a ReLU twin: training of clips and weights, "
              "once for all T.")  # fmt: skip
@click.option("--levels", type=options.COUNT, default=16,
              help="For the same training: levels of an activation. Set it to the T that matters "
              "most.")  # fmt: skip
@click.option(
    "--distill",
    metavar="PRESET",
    help="First train a ReLU twin of this preset on the network's predictions.",
)
@click.option("--distill-steps", type=options.COUNT, default=3000,
              help="Training steps of that twin. More steps bring it nearer to the "
              "network.")  # fmt: skip
@click.option(
    "--dataset", metavar="NAME", shell_complete=complete.datasets, help="Data set for --distill."
)
@click.option("--evaluate", is_flag=True, help="Draw and score samples of every network.")
@click.option("--samples", type=options.Whole(10), default=200,
              help="Samples of each network, for --evaluate.")  # fmt: skip
@click.option("--energy-images", type=options.COUNT, default=2,
              help="Images on which mJ/image is counted, for --evaluate.")  # fmt: skip
@options.references
@options.sampler
@options.engine
@options.extractor
@options.batch
@options.energy_table
@options.seed
@options.data_root
@options.device
@click.option("--out", required=True, type=options.PATH, metavar="DIR",
              help="Folder for checkpoints, records, tables, plots and a report.")  # fmt: skip
@click.pass_context
def convert(ctx: click.Context, ann: str, **given: Any) -> None:
    """Turn a trained ANN into a spiking network, and measure the loss of accuracy.

    For each T, the report shows the error of the predicted noise against the parent, the denoising
    loss, firing rate, energy and, with --evaluate, sample quality. For each layer, it shows the
    sources of the error. Each checkpoint works with sample, evaluate and energy. The same command
    continues a stopped conversion. Further T can be added to its folder, whose table shows all T.

    \b
    Examples:
      sddpm-bench convert --ann CHECKPOINT --out converted
      sddpm-bench convert --ann CHECKPOINT --signed --time-steps 4,8,16 --evaluate --out converted
      sddpm-bench convert --ann CHECKPOINT --method qcfs --signed --finetune-steps 200 --out tuned
      sddpm-bench convert --ann CHECKPOINT --time-steps 16 --schedule 8/16/24,24/16/8 --out by_t
      sddpm-bench convert --ann ddpm-cifar10-32 --distill small --dataset cifar10 --out distilled
      sddpm-bench sample --ckpt converted/T16 --grid out.png
    """
    _refuse_unread(ctx)
    from bench.convert.request import ConvertRequest
    from bench.convert.run import run_convert
    from sddpm.checkpoint import find_checkpoint

    given = {name: value for name, value in given.items() if value is not None}
    request = ConvertRequest(find_checkpoint(ann), command=options.command_line(ctx), **given)
    outcome = run_convert(request, say=say)
    print_table(outcome.layer_headings, outcome.layer_rows, repeat=1)
    print_table(outcome.headings, outcome.rows, repeat=1)
    click.echo(outcome.sentence)
    for path in outcome.files:
        click.echo(f"wrote: {path}")


def _refuse_unread(ctx: click.Context) -> None:
    """Refuse options of a step that was not requested."""
    asked = ctx.params
    if asked["distill"] is None:
        options.refuse(ctx, ("dataset", "distill_steps"), "give it with --distill PRESET")
    method = METHODS[asked["method"]]
    if not method.reads_percentile:
        options.refuse(ctx, ("percentile",), f"--method {asked['method']} takes none; leave it out")
    if not method.trains_clips:
        options.refuse(ctx, ("clip_steps", "levels"), f"give it with --method {TRAIN_CLIPS}")
    if not asked["finetune_steps"]:
        options.refuse(ctx, ("finetune", "finetune_rate"), "give it with --finetune-steps N")
    if not asked["evaluate"]:
        scoring = ("samples", "energy_images", "references", "sampler", "engine", "extractor",
                   "extractor_weights", "batch")  # fmt: skip
        options.refuse(ctx, scoring, "give it with --evaluate")
