"""What the documentation says exists: commands, options, files, headings, and its examples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch

from bench.cli import main
from bench.data.datasets import DatasetSpec
from bench.energy.meter import Meter
from bench.plan.cells import Data, expand
from bench.run.buildable import check_buildable
from bench.suites.reading import load_suite
from sddpm.protocol import ImageShape
from tests.support.pages import FENCE, ROOT, blocks

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "results").glob("*.md")),
    *sorted((ROOT / "results").glob("*/README.md")),
]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def console_lines(page: Path) -> Iterator[list[str]]:
    """The commands of a page, split into words, comments and assignments in front dropped."""
    for body in blocks(page, "console"):
        for line in body.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                words = shlex.split(line[2:], comments=True)
                while words and ASSIGNMENT.fullmatch(words[0]):
                    words.pop(0)
                yield words


def parse(words: list[str]) -> None:
    """Let Click read a command line without running it."""
    context = main.make_context("sddpm-bench", list(words))
    with context:
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        name, command, arguments = main.resolve_command(context, rest)
        assert command is not None
        command.make_context(name, arguments, parent=context)


COMMANDS = [
    pytest.param(words, id=f"{page.name}: {shlex.join(words)}")
    for page in PAGES
    for words in console_lines(page)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_the_documentation_exists(words: list[str]) -> None:
    program, *arguments = words
    if program == "sddpm-bench":
        parse(arguments)
    elif program == "make":
        targets = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in (word for word in arguments if "=" not in word):
            assert re.search(rf"^{re.escape(target)}:", targets, re.MULTILINE), target
    elif program == "pytest":
        named = [word for word in arguments if word.startswith("tests")]
        assert named
        assert all((ROOT / path).exists() for path in named)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 30


@pytest.mark.parametrize(
    "line",
    ["runn --suite digits", "run --suite digits --no-such-option", "energy --num 4", "train"],
)
def test_the_check_sees_a_wrong_command(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line.split())


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leads outside the repository"
        assert target.exists(), f"{page.name}: {link} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {link} has no such heading"


def test_the_example_of_a_system_runs() -> None:
    source = blocks(ROOT / "docs/adding_a_system.md", "python")[0]
    module: dict = {"__name__": "example"}
    exec(compile(source, "adding_a_system.md", "exec", dont_inherit=True), module)
    assert set(module["PRESETS"]) == {"smoke", "small", "medium", "paper"}
    config = module["Config"](**module["PRESETS"]["smoke"])
    system = module["build"](config, ImageShape(1, 8)).eval()
    with Meter(system.generator) as meter, torch.no_grad():
        images = system.sample([0, 1], {"sampler": "ddim", "steps": 2, "engine": "plain"})
    assert images.shape == (2, 1, 8, 8)
    # Two 3x3 convolutions between 1 and 8 channels on 8x8 pixels, twice.
    assert meter.counts(images=2).macs == 2 * (64 * 9 * 8) * 2


def test_the_example_of_a_suite_is_legal(tmp_path: Path) -> None:
    example = blocks(ROOT / "docs/suites.md", "yaml")[0]
    (tmp_path / "kuzushiji.yaml").write_text(example, encoding="utf-8")
    suite = load_suite(str(tmp_path / "kuzushiji.yaml"))
    data = Data("kmnist", "kmnist", 1, suite.image_size, False, train_images=60_000)
    cells = expand(suite, "small", data)
    for cell in cells:
        check_buildable(cell.training)
    assert [cell.label for cell in cells] == [
        "sddpm-T4-ddim20-eta1", "sddpm_tsm-T4-ddim20-eta1", "fsvae-T16", "fsddim-T4-ddim100",
    ]  # fmt: skip


def test_the_examples_of_a_data_set_are_legal(tmp_path: Path) -> None:
    page = ROOT / "docs/adding_a_data_set.md"
    (tmp_path / "cats.yaml").write_text(blocks(page, "yaml")[0], encoding="utf-8")
    suite = load_suite(str(tmp_path / "cats.yaml"))
    assert suite.dataset == "folder:/data/cats"
    named = [
        words[words.index("--preset") + 1] for words in console_lines(page) if "--preset" in words
    ]
    assert named
    data = Data("cats", "cats", 3, suite.image_size, horizontal_flip=True)
    for preset in {*named, "small"}:
        assert expand(suite, preset, data)
    entry = blocks(page, "python")[0].rstrip().rstrip(",")
    spec = eval(entry, {"DatasetSpec": DatasetSpec})
    assert (spec.name, spec.channels, spec.image_size) == ("cats", 3, 64)
