"""Work on disk, so that nothing is lost when the server is killed.

    <data>/images/<id>/record.json         what is known about a picture and its objects, with their current masks as run lengths
    <data>/images/<id>/original            an uploaded file, byte for byte
    <data>/images/<id>/view.jpg            the picture as the page shows it
    <data>/images/<id>/embedding.safetensors   bound to picture, model and preprocessing
    <data>/images/<id>/steps/<name>        one interaction each, never altered
    <data>/thumbnails/, <data>/exports/    can be made again

Every file appears in full or not at all. An interaction's own file is written before the record that names it, so at any moment the record is whole.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fretsaw.errors import DataError
from fretsaw.images import write_bytes
from fretsaw.server.refusals import NotHereError
from fretsaw.types import Stroke

IDENTITY = re.compile(r"[0-9a-f]{24}")
EMBEDDING = "embedding.safetensors"
VIEW = "view.jpg"


@dataclass(slots=True)
class PartRecord:
    """One of the separate objects that an automatic cut is made of.

    Attributes:
        name: Its class, or "".
        score: The model's own estimate of it.
        box: Half open, x0 y0 x1 y1.
        area: In pixels.
        rle: The mask inside the box, as COCO's compressed run lengths.
    """

    name: str
    score: float
    box: tuple[int, int, int, int]
    area: int
    rle: dict[str, Any]


@dataclass(slots=True)
class ObjectRecord:
    """One object on a picture.

    Attributes:
        id: Unique on its picture, from 1, never used again.
        name: Its class, or "".
        color: "#rrggbb".
        steps: Names of the interactions' files in their order.
        position: How many of them are in place; the rest is undone.
        rle: The current mask as COCO's compressed run lengths.
        score: The model's own estimate of it.
        box: Half open, x0 y0 x1 y1.
        area: In pixels.
        clicks: x, y and positive of the clicks in place.
        scribbles: The lines in place.
        prompt_box: The box prompt in place, or None.
        hidden: Whether the page shows it.
        deleted: Whether it was thrown away; it can be taken back until the picture is forgotten.
        parts: The separate objects of an automatic cut, where the current mask is one that knows them.
        revision: Grows whenever the mask changes.
    """

    id: int
    name: str
    color: str
    rle: dict[str, Any]
    steps: list[str] = field(default_factory=list)
    position: int = 0
    score: float = 0.0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    area: int = 0
    clicks: list[tuple[float, float, bool]] = field(default_factory=list)
    scribbles: list[Stroke] = field(default_factory=list)
    prompt_box: tuple[float, float, float, float] | None = None
    hidden: bool = False
    deleted: bool = False
    parts: list[PartRecord] = field(default_factory=list)
    revision: int = 0


@dataclass(slots=True)
class ImageRecord:
    """A picture and its objects.

    Attributes:
        id: 24 hexadecimal digits.
        name: The file's name, to show and to export; never a path to open.
        uploaded: Whether the original lies in the store, else in the served folder.
        hash: Of the pixels.
        size: (H, W).
        objects: In the order in which they were made.
        changed: Seconds since 1970.
    """

    id: str
    name: str
    uploaded: bool
    hash: str = ""
    size: tuple[int, int] = (0, 0)
    objects: list[ObjectRecord] = field(default_factory=list)
    changed: float = 0.0

    @property
    def living(self) -> list[ObjectRecord]:
        """The objects that were not thrown away."""
        return [item for item in self.objects if not item.deleted]


_RECORDS = TypeAdapter(ImageRecord)


class Store:
    """Reads and writes the folder described above. Several threads may use it for different pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("images", "thumbnails", "exports", "incoming"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        # What a killed server was receiving or packing belongs to nobody.
        for path in (*(folder / "incoming").iterdir(), *(folder / "exports").iterdir()):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def place(self, identity: str) -> Path:
        """Return a picture's folder.

        Raises:
            NotHereError: If it is no identity at all, so that no client's text ever becomes part of a path.
        """
        if not IDENTITY.fullmatch(identity):
            raise NotHereError(f"expected a picture's id, 24 hexadecimal digits, got {identity[:40]!r}")
        return self.folder / "images" / identity

    def read(self, identity: str) -> ImageRecord | None:
        """Return a picture's record, or None where there is none.

        Raises:
            DataError: If it is damaged.
        """
        path = self.place(identity) / "record.json"
        try:
            return _RECORDS.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DataError(f"{path}: expected a picture's record, got: {error.errors()[0]['msg']}") from error

    def write(self, record: ImageRecord) -> None:
        """Save a record.

        Raises:
            OutputError: If the disk is full or the folder not writable.
        """
        record.changed = time.time()
        write_bytes(self.place(record.id) / "record.json", _RECORDS.dump_json(record))

    def identities(self) -> Iterator[str]:
        """Yield every picture that has a record."""
        for entry in os.scandir(self.folder / "images"):
            if IDENTITY.fullmatch(entry.name) and os.path.exists(os.path.join(entry.path, "record.json")):
                yield entry.name

    def incoming(self) -> Path:
        """Return a new path for a file that is being received."""
        return self.folder / "incoming" / secrets.token_hex(12)

    def keep_upload(self, received: Path, name: str) -> str:
        """Move a received file to a picture of its own and return the picture's id."""
        identity = secrets.token_hex(12)
        place = self.place(identity)
        place.mkdir()
        os.replace(received, place / "original")
        self.write(ImageRecord(identity, name, uploaded=True))
        return identity

    def step_path(self, identity: str, name: str) -> Path:
        """Return the path of an interaction's file."""
        return self.place(identity) / "steps" / name

    def sweep_steps(self, record: ImageRecord) -> None:
        """Delete the interactions that the record does not name."""
        folder = self.place(record.id) / "steps"
        named = {name for item in record.objects for name in item.steps}
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in named:
                path.unlink(missing_ok=True)

    def set_aside(self, record: ImageRecord) -> None:
        """Rename a record whose picture has become another one; its masks stay readable."""
        place = self.place(record.id)
        os.replace(place / "record.json", place / f"record-{record.hash[:12]}.json")
        for name in (EMBEDDING, VIEW):
            (place / name).unlink(missing_ok=True)

    def forget(self, identity: str) -> None:
        """Delete a picture's folder, its upload included."""
        place = self.place(identity)
        gone = self.folder / "incoming" / f"gone-{secrets.token_hex(8)}"
        if place.exists():
            os.replace(place, gone)  # first out of sight, in one stroke
            shutil.rmtree(gone, ignore_errors=True)

    def trim_embeddings(self, limit: int) -> None:
        """Delete the embeddings that were not used for longest, until the rest fits into `limit` bytes."""
        found = []
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
