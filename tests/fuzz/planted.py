"""Targets with faults, which the harness must notice."""

from __future__ import annotations

import ctypes
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from fretsaw.errors import DataError

from .harness import Refused, Target


def _refuse(message: str) -> None:
    raise DataError(message)


def _later() -> None:
    try:
        _refuse("a.json: row 1 is odd")
    except DataError as error:
        raise Refused(past_header=True) from error


def _wrongly() -> None:
    raise Refused(past_header=True) from ValueError("a reader let this through")


def _spin() -> None:
    while True:
        pass


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "crash": (lambda: ctypes.string_at(0), "the process died: SIGSEGV"),
    "hang": (_spin, "took more than 0.4 s"),
    "sleep": (lambda: time.sleep(60), "took more than 0.4 s"),
    "greed": (lambda: np.ones(100 * 2**20, np.uint8).sum(), "took more than 64 MiB"),
    "endless-greed": (lambda: np.ones(2**28, np.uint8)[0] and time.sleep(2), "took more than 64 MiB"),
    "addresses": (lambda: np.empty(2**36, np.uint8), "MemoryError"),
    "exception": (lambda: {}["x"], "KeyError at planted.py"),
    "wrong-refusal": (_wrongly, "Refused for another reason"),
    "two-lines": (lambda: _refuse("one\ntwo"), "no single printable line"),
    "escape": (lambda: _refuse("one \x1b[2J"), "no single printable line"),
    "long": (lambda: _refuse("x" * 1000), "no single printable line"),
    "warning": (lambda: warnings.warn("odd", stacklevel=1), "warned: UserWarning"),
    "print": (lambda: os.write(2, b"libpng warning: odd"), "printed: 'libpng warning: odd'"),
}
"""What a reader may do wrong, by name, and what the report must say then."""

SOUND: dict[str, tuple[Callable[[], object], tuple[int, int]]] = {
    "value": (lambda: True, (1, 0)),
    "at-the-door": (lambda: _refuse("a.json: expected annotations, got a picture"), (0, 1)),
    "later": (_later, (1, 1)),
}
"""What a reader may do, and whether that counts as past the header and as refused."""


def _target(name: str, call: Callable[[], object]) -> Target:
    def attempt(value: int, folder: Path) -> bool:
        call()
        return True

    return Target(name, st.integers(), attempt, seconds=0.4, memory=64 * 2**20)


TARGETS = [_target(name, call) for name, (call, _) in (FAULTS | SOUND).items()]
