"""Finished work as files: one picture's, or everything as a zip."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from fretsaw import images, masks
from fretsaw.errors import OutputError
from fretsaw.interchange.formats import WRITERS
from fretsaw.interchange.names import Stems
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, file_part
from fretsaw.server.records import ImageRecord, ObjectRecord
from fretsaw.server.sessions import Sessions

CUTOUT = "cutout"
FORMATS = (*WRITERS, CUTOUT)
TYPES = {
    ".png": "image/png",
    ".json": "application/json",
    ".xml": "application/xml",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
    ".zip": "application/zip",
}


def check_format(name: str) -> None:
    """Raise `OutputError` unless the format is known."""
    if name not in FORMATS:
        raise OutputError(f"expected a format out of {', '.join(FORMATS)}; got {name[:40]!r}")


def pictures(records: Iterable[ImageRecord], stems: dict[str, str]) -> Iterator[AnnotatedPicture]:
    """Yield what the records know, one picture at a time; objects without a pixel are left out, and those without a name are called "object".

    Where an automatic cut knows its parts, each of them is an object.
    """
    for record in records:
        objects = tuple(mask for item in record.living if item.area for mask in _named_masks(item, record.size))
        yield AnnotatedPicture(record.name, record.size, objects, stems.get(record.id, ""))


def _named_masks(item: ObjectRecord, size: tuple[int, int]) -> Iterator[NamedMask]:
    name = item.name or "object"
    if not item.parts:
        yield NamedMask(name, masks.decode_rle(item.rle))
    for part in item.parts:
        mask = np.zeros(size, bool)
        x0, y0, x1, y1 = part.box
        mask[y0:y1, x0:x1] = masks.decode_rle(part.rle)
        yield NamedMask(part.name or name, mask)


def unique_stems(records: Iterable[ImageRecord]) -> dict[str, str]:
    """Return, by picture, the path without suffix for files about it; see `fretsaw.interchange.names.Stems`."""
    stems = Stems()
    return {record.id: stems.take(record.name) for record in records}


def cutouts(records: Iterable[ImageRecord], stems: dict[str, str], sessions: Sessions) -> Files:
    """Yield each object on a transparent ground, with smooth edges, cut to its box."""
    for record in records:
        stem = stems.get(record.id) or AnnotatedPicture(record.name, record.size).stem
        numbers = itertools.count(1)
        for item in (item for item in record.living if item.area):
            with sessions.use(record.id) as picture:
                result = picture.objects.result(item.id)
            # The parts of a result know no picture of their own.
            cuts = [replace(part, image=result.image, name=part.name or item.name) for part in result.instances if part.area] or [
                replace(result, name=item.name)
            ]
            for cut in cuts:
                yield f"{stem}/{next(numbers):02d}-{file_part(cut.name or 'object')}.png", images.encode_image(cut.cutout().crop(cut.box), ".png")


def files(records: list[ImageRecord], format: str, sessions: Sessions, step: Callable[[str], None] = lambda name: None) -> Files:
    """Yield the files of an export.

    Args:
        records: The pictures.
        format: One of `FORMATS`.
        sessions: For the cut-outs, which need the pictures themselves.
        step: Told each picture's name when it is begun.

    Raises:
        OutputError: If the format is unknown.
    """
    check_format(format)
    stems = unique_stems(records)

    def told() -> Iterator[ImageRecord]:
        for record in records:
            step(record.name)
            yield record

    if format == CUTOUT:
        return cutouts(told(), stems, sessions)
    return WRITERS[format](pictures(told(), stems))


def one_download(record: ImageRecord, format: str, sessions: Sessions) -> tuple[str, bytes]:
    """Return a picture's export as one file, name and content: the file itself where there is but one, else a zip.

    A single PNG mask comes without the file of names beside it.

    Raises:
        OutputError: If the format is unknown or there is nothing to export.
    """
    made = list(files([record], format, sessions))
    stem = file_part(AnnotatedPicture(record.name, (1, 1)).stem.rpartition("/")[2])
    shown = [row for row in made if row[0].endswith(".png")] if format in ("png", CUTOUT) else made
    if not shown:
        raise OutputError("expected at least one object with a mask, got none")
    if len(shown) == 1:
        path, content = shown[0]
        return f"{stem}-{path.rpartition('/')[2]}", content
    buffer = io.BytesIO()
    pack(buffer, made)
    return f"{stem}-{format}.zip", buffer.getvalue()


def pack(target: Path | io.BytesIO, made: Iterable[tuple[str, bytes]]) -> None:
    """Write files into a zip as they come."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        for path, content in made:
            method = zipfile.ZIP_STORED if path.endswith(".png") else zipfile.ZIP_DEFLATED
            archive.writestr(path, content, method)
