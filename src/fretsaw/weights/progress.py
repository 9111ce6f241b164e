"""Show progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from fretsaw.weights.definitions import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_INTERVAL = 5.0
"""Seconds between two plain lines about one task."""


@contextmanager
def shown_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """Give a progress that a person can read: bars on a terminal; elsewhere a line when a task begins and one every few seconds.

    Args:
        stream: Where to write; None means standard error, so that standard output stays clean for results.
    """
    out: TextIO = sys.stderr if stream is None else stream
    if out.isatty():
        with _bars(out) as progress:
            yield progress
    else:
        yield _Lines(out)


class _Lines:
    """One line when a task begins, and one every few seconds while it lasts."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.task, self.last = "", 0.0

    def __call__(self, task: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if task == self.task and now - self.last < LINE_INTERVAL:
            return
        self.task, self.last = task, now
        print(f"{task}{f': {done / 1e6:.1f} of {total / 1e6:.1f} MB' if total else ''}", file=self.stream, flush=True)


@contextmanager
def _bars(stream: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    # long file names give way to the bar and its figures, so that each task keeps to one line of 80 columns
    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=40), markup=False)
    figures = DownloadColumn(table_column=Column(no_wrap=True))
    columns = (name, BarColumn(bar_width=12), figures, TimeRemainingColumn(table_column=Column(no_wrap=True)))
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, console=Console(file=stream)) as bars:

        def progress(task: str, done: int, total: int | None) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
            bars.update(tasks[task], completed=done, total=total)

        yield progress
