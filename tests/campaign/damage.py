"""Damaged and hostile files of every kind that is read: each ends in a result, or in one line
that names it and says what is wrong."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from PIL import Image

from bench.checkpoints import Checkpoint
from bench.commands.terminal import exit_code, one_line
from bench.data.datasets import load
from bench.machine import Machine
from bench.records.record import read_records
from bench.report.sorting import make_report
from bench.report.sources import read_sources
from bench.report.tables import energies, ranking
from bench.suites.reading import parse_suite, shipped_suites
from bench.tables.table import frame, to_csv
from sddpm.guidance import read_guidance
from sddpm.published import load_published
from tests.campaign.kills import GOLDEN
from tests.support.records import record

LONGEST_LINE = 1500
GIANT = 10**400
"""More than any field can be; its digits fill a line."""
Values = st.SearchStrategy[Any]

values: Values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([-1, 0, 10**9, GIANT, 1e300, "16", "", "\x1b[2J", "../../etc", "=1+1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                               max_size=3),
    max_leaves=6,
)  # fmt: skip
"""What a field may be given instead of what belongs there."""


def check(work: Callable[[], Any], *names: str) -> str | None:
    """What is wrong with how ``work`` ended; None where it gave a result, or an error that the
    command line shows as one line with one of ``names`` in it and exit code 2."""
    try:
        work()
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        line = one_line(error)
        if exit_code(error) != 2 or re.match(r"[A-Z]\w*Error: ", line):
            return f"{type(error).__name__}: {line[:200]}"
        if not any(name in line for name in names):
            return f"names no file: {line[:200]}"
        if digits := re.search(r"\d{60,}", line):
            return f"a number of {len(digits[0])} digits: {line[:100]}"
        if len(line) > LONGEST_LINE:
            return f"{len(line):,} characters in one line: {line[:100]}"
    return None


@st.composite
def documents(draw: st.DrawFn, good: Any) -> Any:
    """``good`` with one to three of its values replaced, removed or renamed."""
    content = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                place = inner
                continue
            how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
            if how == "remove":
                del place[key]
            elif how == "add" and isinstance(place, dict):
                place[draw(st.text(max_size=5))] = draw(values)
            else:
                place[key] = draw(values)
            break
    return content


@st.composite
def broken(draw: st.DrawFn, good: bytes) -> bytes:
    """``good`` cut short, or with some of its bytes changed."""
    if draw(st.booleans()):
        return good[: draw(st.integers(0, len(good)))]
    content = bytearray(good)
    # Headers are small and stand first or last: damage falls there as often as elsewhere.
    ends = st.integers(0, min(300, len(good) - 1))
    place = ends | ends.map(lambda at: len(good) - 1 - at) | st.integers(0, len(good) - 1)
    for at in draw(st.lists(place, min_size=1, max_size=8)):
        content[at] = draw(st.integers(0, 255))
    return bytes(content)


def texts(good: Any, dump: Callable[[Any], str]) -> st.SearchStrategy[bytes]:
    """Files of a format of text: changed content, broken bytes, what is no such text at all."""
    whole = dump(good).encode()
    changed = documents(good).map(lambda content: dump(content).encode("utf-8", "surrogatepass"))
    odd = st.sampled_from([b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"null", b"\x00"])
    return st.one_of(changed, changed, broken(whole), odd, st.binary(max_size=40))


def suites() -> st.SearchStrategy[bytes]:
    """YAML suites."""
    names = ("digits", "fashion_mnist")
    goods = [yaml.safe_load(shipped_suites()[name].read_text(encoding="utf-8")) for name in names]
    return st.one_of(*(texts(good, lambda c: yaml.safe_dump(c, allow_unicode=True))
                       for good in goods))  # fmt: skip


def records() -> st.SearchStrategy[bytes]:
    """Lines of JSON."""
    return texts(json.loads(record().model_dump_json()), json.dumps)


def configurations(good: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """A checkpoint's config.json."""
    return texts(good, json.dumps)


def guidances() -> st.SearchStrategy[bytes]:
    """A checkpoint's guidance.json."""
    return texts({"thresholds": {"stem.act": 1.0, "middle.0.act1": 0.9}, "rows": [1]}, json.dumps)


def published() -> st.SearchStrategy[bytes]:
    """Files of torch.save."""
    return broken(GOLDEN.read_bytes()) | st.binary(max_size=200)


def pictures() -> st.SearchStrategy[bytes]:
    """Pictures of the formats that are read, and of one that is not."""
    found = []
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "EPS"):
        file = io.BytesIO()
        Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(file, kind)
        found.append(broken(file.getvalue()) | st.just(file.getvalue()))
    return st.one_of(*found)


def read_suite(content: bytes, home: Path) -> str | None:
    """Read a suite that holds ``content``; what is wrong, if anything."""
    path = home / "suite.yaml"
    path.write_bytes(content)
    return check(lambda: parse_suite(content.decode("utf-8", "replace"), str(path)), str(path))


def read_record(content: bytes, home: Path) -> str | None:
    """Read records, rank them, make their tables."""
    path = home / "records.jsonl"
    path.write_bytes(content)

    def work() -> None:
        report = make_report(read_sources([path]), [])
        for board in report.boards:
            ranking(board), energies(board)
        to_csv(frame(read_records(path)))

    return check(work, str(path))


def open_checkpoint(content: bytes, home: Path) -> str | None:
    """Open the checkpoint in ``home`` with this config.json."""
    folder = home / "sddpm"
    (folder / "config.json").write_bytes(content)
    return check(lambda: Checkpoint.read(folder).load(Machine("cpu")), str(folder), "config.json")


def open_guidance(content: bytes, home: Path) -> str | None:
    """Read a guidance file."""
    (home / "guidance.json").write_bytes(content)
    return check(lambda: read_guidance(home), str(home))


def open_published(content: bytes, home: Path) -> str | None:
    """Read a published checkpoint."""
    path = home / "published.pt"
    path.write_bytes(content)
    return check(lambda: load_published(path), str(path))


def open_pictures(content: bytes, home: Path) -> str | None:
    """Read a folder of ten good pictures and this one."""
    folder = home / "pictures"
    folder.mkdir(exist_ok=True)
    for number in range(10):
        Image.new("RGB", (16, 16), (number * 20, 9, 9)).save(folder / f"good{number}.png")
    (folder / "odd.png").write_bytes(content)

    def work() -> None:
        images = load(f"folder:{folder}", "train", image_size=8)
        images.__getitems__(range(len(images)))

    return check(work, str(folder), "odd.png")


Read = Callable[[bytes, Path], str | None]


def kinds(home: Path) -> dict[str, tuple[st.SearchStrategy[bytes], Read]]:
    """Every kind of file: what it may hold, and how it is read.

    Args:
        home: as :func:`tests.campaign.kills.prepare` fills it.
    """
    good = json.loads((home / "good.json").read_text())
    return {
        "suites": (suites(), read_suite),
        "records": (records(), read_record),
        "config": (configurations(good), open_checkpoint),
        "guidance": (guidances(), open_guidance),
        "pt": (published(), open_published),
        "pictures": (pictures(), open_pictures),
    }
