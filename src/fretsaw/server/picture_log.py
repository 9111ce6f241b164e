"""The log of one picture on disk: a line for every command, only ever added to.

A line is a checksum, a space and a command as JSON:

    5d41402a {"revision":7,"time":1764530000.5,"person":"","name":"click","arguments":{"x":60,"y":45},"effects":[...]}

A line counts once it is complete and on the disk; `append` returns no sooner. What a killed process began to write was never answered: it is cut off before the
next line is written. A broken line with a sound one behind it is damage.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fretsaw.errors import DataError, OutputError, StaleSessionError
from fretsaw.images import sync_folder
from fretsaw.server.changes import Command

PRIVATE = 0o600


MOST_REVISIONS = 10**9
"""A picture has fewer; a larger number is damage."""

FIRST = b'{"revision":1,'
"""How the first command's line goes on behind its checksum."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in a log.

    Attributes:
        commands: The sound ones from the start, in their order.
        end: Bytes up to the end of the last of them.
        size: Bytes of the file; what lies behind `end` is the beginning of a line, or damage.
        damage: What is wrong behind `end`, or "".
    """

    commands: tuple[Command, ...]
    end: int
    size: int
    damage: str = ""


def read(path: Path, start: int = 0) -> Reading:
    """Read a log from a byte on, the beginning of a line; a log that is not there is empty.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(min(start, size))
            content = file.read()
    except FileNotFoundError:
        return Reading((), 0, 0, "the log is gone" if start else "")
    if start > size:
        return Reading((), size, size, f"expected at least {start} bytes, got {size}")
    commands: list[Command] = []
    end, lines = start, content.split(b"\n")
    for number, line in enumerate(lines[:-1]):
        command = _parsed(line)
        if command is None:
            sound = sum(_parsed(later) is not None for later in lines[number + 1 : -1])
            damage = f"a broken line after command {commands[-1].revision if commands else 'none'}, with {sound} sound ones behind it" if sound else ""
            return Reading(tuple(commands), end, size, damage)
        commands.append(command)
        end += len(line) + 1
    return Reading(tuple(commands), end, size)


def sound(path: Path) -> tuple[list[Command], int]:
    """Return every sound command of a log, wherever it stands, and the number of broken lines; the beginning of a line at the end is none of them.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    parsed = [_parsed(line) for line in lines[:-1]]
    return [command for command in parsed if command is not None], parsed.count(None)


def is_torn_start(path: Path) -> bool:
    """Return whether a log holds nothing but the beginning of its first line, or nothing at all; anything else in it may have been work.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    checksum, _, text = content.partition(b" ")
    return re.fullmatch(rb"[0-9a-f]{0,8}", checksum) is not None and not set(content) & {0, 10} and (FIRST.startswith(text) or text.startswith(FIRST))


def append(path: Path, command: Command, end: int, size: int) -> int:
    """Add a command and return the log's new size, when it is on the disk.

    Args:
        path: The log; made if it is not there, its folder is not.
        command: What was done.
        end: Where the last sound line ends.
        size: What size the file had when it was last read or written.

    Raises:
        StaleSessionError: If the file has another size by now: somebody else wrote it.
        DataError: If the command could not be read back.
        OutputError: If it cannot be written; the log is as it was then.
    """
    line = _line(command)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), PRIVATE)
        try:
            if os.fstat(descriptor).st_size != size:
                raise StaleSessionError("expected to be the only one who writes this picture's log, found that somebody else has; open the picture anew")
            if size > end:
                os.ftruncate(descriptor, end)
            try:
                _write_all(descriptor, line, end)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        if size == 0:
            sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"expected to save the change, got: {error.strerror or error}") from error
    return end + len(line)


def _write_all(descriptor: int, content: bytes, place: int) -> None:
    os.lseek(descriptor, place, os.SEEK_SET)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _line(command: Command) -> bytes:
    try:
        text = json.dumps(asdict(command), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:  # a lone surrogate cannot be encoded, and not a number has no JSON
        raise DataError(f"expected a change that can be written as JSON, got: {type(error).__name__}") from error
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> Command | None:
    """Return the command in a line without its end, or None where it is broken."""
    checksum, _, text = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        row: Any = json.loads(text)
        command = Command(**row)
        return command if _is_sound(row) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _is_sound(row: Any) -> bool:
    """Return whether a command from a file has the types that it should; what its effects hold, the replay finds out."""
    revision, moment = row.get("revision"), row.get("time")
    counts = type(revision) is int and 0 < revision <= MOST_REVISIONS and isinstance(moment, int | float) and abs(moment) < 1e15
    texts = all(isinstance(row.get(name), str) for name in ("person", "name"))
    return counts and texts and isinstance(row.get("arguments"), dict) and isinstance(row.get("effects"), list)
