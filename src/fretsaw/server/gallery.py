"""The served folder: which pictures are in it, and nothing else."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from fretsaw.interchange.names import NameIndex
from fretsaw.outputs import IMAGE_SUFFIXES
from fretsaw.server.refusals import NotHereError

MOST_FILES = 20_000
MASK_FOLDERS = ("SegmentationObject", "SegmentationClass")
"""Beside VOC's annotations: masks, which are no pictures to work on."""

MASK_NAMES = "objects.json"
"""Stands in a folder of masks that this package has written."""

REMEMBERED = 2.0
"""Seconds for which a listing is not made again."""


@dataclass(frozen=True, slots=True)
class ListedPicture:
    """A picture in the folder: its id, made from its path, and the path below the folder with forward slashes."""

    id: str
    name: str


class Gallery:
    """Lists a folder and its subfolders. Clients name pictures by id; a path never comes from outside.

    Hidden files and folders, and links that lead out of the folder, are not there.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder.resolve() if folder is not None else None
        self._entries: dict[str, ListedPicture] = {}
        self._listed = float("-inf")
        self._lock = threading.Lock()
        self._index: tuple[dict[str, ListedPicture] | None, NameIndex] = (None, NameIndex(()))

    def entries(self) -> list[ListedPicture]:
        """Return the pictures, sorted by path, at most `MOST_FILES`."""
        with self._lock:
            if time.monotonic() - self._listed > REMEMBERED:
                self._entries = {entry.id: entry for entry in self._walk()}
                self._listed = time.monotonic()
            return list(self._entries.values())

    def path_of(self, identity: str) -> Path:
        """Return where a picture lies.

        Raises:
            NotHereError: If there is none of this id, or not any more.
        """
        entry = self._entries.get(identity) or {entry.id: entry for entry in self.entries()}.get(identity)
        path = self._inside(entry.name) if entry is not None else None
        if path is None:
            raise NotHereError("expected a picture of the served folder or an upload, got an id of neither")
        return path

    def name_of(self, identity: str) -> str | None:
        """Return a picture's path below the folder, or None."""
        entry = self._entries.get(identity) or {entry.id: entry for entry in self.entries()}.get(identity)
        return entry.name if entry is not None else None

    def find(self, name: str) -> ListedPicture | None:
        """Return the picture that a name means, by the rule of `fretsaw.interchange.names.NameIndex`, or None."""
        entries = self.entries()
        listed, index = self._index
        if listed is not self._entries:
            index = NameIndex(entry.name for entry in entries)
            self._index = self._entries, index
        found = index.find(name)
        return next((entry for entry in entries if entry.name == found), None)

    def _is_picture(self, path: str, name: str) -> bool:
        """Return whether a file is a regular one. Folders are not entered through links, so that only a link may lead out of the served one."""
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            return False
        return self._inside(name) is not None if stat.S_ISLNK(mode) else stat.S_ISREG(mode)

    def _inside(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        path = (self.folder / name).resolve()
        return path if path.is_relative_to(self.folder) and path.is_file() else None

    def _walk(self) -> list[ListedPicture]:
        if self.folder is None:
            return []
        found: list[ListedPicture] = []
        for root, folders, files in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and not ("Annotations" in folders and name in MASK_FOLDERS))
            if MASK_NAMES in files:
                continue
            for file in sorted(files):
                if file.startswith(".") or os.path.splitext(file)[1].lower() not in IMAGE_SUFFIXES:
                    continue
                name = (Path(root) / file).relative_to(self.folder).as_posix()
                if not _is_text(name) or not self._is_picture(os.path.join(root, file), name):
                    continue
                found.append(ListedPicture(hashlib.sha256(os.fsencode(name)).hexdigest()[:24], name))
                if len(found) >= MOST_FILES:
                    return found
        return found


def _is_text(name: str) -> bool:
    """Return whether a name can be written in JSON; bytes that are no UTF-8 cannot."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False
