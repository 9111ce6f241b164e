"""Own a folder or a file while this process writes it, so that a second writer is refused at once and told who holds it.

The lock belongs to the process: the operating system takes it back however the process ends, so a lock file that lies about means nothing. Beside the lock
stands a small file that says who owns the place; it is read for the message alone and decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from fretsaw.errors import BusyError, OutputError

PATIENCE = 0.2
"""Seconds after which a held lock counts as held: as long as an owner needs to write its name, or to leave."""

LONGEST_NAME = 200
"""Bytes of a file's name that are repeated in its lock's name; file systems allow 255."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a place.

    Attributes:
        what: What it does there, for example "a training run".
        pid: Number of the process.
        host: Name of the machine.
        since: When it took the place: local time with its offset, ISO 8601.
    """

    what: str
    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid} on {self.host}, since {self.since})"


@contextmanager
def own(path: str | os.PathLike[str], what: str = "another command", name: str = ".owner") -> Generator[Path, None, None]:
    """Own a folder or a file while the block runs; a context manager.

    Sharded writers own their part: the lock is on the path that is given and on nothing above or below it. Links and other spellings of a path share its lock.

    Args:
        path: An existing folder, which then holds the lock file; or a file, there or not, whose lock lies beside it. The folder of a file is made.
        what: What this process does there, with its article: "a training run", "a server".
        name: Name of the lock's files in a folder: `name` says who owns it, `name`.lock is the lock.

    Yields:
        The path, with links resolved.

    Raises:
        BusyError: At once, if another process, or another block of this one, owns it; the message names the owner.
        OutputError: If the lock cannot be made there, for example because the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    place = Path(path)
    try:
        place = place.resolve()
        card = _card_of(place, name)
        card.parent.mkdir(parents=True, exist_ok=True)
        # Not bound to a thread: a server may leave in another thread than it came in.
        lock = FileLock(card.with_name(f"{card.name}.lock"), timeout=PATIENCE, thread_local=False)
        lock.acquire(poll_interval=PATIENCE / 10)
    except Timeout:
        holder = owner_of(place, name)
        raise BusyError(
            f"{_shown(path)}: expected a place that nobody else writes, got one that is owned by {holder or 'another process'}; "
            "wait for its end, or use another place"
        ) from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise OutputError(f"{_shown(path)}: expected a place that can be written, got: {getattr(error, 'strerror', None) or error}") from error
    try:
        with suppress(OSError):  # the lock is what counts; without the card, the message to others is poorer
            card.write_text(json.dumps(asdict(Owner(what, os.getpid(), socket.gethostname(), _now()))))
        yield place
    finally:
        for file in (card, card.with_name(f"{card.name}.lock")):
            with suppress(OSError):  # Windows keeps an open file; and what lies about means nothing
                file.unlink()
        lock.release()


def owner_of(path: str | os.PathLike[str], name: str = ".owner") -> Owner | None:
    """Return who wrote its name at a folder or a file last; None if nobody did or the name cannot be read. Whether it still lives, only `own` finds out."""
    try:
        facts = json.loads(_card_of(Path(path).resolve(), name).read_bytes())
        return Owner(_line(facts["what"]), int(facts["pid"]), _line(facts["host"]), _line(facts["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_lock(path: Path) -> bool:
    """Whether a file is one that `own` writes under its usual name."""
    return path.name.endswith((".owner", ".owner.lock")) and path.name.startswith(".")


def _card_of(place: Path, name: str) -> Path:
    if place.is_dir():
        return place / name
    known = place.name if len(os.fsencode(place.name)) <= LONGEST_NAME else hashlib.sha256(os.fsencode(place.name)).hexdigest()
    return place.with_name(f".{known}.owner")


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


def _line(value: object) -> str:
    """Return a text of one printable line and some length: whoever can write the folder can write the card."""
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return "".join(letter for letter in value if letter.isprintable())[:100]


def _shown(path: str | os.PathLike[str]) -> str:
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)
