"""Ctrl-C and SIGTERM: the work stops in order, what was finished is kept, and the exit status says which signal it was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from typer.core import TyperGroup

MESSAGE = "interrupted; what was finished is kept"


class Terminated(KeyboardInterrupt):
    """SIGTERM; it unwinds the work as Ctrl-C does."""


class Interrupted(BaseException):
    """What leaves a command that was interrupted; the libraries under the command line would turn `KeyboardInterrupt` into a message of their own.

    Attributes:
        status: Exit status: 128 and the signal's number.
    """

    def __init__(self, cause: KeyboardInterrupt) -> None:
        super().__init__(MESSAGE)
        self.status = status_of(cause)


class Commands(TyperGroup):
    """A group of commands that lets an interrupt through to `main`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(error) from error


def status_of(cause: KeyboardInterrupt) -> int:
    """Return the exit status of a command that a signal ended."""
    return 128 + (signal.SIGTERM if isinstance(cause, Terminated) else signal.SIGINT)


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the work instead of ending the process at once, where nobody else has taken the signal; a server puts its own handler over this."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
