"""Progress for long work: a bar on a terminal, plain lines elsewhere, nothing when the output is for a machine."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines."""


class Steps:
    """Counts steps of known number; use as a context manager and call `advance` after each.

    Args:
        total: Number of steps.
        label: What is counted, for example "images".
        quiet: Show nothing.
    """

    def __init__(self, total: int, label: str, quiet: bool = False) -> None:
        self._total, self._label, self._quiet = total, label, quiet
        self._done, self._started, self._last = 0, time.monotonic(), 0.0
        self._bar: Progress | None = None
        self.console = Console(stderr=True)

    def __enter__(self) -> Steps:
        if not self._quiet and self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console)
            self._bar.add_task(self._label, total=self._total, note="")
            self._bar.start()
        return self

    def advance(self, note: str = "") -> None:
        """Count one step; `note` is shown beside the bar, for example running metrics."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, note=note)
        elif not self._quiet and (self._done == self._total or time.monotonic() - self._last >= PLAIN_INTERVAL):
            self._last = time.monotonic()
            print(f"{self._label}: {self._done}/{self._total}, {self._last - self._started:.0f} s{', ' + note if note else ''}", file=sys.stderr, flush=True)

    def skip(self, steps: int) -> None:
        """Count steps that were made before this run, by one that was interrupted."""
        self._done += steps
        self.say(f"going on after {self._done} of {self._total} {self._label}")
        if self._bar is not None:
            self._bar.reset(self._bar.task_ids[0], completed=self._done)

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
