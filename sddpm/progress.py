"""The progress bar of every command, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class Bar:
    """A bar that is shown."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: float = 1) -> None:
        """Add ``count`` to the finished amount."""
        self._progress.advance(self._task, count)

    def update(
        self,
        *,
        done: float | None = None,
        total: float | None = None,
        task: str | None = None,
        note: str | None = None,
    ) -> None:
        """Set the given values: the finished amount, the total, the task, a note behind the bar."""
        fields: dict[str, Any] = {} if note is None else {"note": note}
        self._progress.update(self._task, completed=done, total=total, description=task, **fields)

    def finish(self) -> None:
        """Set the total to the finished amount, if the total was only an upper limit."""
        done = self._progress.tasks[self._progress.task_ids.index(self._task)].completed
        self.update(done=done, total=done)


@contextmanager
def progress_bar(
    task: str,
    total: float | None,
    unit: str = "",
    *,
    done: float = 0,
    shown: bool = True,
    passing: bool = False,
) -> Iterator[Bar]:
    """Show a bar while the block runs.

    Args:
        task: what is done, before the bar.
        total: how much there is to do; None where that is not known yet.
        unit: what is counted, such as images; ``bytes`` are shown in kB, MB or GB.
        done: how much is done already.
        shown: False shows nothing.
        passing: the bar is for a person at a terminal alone, and vanishes at the end.
    """
    console = Console(stderr=True)
    count: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        count,
        *([TextColumn(unit)] if unit not in ("", "bytes") else []),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    ]
    progress = Progress(
        *columns,
        console=console,
        transient=passing,
        disable=not shown or (passing and not console.is_terminal),
    )
    number = progress.add_task(task, total=total, completed=int(done), note="")
    with progress:
        yield Bar(progress, number)
