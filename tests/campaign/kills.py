"""Every command that writes, killed at a change of a file: the same command then ends as if
nothing had happened, and nothing unfinished is left."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baselines import ann_twin
from bench.records.record import read_records, write_records
from sddpm.checkpoint import save_checkpoint
from sddpm.protocol import ImageShape
from tests.campaign import trial
from tests.support.records import cell
from tests.support.suites import TINY_SUITE
from tests.support.systems import TINY, tiny_system

SUITE = TINY_SUITE.replace("samples: 12", "samples: 12\n    sample_batch: 6").replace(
    "{channels: 8, multipliers: [1, 2], blocks: 1}", "{channels: 4, multipliers: [1], blocks: 1}"
)
GOLDEN = Path(__file__).parents[1] / "golden" / "unet_small.pt"
"""A file in the published format."""
FEW = ["--device", "cpu"]
DRAW = ["--sampler", "ddim:2:1", *FEW]
COMMANDS: Mapping[str, Sequence[str]] = {
    "sample": ["sample", "--ckpt", "sddpm", "--num", "4", *DRAW, "--grid", "new/g.png",
               "--out", "new/s.npy", "--gif", "new/a.gif", "--strip", "new/strip.png"],
    "show": ["show", "--ckpt", "sddpm", "--out", "figures", *DRAW],
    "report": ["report", "records.jsonl", "--out", "report"],
    "convert": ["convert", "--ann", "twin", "--time-steps", "1,2", "--calibration-images", "8",
                "--held-out", "4", "--out", "converted", *FEW],
    "guide": ["guide", "--ckpt", "sddpm", "--values", "0.8", "--method", "grid", "--samples", "10",
              "--held-out", "8", "--references", "20", "--bootstrap", "2", "--no-confirm",
              "--extractor", "embedded", *DRAW],
    "import": ["import", "published.pt", "--time-steps", "2", "--out", "imported"],
    "train": ["train", "--suite", "tiny.yaml", "--preset", "smoke", "--system", "sddpm",
              "--out", "trained", *FEW],
    "run": ["run", "--suite", "tiny.yaml", "--preset", "smoke", "--out", "run", "--extractor",
            "embedded", *FEW],
}  # fmt: skip
"""Each in a folder of its own, which :func:`prepare` fills."""
UNTOLD = ("log", "cache", ".lock")
"""Parts of paths whose files differ between two calls anyway."""


@dataclass(frozen=True)
class Outcome:
    """The end of one process."""

    code: int
    """Exit code; -9 where it was killed."""
    changes: int
    said: str


def prepare(home: Path) -> None:
    """Fill ``home`` with the inputs of every command."""
    home.mkdir(parents=True)
    (home / "tiny.yaml").write_text(SUITE)
    shutil.copy(GOLDEN, home / "published.pt")
    write_records(home / "records.jsonl", [cell(0), cell(1, "ann_twin", 20.0)])
    shape = {"channels": 1, "size": 8}
    facts = {"shape": shape, "dataset": "digits", "hash": "0" * 64}
    own = {"system": "sddpm", "config": asdict(TINY)}
    save_checkpoint(home / "sddpm", tiny_system().eval(), {**own, **facts})
    shutil.copy(home / "sddpm" / "config.json", home / "good.json")
    torch.manual_seed(0)
    config = ann_twin.Config(channels=4, multipliers=(1,), blocks=1, ema_decay=0.0)
    twin = ann_twin.build(config, ImageShape(1, 8))
    torch.nn.init.xavier_uniform_(twin.net.head.conv.weight)
    parent = {"system": "ann_twin", "config": asdict(config)}
    save_checkpoint(home / "twin", twin.eval(), {**parent, **facts})


class Trials:
    """Runs commands in copies of one prepared folder.

    Args:
        root: a folder that is not there yet.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._count = root, 0
        self._inputs = root / "inputs"
        prepare(self._inputs)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.campaign.trial"])
        self._whole: dict[str, tuple[Outcome, Path]] = {}

    def folder(self) -> Path:
        """A fresh copy of the inputs."""
        self._count += 1
        return Path(shutil.copytree(self._inputs, self.root / f"trial{self._count}"))

    def call(self, name: str, home: Path, last: int | None = None) -> Outcome:
        """Run a command of :data:`COMMANDS` in ``home``, up to its change number ``last``."""
        report = self.root / "outcome.json"
        report.unlink(missing_ok=True)
        arguments = (COMMANDS[name], str(home), str(report), last)
        process = self._context.Process(target=trial.run, args=arguments)
        process.start()
        process.join()
        if not report.is_file():
            return Outcome(process.exitcode or 0, last or 0, "")
        return Outcome(**json.loads(report.read_text()))

    def whole(self, name: str) -> tuple[Outcome, Path]:
        """A call that nothing interrupts, and its folder."""
        if name not in self._whole:
            home = self.folder()
            self._whole[name] = (self.call(name, home), home)
        return self._whole[name]

    def killed(self, name: str, last: int) -> list[str]:
        """What is wrong after a kill at change ``last`` and the same command again."""
        outcome, expected = self.whole(name)
        if outcome.code:
            return [f"{name}: exit {outcome.code}: {outcome.said[-500:]}"]
        home, where = self.folder(), f"{name} killed at change {last} of {outcome.changes}"
        first = self.call(name, home, last)
        if first.code != -9:
            return [f"{where}: was not killed: exit {first.code}: {first.said[-500:]}"]
        again = self.call(name, home)
        if again.code:
            return [f"{where}: the same command then ends with {again.code}: {again.said[-500:]}"]
        problems = [f"{where}: {found}" for found in differences(expected, home)]
        shutil.rmtree(home)
        return problems


def differences(expected: Path, found: Path) -> Iterator[str]:
    """What differs between two folders, but for times and logs."""
    left = [path for path in found.rglob(".*") if path.suffix in (".tmp", ".old")]
    yield from (f"left behind: {path.relative_to(found)}" for path in left)
    names, there = ({str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()
                     and not set(path.relative_to(home).parts) & set(UNTOLD)}
                    for home in (expected, found))  # fmt: skip
    if names != there:
        yield f"files differ: {sorted(names ^ there)}"
    for name in sorted(names & there):
        one, other = expected / name, found / name
        if name.endswith(".npy") and not np.array_equal(np.load(one), np.load(other)):
            yield f"{name}: other images"
        if name.endswith(("guidance.json", "records.jsonl")):
            yield from (f"{name}: {text}" for text in _other_figures(one, other))


def _other_figures(one: Path, other: Path) -> Iterator[str]:
    if one.name == "guidance.json":
        a, b = (json.loads(path.read_text())["thresholds"] for path in (one, other))
        if a != b:
            yield f"{b}, not {a}"
        return
    pairs: Any = zip(read_records(one), read_records(other), strict=True)
    for a, b in pairs:
        if a.config_hash != b.config_hash or a.metrics.keys() != b.metrics.keys():
            yield "another cell"
        elif not np.allclose(list(a.metrics.values()), list(b.metrics.values()), rtol=1e-3):
            yield "other figures"


def moments(trials: Trials, name: str, count: int, seed: int) -> list[int]:
    """``count`` changes of a command to be killed at; if it is more than one, the first among
    them, at which a folder is neither empty nor known yet."""
    changes = trials.whole(name)[0].changes
    first = [1] if count > 1 else []
    others = range(len(first) + 1, changes + 1)
    chosen = random.Random(f"{seed} {name}").sample(others, min(count - len(first), len(others)))
    return first + sorted(chosen)
