"""ISAT (Image Segmentation Annotation Tool with Segment Anything): a JSON file a picture.

Polygons that share a category and a group are one object; the one with the higher layer lies on top. A polygon of the class `__background__` cuts a hole into
all that lies below it.

Source: ISAT's documentation of its annotation format (github.com/yatengLG/ISAT_with_segment_anything).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fretsaw.errors import DataError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.json_files import Shapes, json_pictures
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask, checked_size
from fretsaw.interchange.untrusted import LeftOut, field

BACKGROUND = "__background__"


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the picture of each .json file.

    Raises:
        DataError: If a file is not ISAT's, or none of its polygons can be used.
    """
    return [picture for path in sorted(path for path in files if path.endswith(".json")) for picture in _each(path, files[path])]


def _each(path: str, content: bytes) -> Iterator[AnnotatedPicture]:
    def pictures(found: dict[str, Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
        info, listed = field(found, "info", dict), field(found, "objects", list)
        size = checked_size(field(info, "height", object), field(info, "width", object), len(listed))
        name = picture_name(field(info, "name", object), "name", path.rpartition("/")[0])
        yield AnnotatedPicture(name, size, _objects(listed, size, rows), path.removesuffix(".json"))

    return json_pictures(path, content, "ISAT's info and objects", dict, pictures)


def _objects(listed: list[Any], size: tuple[int, int], rows: LeftOut) -> tuple[NamedMask, ...]:
    drawn: list[tuple[float, str, Any, np.ndarray]] = []
    for number, row in enumerate(listed, 1):
        with rows.row(f"object {number}", "a polygon"):
            name = class_name(field(row, "category", object), f"object {number}")
            mask = shapes.polygon(shapes.vertices(field(row, "segmentation", list)), size)
            group = row.get("group")
            if not isinstance(group, int | str | None):
                raise DataError(f"expected a number as 'group', got {shown(group)}")
            key = number if group in (None, "", 0, "0") else (group, name)
            drawn.append((shapes.number(row.get("layer", 0) or 0, "layer"), name, key, mask))
    found: dict[Any, tuple[float, str, np.ndarray]] = {}
    for layer, name, key, mask in sorted(drawn, key=lambda row: row[0]):
        if name == BACKGROUND:
            found = {other: (height, label, below & ~mask) for other, (height, label, below) in found.items()}
        else:
            found[key] = (layer, name, mask | found[key][2] if key in found else mask)
    items = Shapes()
    for layer, name, mask in found.values():
        items.add(NamedMask(name, mask), layer)
    return items.masks
