"""Show progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from fretsaw.weights.definitions import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
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
    if not out.isatty():
        yield _Lines(out)
        return
    bars = _Bars(out)
    try:
        yield bars
    finally:
        bars.stop()


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


class _Bars:
    """One bar per task; nothing is drawn, and rich is not imported, before the first task begins."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.bars: Bars | None = None
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, task: str, done: int, total: int | None) -> None:
        if self.bars is None:
            self.bars = _start_bars(self.stream)
        if task not in self.tasks:
            self.tasks[task] = self.bars.add_task(task, total=total)
        self.bars.update(self.tasks[task], completed=done, total=total)

    def stop(self) -> None:
        if self.bars is not None:
            self.bars.stop()


def _start_bars(stream: TextIO) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    # long file names give way to the bar and its figures, so that each task keeps to one line of 80 columns
    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=40), markup=False)
    figures = DownloadColumn(table_column=Column(no_wrap=True))
    bars = Progress(name, BarColumn(bar_width=12), figures, TimeRemainingColumn(table_column=Column(no_wrap=True)), console=Console(file=stream))
    bars.start()
    return bars
