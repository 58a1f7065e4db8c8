"""Options that several commands share, and their types."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bench.commands import complete
from bench.quality.registry import AUTO, extractor_choices

Command = Callable[..., Any]


class Values(click.ParamType):
    """Values separated by commas, each of them once.

    Args:
        name: form of the text, for the help.
        wanted: legal values in words, for the error.
        read: text of one value -> the value; ValueError if it is not legal.
    """

    def __init__(self, name: str, wanted: str, read: Callable[[str], Any]) -> None:
        self.name, self.wanted, self.read = name, wanted, read

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(dict.fromkeys(map(self.read, str(value).split(","))))
        except ValueError:
            self.fail(f"{value!r}: expected {self.wanted}", param, ctx)


MOST_SEED = 10**12
"""Largest seed of a run: each image has a seed of its own, a million times as large, below 2^63."""


def numbers(least: int, most: int | None = None) -> Values:
    """Whole numbers from ``least`` to ``most``, separated by commas."""

    def read(text: str) -> int:
        number = int(text)
        if number < least or (most is not None and number > most):
            raise ValueError(text)
        return number

    bounds = f"of at least {least}" if most is None else f"from {least} to {most:,}"
    return Values("N,N,...", f"whole numbers {bounds}, separated by commas", read)


class Whole(click.IntRange):
    """One whole number of at least ``min``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            int(value)
        except ValueError:
            wanted = f"one whole number of at least {self.min}"
            self.fail(f"{value!r}: expected {wanted}", param, ctx)
        return super().convert(value, param, ctx)


def positive(text: str) -> float:
    """``text`` as a finite number above 0; ValueError if it is none."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(text)
    return number


POSITIVES = Values("X,X,...", "numbers above 0, separated by commas", positive)


class Positive(click.ParamType):
    """One finite number above 0."""

    name = "X"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return positive(value)
        except ValueError:
            self.fail(f"{value!r}: expected a number above 0", param, ctx)


class Finite(click.FloatRange):
    """A range without the infinities and without NaN, which lies in every range for Click."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r}: expected a finite number", param, ctx)
        return number


def split_names(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Names separated by commas, of an option that may also be repeated."""
    names: dict[str, None] = {}
    for text in value:
        found = [name.strip() for name in text.split(",") if name.strip()]
        if not found:
            raise click.BadParameter(f"{text!r}: expected names, separated by commas", ctx, param)
        names.update(dict.fromkeys(found))
    return tuple(names)


def given(ctx: click.Context, param: click.Parameter) -> list[str]:
    """The words of an option on the command line; none where it was not given there."""
    name = param.name or ""
    if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
        return []
    value = ctx.params[name]
    if isinstance(value, bool):
        return [(param.opts if value else param.secondary_opts)[0]]
    if getattr(param, "multiple", False) and param.callback is not split_names:
        return [word for one in value for word in (param.opts[0], str(one))]
    return [param.opts[0], ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


def command_line(ctx: click.Context) -> str:
    """The command as it was given, in the options' own order."""
    words = ["sddpm-bench", str(ctx.info_name)]
    for param in ctx.command.params:
        if param.name != "dry_run":
            words += given(ctx, param)
    return shlex.join(words)


def refuse(ctx: click.Context, names: Collection[str], why: str) -> None:
    """Refuse options that would have no effect.

    Args:
        names: of the parameters, of which none may be on the command line.
        why: they are not read, and what to do.

    Raises:
        click.UsageError: one was given; the message begins with it.
    """
    for param in ctx.command.params:
        if param.name in names and (words := given(ctx, param)):
            raise click.UsageError(f"{' '.join(words)}: {why}", ctx)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


PATH = click.Path(path_type=Path)
DEVICE = click.Choice(["auto", "cpu", "cuda"])
COUNT = Whole(1)

suite = together(
    click.option("--suite", required=True, metavar="NAME|FILE",
                 help="Name of a shipped suite, or a YAML file.",
                 shell_complete=complete.suites),
    click.option("--preset", default="small", metavar="PRESET",
                 help="Size of the trainings: smoke, small, converged, medium or paper, as "
                 "the suite has them.",
                 shell_complete=complete.presets),
)  # fmt: skip
budget = click.option(
    "--budget",
    type=Positive(),
    metavar="X",
    help="Factor of the length of every training: with 2, each takes twice the suite's steps. "
    "[default: 1]",
)
data_root = click.option(
    "--data-root",
    envvar="SDDPM_DATA_ROOT",
    metavar="DIR",
    help="Folder that holds one folder for each data set. Without it, data comes from the Hugging "
    "Face Hub. [env: SDDPM_DATA_ROOT]",
)
device = click.option(
    "--device",
    type=DEVICE,
    default="auto",
    help="Device that computes. auto: CUDA if there is a CUDA device, else the CPU.",
)
devices = together(
    device,
    click.option("--devices", type=COUNT, default=1,
                 help="Number of devices on this machine."),
    click.option(
        "--nodes", type=COUNT, default=1,
        help="Number of machines, with --devices devices each. Start the command on every machine.",
    ),
)  # fmt: skip
extractor = together(
    click.option(
        "--extractor", type=click.Choice(extractor_choices()), default=AUTO, metavar="NAME",
        help="Network that computes the features: auto, inception, embedded, efficientnet-lite2, "
        "vgg16, clip-... or dinov2-... (list extractors). auto: Inception-v3 if its weights can be "
        "fetched, else the embedded network.",
    ),
    click.option(
        "--extractor-weights", type=PATH, metavar="FILE",
        help="File of the extractor's weights. [default: the one in torch hub's cache, else a "
        "download]",
    ),
)  # fmt: skip
energy_table = click.option(
    "--energy-table",
    metavar="NAME",
    help="Table of prices in picojoules per operation. [default: 45 nm]",
)
seed = click.option(
    "--seed",
    type=Whole(0, MOST_SEED),
    default=0,
    help="Seed of every random number. The same seed gives the same result.",
)
checkpoint = click.option(
    "--ckpt",
    "checkpoint",
    required=True,
    metavar="DIR|NAME",
    help="Checkpoint folder (config.json and model.safetensors), a diffusers DDPM folder, or "
    "the name of a shipped checkpoint.",
    shell_complete=complete.checkpoints,
)
sampler = click.option(
    "--sampler",
    metavar="NAME[:STEPS[:ETA]]",
    help="Sampler of a diffusion model. [default: sde_dpm_solver++:50]",
    shell_complete=complete.samplers,
)
engine = click.option(
    "--engine",
    type=click.Choice(["plain", "exact", "fast"]),
    help="Form of the network while sampling. plain: the network as it is. exact: a faster form, "
    "equal but for float32 rounding. fast: weights rounded to 8 bits where that saves time. "
    "[default: exact]",
)
time_steps = click.option(
    "--time-steps", type=COUNT, help="Spiking time steps. [default: the checkpoint's]"
)
threshold = click.option(
    "--threshold",
    type=Positive(),
    metavar="X",
    help="Firing threshold of every neuron. [default: the guided threshold of the checkpoint, "
    "else the trained one]",
)
gain = click.option(
    "--gain",
    type=Positive(),
    metavar="X",
    help="Factor of the network's output at every step, 1 as trained. [default: the guided gain of "
    "the checkpoint, else 1]",
)
how = together(sampler, time_steps, threshold, gain, seed, data_root, device)
split = click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="train",
    help="Part of the data set that scores compare with. train: the images that networks learn "
    "from, as in most papers. test: images that no training saw.",
)
references = click.option(
    "--references",
    type=Whole(10),
    default=10000,
    help="Largest number of real images to compare with.",
)
batch = click.option("--batch", type=COUNT, default=100, help="Images drawn in one batch.")
workers = together(
    click.option(
        "--workers", metavar="ray[:ADDRESS]",
        help="Run cells as Ray tasks on this machine, or on the cluster at ADDRESS, whose "
        "machines share --out.",
    ),
    click.option(
        "--worker-cpus", type=COUNT, default=1, help="CPU cores of a Ray task."
    ),
    click.option(
        "--worker-gpus", type=Positive(), default=1.0, metavar="X",
        help="GPUs of a Ray task, if there are any. With 0.25, four tasks share one GPU.",
    ),
    click.option(
        "--ray-folder", type=PATH, metavar="DIR",
        help="Short path for the files of a Ray that is started here. [default: ray in $TMPDIR]",
    ),
)  # fmt: skip
