"""A COCO annotation file that grows image by image, for any number of images, and survives a kill.

What is finished goes at once to a journal beside the file (`NAME.json.journal`), one line an image; that costs the same whether it is the first image or the
millionth. The file itself is written once, at the end of a run, from what it held before and the journal, and takes its name when it is complete. A run that
is killed leaves the journal, and the next one goes on from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fretsaw.errors import OutputError
from fretsaw.images import write_pieces
from fretsaw.interchange.json_stream import elements
from fretsaw.ownership import own
from fretsaw.segmentation import Segmentation

CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}
HEADER = {"journal": "COCO annotations by fretsaw", "version": 1}
LISTS = ("images", "annotations", "categories")


class CocoFile:
    """Collects one annotation per object; use as a context manager, in which this process alone owns the file. An existing file is continued unless `overwrite`
    is set.

    Entering raises:
        BusyError: If another process writes the file; the message names it.
        OutputError: If the file or its journal exists and is not what it should be, or cannot be written.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self._path, self._overwrite = path, overwrite
        self._continued = False
        self._images: set[str] = set()
        self._next, self._next_image, self._category = 1, 1, CATEGORY["id"]
        self._changed = False
        self._held = ExitStack()
        self._file: IO[bytes] | None = None

    @property
    def journal(self) -> Path:
        """Where what is finished waits for the end of the run."""
        return self._path.with_name(f"{self._path.name}.journal")

    def __contains__(self, file_name: str) -> bool:
        return file_name in self._images

    def add(self, file_name: str, result: Segmentation) -> None:
        """Add an image and its object, or its instances where the result has any; an empty mask adds the image alone.

        Raises:
            OutputError: If the journal cannot be written.
        """
        height, width = result.mask.shape
        parts = [part for part in result.instances or (result,) if part.mask.any()]
        # All of it is made before any of it is added: an image without its objects would count as finished.
        row = {"file_name": file_name, "height": height, "width": width, "annotations": [part.to_coco() for part in parts]}
        self._append(row)
        self._images.add(file_name)
        self._changed = True

    def __enter__(self) -> CocoFile:
        self._held.enter_context(own(self._path, "another run that writes COCO annotations"))
        try:
            if self._path.exists() and not self._overwrite:
                self._take_over()
            if self._overwrite:
                self.journal.unlink(missing_ok=True)
            elif self.journal.exists():
                self._go_on()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._held:
            if self._file is not None:
                self._file.close()
                self._file = None
            # A run that broke off before its first image leaves the file as it was.
            if self._changed or (kind is None and (self._overwrite or not self._path.exists())):
                write_pieces(self._path, self._pieces())
                self.journal.unlink(missing_ok=True)

    def _append(self, row: dict[str, Any]) -> None:
        try:
            if self._file is None:
                new = not self.journal.exists()
                self._file = open(self.journal, "ab")  # noqa: SIM115, closed at the end of the run
                if new:
                    self._write(HEADER)
            self._write(row)
        except OSError as error:
            raise OutputError(f"{self.journal}: expected a place that can be written, got: {error.strerror or error}") from error

    def _write(self, row: dict[str, Any]) -> None:
        """Hand a line to the operating system, whole or not at all: a part of one, as a full disk leaves it, is taken away again."""
        assert self._file is not None
        end = os.fstat(self._file.fileno()).st_size
        try:
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
        except OSError:
            os.truncate(self.journal, end)
            self._file = open(self.journal, "ab")  # noqa: SIM115, what the old one holds back must not follow
            raise

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the journal's images; one whose line was cut short by a kill is not there."""
        if not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    return
                try:
                    row = json.loads(line)
                    sound = number == 0 or (isinstance(row["file_name"], str) and isinstance(row["annotations"], list))
                except (ValueError, TypeError, KeyError, RecursionError):
                    sound = False
                if not sound:
                    raise OutputError(
                        f"{self.journal}: expected the journal of an interrupted run, got something else in line {number + 1}; --overwrite starts it anew"
                    )
                if number:
                    yield row

    def _go_on(self) -> None:
        """Take over the journal of a run that was killed; what the file already holds of it counts once."""
        length, first = 0, json.dumps(HEADER).encode() + b"\n"
        with self.journal.open("rb") as file:
            begun = first.startswith(file.read(len(first)))
            file.seek(0)
            for line in file:
                length += len(line) if line.endswith(b"\n") else 0
        if not begun:
            raise OutputError(f"{self.journal}: expected the journal of an interrupted run, got something else; move it away")
        found = [row["file_name"] for row in self._rows()]
        os.truncate(self.journal, length)
        if length == 0:
            self.journal.unlink()
        self._changed = any(name not in self._images for name in found)
        self._images.update(found)

    def _take_over(self) -> None:
        seen: dict[str, bool] = dict.fromkeys(LISTS, False)
        try:
            with self._path.open("rb") as file:
                for key, number, value in elements(file, LISTS):
                    if number == 0:
                        seen[key] = True
                    elif number is None and key in LISTS:
                        raise TypeError(f"{key} that are no list")
                    elif key == "images":
                        self._images.add(str(value["file_name"]))
                        self._next_image = max(self._next_image, _number(value["id"]) + 1)
                    elif key == "annotations":
                        self._next = max(self._next, _number(value["id"]) + 1)
            if missing := [key for key in LISTS if not seen[key]]:
                raise KeyError(missing[0])
            categories = {_number(row["id"]): row["name"] for row in self._old("categories")}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise OutputError(f"expected COCO JSON in the existing file {self._path}, got: {reason}; --overwrite starts it anew") from error
        own_number = next((number for number, name in categories.items() if name == CATEGORY["name"]), None)
        # Where there is none, a number of its own: the others mean something else there.
        self._category = max(categories, default=0) + 1 if own_number is None else own_number
        self._continued = True

    def _old(self, wanted: str) -> Iterator[Any]:
        """Yield the elements of one of the lists that the file held before this run."""
        with self._path.open("rb") as file:
            yield from (value for key, number, value in elements(file, LISTS) if key == wanted and number)

    def _pieces(self) -> Iterator[bytes]:
        """Yield the file's content: what it held before, then the journal, numbered on from it; each list is passed over once more, and none is kept."""
        others, categories, names = {}, [], set()
        if self._continued:
            with self._path.open("rb") as file:
                others = {key: value for key, number, value in elements(file, LISTS) if number is None}
            categories = list(self._old("categories"))
        if not any(row["id"] == self._category for row in categories):
            categories.append({**CATEGORY, "id": self._category})
        yield b"{" + b"".join(json.dumps(key).encode() + b": " + json.dumps(value).encode() + b", " for key, value in others.items()) + b'"images": ['
        between, image_id = b"", self._next_image
        for row in self._old("images") if self._continued else ():
            names.add(str(row["file_name"]))
            yield between + json.dumps(row).encode()
            between = b", "
        for row in self._new(names):
            image = {"id": image_id, "file_name": row["file_name"], "height": row["height"], "width": row["width"]}
            yield between + json.dumps(image).encode()
            between, image_id = b", ", image_id + 1
        yield b'], "annotations": ['
        between, image_id, number = b"", self._next_image, self._next
        for row in self._old("annotations") if self._continued else ():
            yield between + json.dumps(row).encode()
            between = b", "
        for row in self._new(names):
            for annotation in row["annotations"]:
                numbered = annotation | {"id": number, "image_id": image_id, "category_id": self._category}
                yield between + json.dumps(numbered).encode()
                between, number = b", ", number + 1
            image_id += 1
        yield b'], "categories": ' + json.dumps(categories).encode() + b"}"

    def _new(self, names: set[str]) -> Iterator[dict[str, Any]]:
        """Yield the journal's images that are none of some names."""
        return (row for row in self._rows() if row["file_name"] not in names)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"an id that is no whole number: {value!r:.60}")
    return value
