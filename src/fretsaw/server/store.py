"""Work on disk, so that nothing is lost when the server is killed.

    <data>/.owner, .owner.lock             who serves this folder; a second server is refused
    <data>/images/<id>/log.jsonl           every command on a picture and what it changed, only ever added to (`picture_log.py`)
    <data>/images/<id>/record.json         the picture's record as it was after some command, so that not all of the log must be read
    <data>/images/<id>/original            an uploaded file, byte for byte
    <data>/images/<id>/view.jpg            the picture as the page shows it
    <data>/images/<id>/embedding.safetensors   bound to picture, model and preprocessing
    <data>/images/<id>/steps/<name>        one interaction each, never altered
    <data>/images/<id>/earlier-<hash>/     record, log and steps of another picture that had this file's name before
    <data>/damaged/                        what could not be read and was set aside
    <data>/thumbnails/, <data>/exports/    can be made again

Every file appears in full or not at all. An interaction's own file is on the disk before the command that names it, and the command before the answer, so
at any moment the log is whole. Nobody but the owner of the files may read them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fretsaw.errors import DataError, OutputError, StaleSessionError
from fretsaw.history import Step
from fretsaw.images import sync_folder, write_bytes
from fretsaw.ownership import own
from fretsaw.server import picture_log
from fretsaw.server.changes import PERSON, Command, picture_effect, replay
from fretsaw.server.places import printable
from fretsaw.server.records import IMAGE_RECORD, ImageRecord, ObjectRecord, shown_prompt
from fretsaw.server.refusals import DamagedError, NotHereError
from fretsaw.server.salvage import Salvage, salvage
from fretsaw.session_file import read_step, write_step

IDENTITY = re.compile(r"[0-9a-f]{24}")
LOG = "log.jsonl"
RECORD = "record.json"
ORIGINAL = "original"
EMBEDDING = "embedding.safetensors"
VIEW = "view.jpg"
STEPS = "steps"

PRIVATE_FOLDER = 0o700
COMMANDS_BETWEEN_RECORDS = 100
"""So many commands of a log are read again at most when a picture is opened; beyond it the record is written anew."""

LOG_BYTES_BETWEEN_RECORDS = 2**20


@dataclass(frozen=True, slots=True)
class _End:
    """Where a picture's log ends: the last revision, the end of its line, the file's size, and the revision and end that record.json holds."""

    revision: int
    bytes: int
    size: int
    recorded: int = 0
    recorded_bytes: int = 0


class Store:
    """Reads and writes the folder described above, which it owns until it is closed. Several threads may use it for different pictures.

    Args:
        folder: Made if it is not there.

    Raises:
        BusyError: If another process owns the folder; the message names it.
        OutputError: If the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ends: dict[str, _End] = {}
        self._stack = ExitStack()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: expected a folder that can be written, got: {error.strerror or error}") from error
        self._stack.enter_context(own(folder, "a server"))
        try:
            for name in ("images", "thumbnails", "exports", "incoming"):
                (folder / name).mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            # What a killed server was receiving or packing belongs to nobody; a living one would own the folder.
            for path in (*(folder / "incoming").iterdir(), *(folder / "exports").iterdir()):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as error:
            self.close()
            raise OutputError(f"{folder}: expected a folder that can be written, got: {error.strerror or error}") from error

    def close(self) -> None:
        """Give the folder up."""
        self._stack.close()

    def place(self, identity: str) -> Path:
        """Return a picture's folder.

        Raises:
            NotHereError: If it is no identity at all, so that no client's text ever becomes part of a path.
        """
        if not IDENTITY.fullmatch(identity):
            raise NotHereError(f"expected a picture's id, 24 hexadecimal digits, got {identity[:40]!r}")
        return self.folder / "images" / identity

    def holds(self, identity: str) -> bool:
        """Return whether there is work on a picture, readable or not."""
        place = self.place(identity)
        return (place / LOG).exists() or (place / RECORD).exists()

    def is_upload(self, identity: str) -> bool:
        """Return whether a picture's file lies here rather than in the served folder."""
        return (self.place(identity) / ORIGINAL).exists()

    def identities(self) -> Iterator[str]:
        """Yield every picture with work on it, readable or not."""
        for entry in os.scandir(self.folder / "images"):
            if IDENTITY.fullmatch(entry.name) and self.holds(entry.name):
                yield entry.name

    def stamp(self, identity: str) -> tuple[int, ...]:
        """Return a value that changes with every command on a picture."""
        stamps: list[int] = []
        for name in (LOG, RECORD):
            try:
                status = (self.place(identity) / name).stat()
                stamps += [status.st_size, status.st_mtime_ns]
            except OSError:
                stamps += [0, 0]
        return tuple(stamps)

    def read(self, identity: str) -> ImageRecord | None:
        """Return a picture's record, to be changed by commands, or None where there is none.

        Raises:
            DamagedError: If it cannot be read in full.
        """
        found = self._read(identity)
        if found is None:
            return None
        record, self._ends[identity] = found
        return record

    def read_only(self, identity: str) -> ImageRecord | None:
        """`read` for those who only look: a picture at work may be changed at the same time."""
        found = self._read(identity)
        return found[0] if found is not None else None

    def _read(self, identity: str) -> tuple[ImageRecord | None, _End] | None:
        if not self.holds(identity):
            return None
        place = self.place(identity)
        try:
            state, start = _read_record(place / RECORD)
            recorded = state.get("revision", 0)
            reading = picture_log.read(place / LOG, start)
            if reading.damage:
                raise DataError(reading.damage)
            if not state and picture_log.is_torn_start(place / LOG) and not _has_files(place / STEPS) and not self.is_upload(identity):
                # The first command was never written in full, nor answered: the disk was full, or the process was killed.
                return None, _End(0, 0, reading.size)
            record = _validated(replay(state, reading.commands), identity)
        except (DataError, OSError) as error:
            reason = error.strerror or "it cannot be read" if isinstance(error, OSError) else error
            raise DamagedError(
                f"the saved work on this picture is damaged ({reason}); `fretsaw serve FOLDER --check` repairs it, deleting it starts the picture anew"
            ) from error
        return record, _End(record.revision, reading.end, reading.size, recorded, start)

    def commands(self, identity: str) -> tuple[Command, ...]:
        """Return every command on a picture that its log knows, in their order."""
        return picture_log.read(self.place(identity) / LOG).commands

    def commit(self, record: ImageRecord, name: str, arguments: Mapping[str, Any], effects: Sequence[Mapping[str, Any]]) -> Command:
        """Add a command to a picture's log, and return it when it is on the disk.

        Args:
            record: The picture as it was before; its revision must be the log's last.
            name: Of the command.
            arguments: Small ones, for people to read.
            effects: What it changed.

        Raises:
            StaleSessionError: If somebody else has written the log since.
            DataError: If the command could not be read back.
            OutputError: If the disk is full or the folder not writable; nothing is changed then.
        """
        end = self._ends.get(record.id)
        if end is None:
            self.read(record.id)
            end = self._ends.get(record.id, _End(0, 0, 0))
        command = Command(record.revision + 1, time.time(), PERSON.get(), name, arguments, effects)
        size = picture_log.append(self.place(record.id) / LOG, command, end.bytes, end.size)
        self._ends[record.id] = replace(end, revision=command.revision, bytes=size, size=size)
        return command

    def begin(self, record: ImageRecord, name: str) -> Command:
        """Write the first command on a picture, which makes its folder.

        Raises:
            OutputError: If that is not possible.
        """
        place = self.place(record.id)
        try:
            place.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            (place / STEPS).mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            sync_folder(place.parent)
        except OSError as error:
            raise OutputError(f"expected to save the picture's work, got: {error.strerror or error}") from error
        return self.commit(replace(record, revision=0), name, {}, [picture_effect(None, record)])

    def keep_record(self, record: ImageRecord) -> None:
        """Write a record beside its log, where enough commands have come since the last time.

        Raises:
            OutputError: If the disk is full or the folder not writable; the log alone says everything too.
        """
        end = self._ends[record.id]
        if end.revision - end.recorded < COMMANDS_BETWEEN_RECORDS and end.bytes - end.recorded_bytes < LOG_BYTES_BETWEEN_RECORDS:
            return
        self._write_record(record, end.bytes)
        self._ends[record.id] = replace(end, recorded=end.revision, recorded_bytes=end.bytes)

    def incoming(self) -> Path:
        """Return a new path for a file that is being received."""
        return self.folder / "incoming" / secrets.token_hex(12)

    def keep_upload(self, received: Path, name: str) -> str:
        """Move a received file to a picture of its own and return the picture's id.

        Raises:
            OutputError: If that is not possible; nothing is left behind then.
        """
        identity = secrets.token_hex(12)
        record = ImageRecord(identity, name, uploaded=True)
        # File and log come together, or not at all: a kill leaves no file that no log knows.
        made = self.incoming()
        try:
            made.mkdir(mode=PRIVATE_FOLDER)
            (made / STEPS).mkdir(mode=PRIVATE_FOLDER)
            os.replace(received, made / ORIGINAL)
            _sync_file(made / ORIGINAL)
            picture_log.append(made / LOG, Command(1, time.time(), PERSON.get(), "upload", {}, [picture_effect(None, record)]), 0, 0)
            os.replace(made, self.place(identity))
            sync_folder(self.folder / "images")
        except (OSError, OutputError) as error:
            shutil.rmtree(made, ignore_errors=True)
            raise OutputError(f"{name}: expected to keep the file, got: {getattr(error, 'strerror', None) or error}") from error
        return identity

    def step_path(self, identity: str, name: str) -> Path:
        """Return the path of an interaction's file."""
        return self.place(identity) / STEPS / name

    def keep_step(self, identity: str, name: str, step: Step, before: Step | None = None) -> None:
        """Write an interaction's file; `before` is the interaction before it, to whose file it may refer.

        A folder of the picture that was moved away is not made anew: it would stand in the way of its return.

        Raises:
            OutputError: If the disk is full, or the folder is gone or not writable.
        """
        path = self.step_path(identity, name)
        try:
            path.parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            write_step(path, step, before)
        except (OSError, OutputError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            raise OutputError(f"expected to save the change, got: {getattr(cause, 'strerror', None) or error}") from error

    def sweep_steps(self, record: ImageRecord) -> None:
        """Delete the interactions that the record does not name."""
        folder = self.place(record.id) / STEPS
        named = {name for item in record.objects for name in item.steps}
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in named:
                path.unlink(missing_ok=True)

    def keep_file(self, identity: str, name: str, content: bytes, durable: bool = False) -> Path:
        """Write a file beside a picture's log. A folder of the picture that was moved away is not made anew: it would stand in the way of its return.

        Raises:
            OutputError: If the folder is gone, or the disk is full or not writable.
        """
        return self._write(self.place(identity) / name, content, durable)

    def keep_thumbnail(self, name: str, content: bytes) -> Path:
        """Write a small picture, see `keep_file`."""
        return self._write(self.folder / "thumbnails" / name, content, False)

    def _write(self, path: Path, content: bytes, durable: bool) -> Path:
        try:
            return write_bytes(path, content, durable, picture_log.PRIVATE, make_folders=False)
        except OutputError:
            if not path.parent.is_dir():
                raise OutputError("expected the folder with this picture's work, found that it was moved away or deleted; put it back") from FileNotFoundError()
            raise

    def set_aside(self, record: ImageRecord) -> str:
        """Put away the work on a picture whose file has become another picture; return the name of the folder that holds it, see `bring_back`."""
        place = self.place(record.id)
        aside = place / f"earlier-{record.hash[:12]}-{secrets.token_hex(3)}"
        aside.mkdir(mode=PRIVATE_FOLDER)
        # The log goes first: from then on the rest speaks of nothing, whatever happens.
        for name in (LOG, RECORD, STEPS):
            if (place / name).exists():
                os.replace(place / name, aside / name)
        for name in (EMBEDDING, VIEW):
            (place / name).unlink(missing_ok=True)
        self._ends.pop(record.id, None)
        return aside.name

    def bring_back(self, identity: str, found: str) -> ImageRecord | None:
        """Take up again the work that was put away when another picture had this one's name; return None where there is none that can be read.

        Args:
            identity: Of the picture, on which there is no work now.
            found: Hash of its pixels.
        """
        place = self.place(identity)
        if self.holds(identity):
            return None
        for aside in sorted(place.glob(f"earlier-{found[:12]}-*")):
            for name in (STEPS, RECORD, LOG):  # the log comes last: without it, the rest speaks of nothing
                if (aside / name).exists():
                    os.replace(aside / name, place / name)
            with suppress(DamagedError):
                if (record := self.read(identity)) is not None and record.hash == found:
                    with suppress(OSError):
                        aside.rmdir()
                    return record
            for name in (LOG, RECORD, STEPS):
                if (place / name).exists():
                    os.replace(place / name, aside / name)
            self._ends.pop(identity, None)
        return None

    def forget(self, identity: str) -> None:
        """Delete a picture's folder, its upload included."""
        place = self.place(identity)
        gone = self.folder / "incoming" / f"gone-{secrets.token_hex(8)}"
        self._ends.pop(identity, None)
        if place.exists():
            os.replace(place, gone)  # first out of sight, in one stroke
            shutil.rmtree(gone, ignore_errors=True)

    def trim_embeddings(self, limit: int) -> None:
        """Delete the embeddings that were not used for longest, until the rest fits into `limit` bytes."""
        found: list[tuple[float, int, Path]] = []
        for path in (self.folder / "images").glob(f"*/{EMBEDDING}"):
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= limit:
                return
            path.unlink(missing_ok=True)
            total -= size

    def repair(self, identity: str, name: str | None = None) -> tuple[str, bool]:
        """Bring back what can be read of a picture's damaged work and set the damaged files aside.

        Args:
            identity: Of the picture.
            name: Its file's, where the served folder knows it.

        Returns:
            Sentences that say what was done and what is lost, and whether anything is.

        Raises:
            OutputError: If the folder cannot be written.
        """
        place, is_upload = self.place(identity), self.is_upload(identity)
        found = self._salvaged(identity, name or f"picture-{identity[:8]}")
        aside = self.folder / "damaged" / f"{identity}-{secrets.token_hex(3)}"
        try:
            aside.mkdir(mode=PRIVATE_FOLDER, parents=True)
            for file in (LOG, RECORD):
                if (place / file).exists():
                    os.replace(place / file, aside / file)
            self._ends.pop(identity, None)
            if found is not None:
                record = replace(found.record, uploaded=is_upload)
                self._write_record(record, 0)
                said = f"{printable(record.name)}: repaired; {found.commands} commands and {len(record.living)} objects could be read"
                return "; ".join((said, *found.lost, f"the damaged files are in {aside}")), bool(found.lost)
            if is_upload:
                self.begin(ImageRecord(identity, f"picture-{identity[:8]}", uploaded=True), "upload")
                return f"{identity}: none of the work could be read; the uploaded picture is kept, and the damaged files are in {aside}", True
            shutil.rmtree(place, ignore_errors=True)
        except OSError as error:
            raise OutputError(f"expected a folder that can be written, got: {error.strerror or error}") from error
        return f"{identity}: nothing could be read; the damaged files are in {aside}", True

    def _salvaged(self, identity: str, name: str) -> Salvage | None:
        """Return what the sound parts of record.json, log and interactions' files give."""
        place = self.place(identity)
        try:
            commands, broken = picture_log.sound(place / LOG)
        except OSError:
            commands, broken = [], 0
        files = [path.name for path in (place / STEPS).iterdir()] if (place / STEPS).is_dir() else []
        try:
            state, _ = _read_record(place / RECORD)
            found = salvage(_plain(_validated(state, identity)), commands, files, identity, name) if state else None
        except (DataError, OSError):
            found = None
        found = found or salvage({}, commands, files, identity, name)
        if found is None:
            return None
        objects = [self._with_read_prompt(found.record, item) if item.id in found.gaps else item for item in found.record.objects]
        lost = (*((f"{broken} broken lines",) if broken else ()), *found.lost)
        return replace(found, record=replace(found.record, objects=objects), lost=lost)

    def _with_read_prompt(self, record: ImageRecord, item: ObjectRecord) -> ObjectRecord:
        """Return an object with the clicks, lines and box that its current interaction's file holds; as it is where that cannot be read."""
        if not item.position:
            return replace(item, clicks=[], scribbles=[], prompt_box=None)
        try:
            prompt = read_step(self.step_path(record.id, item.steps[item.position - 1]), record.size).prompt
        except StaleSessionError:
            return item
        return replace(item, **shown_prompt(prompt))

    def _write_record(self, record: ImageRecord, log_bytes: int) -> None:
        text = IMAGE_RECORD.dump_json(record)
        head = b'{"log_bytes":%d,"checksum":"%08x","record":' % (log_bytes, zlib.crc32(text))
        self.keep_file(record.id, RECORD, head + text + b"}", durable=True)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _read_record(path: Path) -> tuple[dict[str, Any], int]:
    """Return a record as JSON and how much of the log it knows; ({}, 0) where there is none. Records of earlier versions stand alone, without a log.

    Raises:
        DataError: If it is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}, 0
    try:
        row = json.loads(content)
        if "record" not in row:
            return row | {"revision": 0}, 0
        text = content[content.index(b'"record":') + len(b'"record":') : -1]
        if int(row["checksum"], 16) != zlib.crc32(text):
            raise DataError("record.json does not fit its checksum")
        return row["record"], int(row["log_bytes"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError("record.json is no record") from error


def _plain(record: ImageRecord) -> dict[str, Any]:
    row: dict[str, Any] = IMAGE_RECORD.dump_python(record, mode="json")
    return row


def _validated(state: dict[str, Any], identity: str) -> ImageRecord:
    try:
        record = IMAGE_RECORD.validate_python(state)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if record.id != identity:
        raise DataError("the record is of another picture")
    if not record.is_text:
        raise DataError("a name is no text")
    for item in record.objects:
        if tuple(item.rle.get("size", ())) != record.size or not 0 <= item.position <= len(item.steps):
            raise DataError(f"object {item.id} does not fit its picture")
    return record
