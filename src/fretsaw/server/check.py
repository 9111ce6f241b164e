"""Look through a served folder's saved work and repair what is damaged; `fretsaw serve FOLDER --check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fretsaw.errors import OutputError, StaleSessionError
from fretsaw.server.gallery import Gallery
from fretsaw.server.places import printable
from fretsaw.server.records import ImageRecord
from fretsaw.server.refusals import DamagedError
from fretsaw.server.store import Store
from fretsaw.session_file import read_step


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one picture.

    Attributes:
        identity: The picture's id.
        name: Its file's name, or its id where that cannot be read.
        trouble: What is damaged, or "".
        mended: What was done about it, or "".
        lost: Whether something could not be brought back.
    """

    identity: str
    name: str
    trouble: str = ""
    mended: str = ""
    lost: bool = False


def check(data: Path, folder: Path | None = None) -> Iterator[Finding]:
    """Yield a finding for every picture with saved work, repairing what is damaged; the damaged files themselves are kept, set aside.

    Args:
        data: The folder where a server keeps its work; nobody else may own it.
        folder: The served folder, which knows the names of its pictures where their work does not any more.

    Raises:
        BusyError: If a server is running on it.
        OutputError: If it is not there, or cannot be written.
    """
    if not (data / "images").is_dir():
        raise OutputError(f"{data}: expected a folder with a server's saved work, found none")
    store, gallery = Store(data), Gallery(folder)
    try:
        for identity in sorted(store.identities()):
            yield _examined(store, identity, gallery.name_of(identity))
    finally:
        store.close()


def _examined(store: Store, identity: str, name: str | None) -> Finding:
    trouble: list[str] = []
    mended: list[str] = []
    lost = False
    try:
        record = store.read(identity)
    except DamagedError as error:
        trouble.append(str(error).partition("; ")[0])
        said, lost = store.repair(identity, name)
        mended.append(said)
        record = store.read_only(identity)
    unreadable = _unreadable_steps(store, record) if record is not None else 0
    if unreadable:
        trouble.append(f"{unreadable} interactions cannot be read")
        mended.append("their objects keep their masks, and are corrected from there")
    return Finding(identity, printable(record.name) if record is not None else identity, "; ".join(trouble), "; ".join(mended), lost)


def _unreadable_steps(store: Store, record: ImageRecord) -> int:
    count = 0
    for item in record.objects:
        before = None
        for name in item.steps:
            try:
                before = read_step(store.step_path(record.id, name), record.size, before=before)
            except StaleSessionError:
                before = None
                count += 1
    return count
