"""The journal of a run: one line per finished sample, written at once, from which a killed run continues."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from fretsaw.errors import OutputError
from fretsaw.ownership import own

_FORMAT = 1
_HEADER = {"journal", "fingerprint", "settings"}
_RECORD = {"sample", "signature", "record"}


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the settings in canonical JSON: equal settings give equal text, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


class Journal:
    """Append-only records of one run.

    The first line holds the settings and their fingerprint, each further line one sample. A line that a kill cut short is dropped. A journal of other settings
    is set aside as `<name>.old` and a new one begun; `notes` says so.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin the journal.

        Raises:
            BusyError: If another process writes it; the message names it.
            OutputError: If the file cannot be read or written.
        """
        self.path = path
        self.notes: list[str] = []
        self.empty = True
        self._records: dict[tuple[str, str], dict[str, Any]] = {}
        settings = json.loads(json.dumps(settings, default=str))
        header = {"journal": _FORMAT, "fingerprint": fingerprint(settings), "settings": settings}
        self._held = ExitStack()
        self._held.enter_context(own(path, "another evaluation"))
        try:
            fresh = not self._read(header)
            self._file: IO[str] = path.open("w" if fresh else "a", encoding="utf-8")
            if fresh:
                self._write(header)
        except BaseException as error:
            self._held.close()
            if isinstance(error, OSError):
                raise OutputError(f"The journal of the run cannot be written to {path}: {error}") from error
            raise

    def get(self, name: str, signature: str) -> dict[str, Any] | None:
        """Return the record of a sample that is already measured, or None; the signature tells a sample from another of the same name."""
        return self._records.get((name, signature))

    def append(self, name: str, signature: str, record: Mapping[str, Any]) -> None:
        """Write one finished sample and hand the line to the operating system, so that a kill of this process cannot lose it.

        Raises:
            OutputError: If that is not possible, for example because the disk is full; what was written before is kept.
        """
        try:
            self._write({"sample": name, "signature": signature, "record": record})
        except OSError as error:
            raise OutputError(f"The journal of the run cannot be written to {self.path}: {error}; what was finished is kept") from error
        self.empty = False

    def close(self) -> None:
        """Close the file; a journal without any sample is removed."""
        with self._held, suppress(OSError):  # `append` has reported a full disk already
            self._file.close()
            if self.empty:
                self.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the file: the report now holds everything."""
        self.path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _read(self, header: Mapping[str, Any]) -> bool:
        """Take over the records of an earlier run with the same settings; return whether there is one to continue."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return False
        found = self._first_line()
        if found is None or found.get("fingerprint") != header["fingerprint"]:
            os.replace(self.path, self.path.with_name(self.path.name + ".old"))
            self.notes.append(f"{self.path.name} belongs to {_difference(found, header)}: starting afresh, the old one is kept as {self.path.name}.old")
            return False
        kept = 0
        for values, end in self._lines():
            kept = end
            if "sample" in values:
                self._records[values["sample"], values["signature"]] = values["record"]
                self.empty = False
        if kept < self.path.stat().st_size:
            os.truncate(self.path, kept)
        return True

    def _first_line(self) -> dict[str, Any] | None:
        for values, _ in self._lines():
            return values
        return None

    def _lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield every complete line and the offset behind it; stop at the first incomplete one."""
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    values = json.loads(line)
                except ValueError:
                    return
                if not isinstance(values, dict) or not (values.keys() >= _HEADER or values.keys() >= _RECORD):
                    return
                end += len(line)
                yield values, end


def _difference(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    if found is None or not isinstance(found.get("settings"), dict):
        return "no run that can be continued"
    before, after = found["settings"], wanted["settings"]
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    pairs = "; ".join(f"{name} was {before.get(name)!r}, is {after.get(name)!r}" for name in changed)
    return f"another run ({pairs})"
