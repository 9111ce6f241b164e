"""Ctrl-C and SIGTERM: the work stops in order, what was finished is kept, and the exit status says which signal it was.

The first signal stops the work. Those that follow, from an impatient hand or from a shell that passes the same one on, interrupt neither the saving of what
was finished nor the summary nor the end of the process. Who insists ends the process at once: the third signal does, if it comes `INSISTING` seconds after
the first or later.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from typer.core import TyperGroup

MESSAGE = "interrupted; what was finished is kept"
HANDLED = (signal.SIGINT, signal.SIGTERM)
ENOUGH = 3
"""So many signals end the process at once."""

INSISTING = 2.0
"""Seconds from the first signal until the process can be ended so: a key that bounces does not insist."""


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


class _Signals:
    """What has come so far; the handler of both signals."""

    def __init__(self) -> None:
        self.first: KeyboardInterrupt | None = None
        self._count, self._since = 0, 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self.first is None:
            self.first, self._since = (Terminated() if number == signal.SIGTERM else KeyboardInterrupt()), time.monotonic()
            raise self.first
        if self._count >= ENOUGH and time.monotonic() - self._since >= INSISTING:
            # Written past the stream's buffer, in whose midst the signal may have come.
            os.write(2, b"fretsaw: ended at once\n")
            os._exit(128 + number)


_signals = _Signals()


def raise_if_interrupted() -> None:
    """Raise the interrupt that has come, if one has: for a loop, between two items. Python drops what is raised in the midst of a finaliser or a callback.

    Raises:
        KeyboardInterrupt: If a signal has come.
    """
    if _signals.first is not None:
        raise _signals.first


def _pass_at_the_end() -> None:
    """Ignore what comes once all others have cleaned up: Python takes its handlers away before it ends, and the process would die of the signal then."""
    for number in HANDLED:
        if signal.getsignal(number) is _signals:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def unwinding() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM unwind the work, and the later ones pass, where nobody else has taken the signals; a server puts handlers of its own over
    these. Once a signal has come, the handler stays: what is left of the process is its end.
    """
    global _signals
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    taken = threading.current_thread() is not threading.main_thread()
    if taken or any(signal.getsignal(number) is not default for number, default in defaults.items()):
        yield
        return
    _signals = handler = _Signals()
    atexit.unregister(_pass_at_the_end)
    atexit.register(_pass_at_the_end)  # before the work loads anything: what is registered first is called last
    for number in HANDLED:
        signal.signal(number, handler)
    try:
        yield
    finally:
        if handler.first is None:
            for number, default in defaults.items():
                if signal.getsignal(number) is handler:
                    signal.signal(number, default)
