"""COCO's instance annotations: one JSON file for all pictures.

Source: COCO's data format and mask API (cocodataset.org, pycocotools).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from fretsaw import masks
from fretsaw.errors import DataError, shown
from fretsaw.interchange.json_stream import Groups, elements
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import MOST_MASK_PIXELS, AnnotatedPicture, Files, NamedMask, checked_size, required, told
from fretsaw.interchange.rings import part_rings
from fretsaw.interchange.untrusted import Doubles, LeftOut, boundary, field, parse_json, whole_number

PATH = "annotations.json"
EXPECTED = "COCO's annotations"
LISTS = ("images", "annotations", "categories")
WAITING = 2**23
"""Bytes of annotations that wait in memory while a file is written; more of them wait on the disk."""


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask as COCO's compressed run lengths, which hold everything."""
    return masks.encode_rle(mask)


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Return a mask as COCO's polygons [[x, y, x, y, ...], ...], one a connected part, holes joined to the outline by a cut of no width."""
    return [ring.ravel().astype(float).tolist() for ring in part_rings(mask)]


def write(pictures: Iterable[AnnotatedPicture], segmentation: Callable[[np.ndarray], Any] = run_lengths) -> Files:
    """Yield the one file of a COCO data set; see `pieces`."""
    yield PATH, b"".join(pieces(pictures, segmentation))


def pieces(pictures: Iterable[AnnotatedPicture], segmentation: Callable[[np.ndarray], Any] = run_lengths) -> Iterator[bytes]:
    """Yield the one file of a COCO data set piece by piece, as the pictures come, in bounded memory: annotations wait in a temporary file.

    Args:
        pictures: Empty masks are left out.
        segmentation: `run_lengths` or `polygons`.
    """
    categories: dict[str, int] = {}
    count = 0
    with tempfile.SpooledTemporaryFile(WAITING) as waiting:
        yield b'{"images": ['
        for image_id, picture in enumerate(pictures, 1):
            image = {"id": image_id, "file_name": picture.file_name, "height": picture.size[0], "width": picture.size[1]}
            yield (b", " if image_id > 1 else b"") + json.dumps(image).encode()
            for item in picture.objects:
                mask = item.mask
                x0, y0, x1, y1 = masks.mask_to_box(mask)
                if x1 == 0:
                    continue
                row = {
                    "id": count + 1,
                    "image_id": image_id,
                    "category_id": categories.setdefault(item.name, len(categories) + 1),
                    "segmentation": segmentation(mask),
                    "area": int(np.count_nonzero(mask)),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                }
                if item.score is not None:
                    row["score"] = item.score
                waiting.write((b", " if count else b"") + json.dumps(row).encode())
                count += 1
        rows = [{"id": number, "name": name, "supercategory": "object"} for name, number in categories.items()]
        yield b'], "categories": ' + json.dumps(rows).encode() + b', "annotations": ['
        waiting.seek(0)
        yield from iter(lambda: waiting.read(2**20), b"")
        yield b"]}"


def write_polygons(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield the one file of a COCO data set with polygons."""
    return write(pictures, polygons)


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the pictures of a COCO data set, whichever way its masks are written.

    Raises:
        DataError: If it is no such file.
    """
    return list(each(files))


def each(files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    """`read`, one picture at a time: the masks of a whole data set may not fit into memory.

    A row that cannot be used is left out with a sentence; see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If it is no such file, or none of its annotations, or of its pictures, can be used.
    """
    with boundary(PATH, EXPECTED):
        entries, rows = LeftOut(), LeftOut()
        content = parse_json(required(files, PATH), entries)
        if not isinstance(content, dict):
            raise DataError(f"expected {EXPECTED}, got {shown(content)}")
        with Groups() as groups:
            yield from told(_pictures(_parts(content), groups, entries, rows), entries, rows, EXPECTED)


def each_of(file: IO[bytes]) -> Iterator[AnnotatedPicture]:
    """`each` for a file of any length: read in one pass and in bounded memory, its annotations sorted on the disk by picture.

    Raises:
        DataError: As `each`.
    """
    with boundary(PATH, EXPECTED), Groups() as groups:
        entries, rows, doubles = LeftOut(), LeftOut(), Doubles()

        def parts() -> Iterator[tuple[str, int | None, Any]]:
            yield from elements(file, LISTS, doubles.made)
            doubles.note(entries)

        yield from told(_pictures(parts(), groups, entries, rows), entries, rows, EXPECTED)


def _parts(content: dict[str, Any]) -> Iterator[tuple[str, int | None, Any]]:
    """Yield a file that was read at once as `elements` does."""
    for key, value in content.items():
        if key in LISTS and isinstance(value, list):
            yield key, 0, None
            yield from ((key, number, row) for number, row in enumerate(value, 1))
        else:
            yield key, None, value


def _pictures(parts: Iterable[tuple[str, int | None, Any]], groups: Groups, entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
    found: dict[str, Any] = {}
    places: dict[int | str, tuple[str, tuple[int, int]]] = {}
    for key, number, value in parts:
        if number is None:
            found[key] = value if key in LISTS else None
        elif number == 0:
            found[key] = []
            if key == "images":
                places.clear()
        elif key == "images":
            with entries.row(f"image {number}", "an image"):
                identity = _identity(field(value, "id", object))
                if identity in places:
                    raise DataError(f"expected images with different ids, got {shown(identity)} twice")
                name = picture_name(field(value, "file_name", object), f"image {number}")
                places[identity] = name, checked_size(field(value, "height", object), field(value, "width", object))
        elif key == "annotations":
            try:
                identity = _identity(field(value, "image_id", object))
            except DataError as error:
                rows.lose(f"annotation {number}: {error}")
            else:
                groups.put(identity, [number, value])
        else:
            found[key].append(value)
    for key in LISTS[:2]:
        field(found, key, list)
    for identity in (key for key in groups.keys() if key not in places):  # noqa: SIM118, these are no dictionary
        for number, _ in groups.take(identity):
            rows.lose(f"annotation {number}: expected the id of one of the images, got {shown(identity)}")
    names = _categories(found.get("categories"), rows)
    for identity, (name, size) in places.items():
        listed = [(f"annotation {number}", row) for number, row in groups.take(identity)]
        yield AnnotatedPicture(name, size, tuple(_objects(listed, size, names, rows)))


def _categories(categories: Any, left: LeftOut) -> dict[int | str, str] | None:
    """Return the class names by id; None where the file has no categories at all. What is wrong with one is noted."""
    if categories is None:
        return None
    names: dict[int | str, str] = {}
    for number, row in enumerate(categories if isinstance(categories, list) else [categories], 1):
        try:
            names[_identity(field(row, "id", object))] = class_name(field(row, "name", object), f"category {number}")
        except DataError as error:
            text = str(error)
            left.note(text if text.startswith("category") else f"category {number}: {text}")
    return names


def _identity(value: object) -> int | str:
    """Return an id as it can be looked up: a whole number, however it is written, or text."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        return value
    return whole_number(value, "an id")


def _objects(rows: list[tuple[str, Any]], size: tuple[int, int], names: Mapping[int | str, str] | None, left: LeftOut) -> Iterator[NamedMask]:
    pixels = size[0] * size[1]
    for number, (place, row) in enumerate(rows, 1):
        item = None
        with left.row(place, "a mask"):
            if pixels * number > MOST_MASK_PIXELS:
                raise DataError(f"expected masks of at most {MOST_MASK_PIXELS} pixels on one picture, got more")
            name = "object"
            if names is not None:
                category = _identity(field(row, "category_id", object))
                if category not in names:
                    raise DataError(f"expected the id of one of the categories, got {shown(category)}")
                name = names[category]
            item = NamedMask(name, _mask(field(row, "segmentation", object), size))
        if item is not None:
            yield item


def _mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, dict):
        return masks.decode_rle(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(f"expected run lengths or a list of polygons, got {shown(segmentation)}")
    return masks.unite_polygons(segmentation, size)
