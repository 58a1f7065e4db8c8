"""``python -m tests.campaign --files 1000 --kills 100``: the campaign, as large as one likes.

Prints every failure with what repeats it; exit code 1 if there was any.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.campaign import damage, kills


def main() -> int:
    """Run it; the number of failures decides the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="damaged files, over all kinds")
    parser.add_argument("--kills", type=int, default=100, help="kills, over all commands")
    parser.add_argument("--seed", type=int, help="of both; by default another at every call")
    asked = parser.parse_args()
    number = random.SystemRandom().randrange(2**32) if asked.seed is None else asked.seed
    print(f"seed {number}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        failures = _files(Path(folder) / "files", asked.files, number)
        failures += _kills(Path(folder) / "kills", asked.kills, number)
    print(f"{len(failures)} failures of {asked.files} files and {asked.kills} kills")
    return 1 if failures else 0


def _files(home: Path, count: int, number: int) -> list[str]:
    kills.prepare(home)
    kinds = damage.kinds(home)
    failures: list[str] = []
    for kind, (strategy, read) in kinds.items():
        tried = _try(strategy, lambda content, read=read: read(content, home),
                     -(-count // len(kinds)), number)  # fmt: skip
        print(f"{kind}: {len(tried)} problems", flush=True)
        for problem, content in tried.items():
            failures.append(problem)
            print(f"  {problem}\n    {content[:300]!r}", flush=True)
    return failures


def _try(
    strategy: st.SearchStrategy[bytes], read: Callable[[bytes], str | None], count: int, number: int
) -> dict[str, bytes]:
    """Each problem that was seen, and a file that it was seen with."""
    seen: dict[str, bytes] = {}

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def trial(content: bytes) -> None:
        problem = read(content)
        if problem is not None:
            seen.setdefault(problem, content)

    trial()
    return seen


def _kills(root: Path, count: int, number: int) -> list[str]:
    trials = kills.Trials(root)
    failures: list[str] = []
    for place, name in enumerate(kills.COMMANDS):
        share = count // len(kills.COMMANDS) + (place < count % len(kills.COMMANDS))
        tried = kills.moments(trials, name, share, number) if share else []
        found = [problem for last in tried for problem in trials.killed(name, last)]
        print(f"{name}: {len(tried)} kills, {len(found)} problems", flush=True)
        for problem in found:
            print(f"  {problem}", flush=True)
        failures += found
    return failures


if __name__ == "__main__":
    sys.exit(main())
