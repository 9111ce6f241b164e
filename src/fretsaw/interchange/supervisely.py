"""Supervisely: a JSON file a picture, called as the picture with .json behind it, in a folder `ann`; meta.json tells the classes of the project.

Source: Supervisely's documentation, "Supervisely JSON format: objects".
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fretsaw import images
from fretsaw.errors import DataError, FretsawError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import NO_CLASSES, ClassList, ObjectClass, color_text
from fretsaw.interchange.json_files import Shapes, json_pictures
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, NamedBox, NamedMask, checked_size
from fretsaw.interchange.untrusted import LeftOut, field, parse_json, whole_number

META = "meta.json"
MOST_PNG_BYTES = 2**28


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the picture of each .json file; the nearest meta.json at or above its folder tells the classes.

    Raises:
        DataError: If a file is not Supervisely's, or none of its objects can be used.
    """
    paths = sorted(path for path in files if path.endswith(".json") and path.rpartition("/")[2] != META)
    return [picture for path in paths for picture in _each(path, files)]


def _each(path: str, files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    folder, _, last = path.rpartition("/")
    name = last.removesuffix(".json")
    # <data set>/ann/a.jpg.json is about <data set>/img/a.jpg
    above = folder.removesuffix("ann").rstrip("/") if folder == "ann" or folder.endswith("/ann") else folder

    def pictures(found: dict[str, Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
        sides, listed = field(found, "size", dict), field(found, "objects", list)
        size = checked_size(field(sides, "height", object), field(sides, "width", object), len(listed))
        items = Shapes()
        for number, row in enumerate(listed, 1):
            kind = row.get("geometryType") if isinstance(row, dict) else None
            with rows.row(f"object {number}", "a bitmap, a polygon or a rectangle", str(kind or "")):
                items.add(_item(row, kind, size, f"object {number}"))
        yield AnnotatedPicture(picture_name(name, "the file's name", above), size, items.masks, boxes=items.boxes, classes=_classes(folder, files))

    return json_pictures(path, content=files[path], expected="Supervisely's size and objects", root=dict, pictures=pictures)


def _classes(folder: str, files: Mapping[str, bytes]) -> ClassList:
    places = [folder, *(folder.rsplit("/", depth)[0] for depth in range(1, folder.count("/") + 1)), ""]
    for place in places:
        path = f"{place}/{META}" if place else META
        if path not in files:
            continue
        try:
            listed = field(parse_json(files[path], LeftOut()), "classes", list)
            found = {}
            for number, row in enumerate(listed, 1):
                name = class_name(field(row, "title", object), f"class {number}")
                identity = row.get("id")
                found.setdefault(name, ObjectClass(name, identity if isinstance(identity, int) else None, color_text(row.get("color"))))
            return ClassList(tuple(found.values()))
        except (FretsawError, ValueError, RecursionError):
            return NO_CLASSES
    return NO_CLASSES


def _item(row: dict[str, Any], kind: Any, size: tuple[int, int], place: str) -> NamedMask | NamedBox:
    name = class_name(field(row, "classTitle", object), place)
    if kind == "bitmap":
        return NamedMask(name, _bitmap(field(row, "bitmap", dict), size))
    if kind not in ("polygon", "rectangle"):
        raise DataError(f"expected a bitmap, a polygon or a rectangle, got {shown(kind)}")
    points = field(row, "points", dict)
    outline = shapes.vertices(field(points, "exterior", list), "exterior")
    if kind == "rectangle":
        return NamedBox(name, shapes.box_around(outline, size), None, place)
    holes = points.get("interior")
    return NamedMask(name, shapes.polygon(outline, size, [shapes.vertices(hole, "interior") for hole in holes] if isinstance(holes, list) else []))


def _bitmap(bitmap: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Return the mask of a PNG, packed by zlib and base64, whose first pixel lies at `origin` [x, y]."""
    origin = field(bitmap, "origin", list)
    if len(origin) != 2:
        raise DataError(f"expected [x, y] as origin, got {shown(origin)}")
    x, y = (whole_number(value, "origin") for value in origin)
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(base64.b64decode(field(bitmap, "data", str), validate=True), MOST_PNG_BYTES)
    except zlib.error as error:
        raise DataError("expected a PNG packed by zlib as data, got something else") from error
    part = images.read_mask(content, pixel_limit=size[0] * size[1], smallest=1) > 0
    if min(x, y) < 0 or x + part.shape[1] > size[1] or y + part.shape[0] > size[0]:
        raise DataError(f"expected a mask inside {size[1]} x {size[0]} pixels, got {part.shape[1]} x {part.shape[0]} at {x}, {y}")
    mask = np.zeros(size, bool)
    mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    return mask
