"""The small form of the campaign: the same trials each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.campaign import damage, kills

SMALL = settings(
    max_examples=25, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
KILLS = {"convert": 2, "report": 2, "sample": 2}
"""Of these commands, which are quick; of the others one."""


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> kills.Trials:
    return kills.Trials(tmp_path_factory.mktemp("kills") / "root")


@pytest.mark.parametrize("name", kills.COMMANDS)
def test_a_killed_command_goes_on_and_leaves_nothing(name: str, trials: kills.Trials) -> None:
    chosen = kills.moments(trials, name, KILLS.get(name, 1), seed=0)
    assert chosen, trials.whole(name)[0].said
    for last in chosen:
        assert not trials.killed(name, last)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("files") / "inputs"
    kills.prepare(home)
    return home


@pytest.mark.parametrize("kind", ["suites", "records", "config", "guidance", "pt", "pictures"])
def test_a_damaged_file_ends_in_a_result_or_in_one_line(kind: str, home: Path) -> None:
    strategy, read = damage.kinds(home)[kind]

    @SMALL
    @given(strategy)
    def trial(content: bytes) -> None:
        assert read(content, home) is None

    trial()
