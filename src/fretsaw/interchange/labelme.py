"""labelme: a JSON file a picture. Masks are written as its shapes of type "mask", which hold every pixel; polygons and rectangles are read too.

Source: labelme's file format (github.com/wkentaro/labelme): `points` of a mask are its first and last pixel, `mask` is a PNG of what lies between.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fretsaw import images, masks
from fretsaw.errors import DataError, shown
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size, told
from fretsaw.interchange.untrusted import LeftOut, boundary, field, parse_json

VERSION = "5.5.0"
"""The version of labelme whose files these are."""


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield <stem>.json for each picture; the pictures themselves are not inside. Empty masks are left out."""
    for picture in pictures:
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": [_shape(item.name, mask) for item in picture.objects if (mask := item.mask).any()],
            "imagePath": picture.file_name.rpartition("/")[2],
            "imageData": None,
            "imageHeight": picture.size[0],
            "imageWidth": picture.size[1],
        }
        yield f"{picture.stem}.json", json.dumps(content).encode()


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the picture of each .json file. Polygons with one `group_id` and label are one object.

    A shape that cannot be used, or encloses nothing, is left out with a sentence; see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If a file is not labelme's, or none of its shapes can be used.
    """
    return [picture for path in sorted(path for path in files if path.endswith(".json")) for picture in _each(path, files[path])]


def _each(path: str, content: bytes) -> Iterator[AnnotatedPicture]:
    expected = "labelme's shapes"
    with boundary(path, expected):
        entries, rows = LeftOut(), LeftOut()
        found = parse_json(content, entries)
        if not isinstance(found, dict):
            raise DataError(f"expected {expected}, got {shown(found)}")
        yield from told([_picture(path, found, rows)], entries, rows, expected)


def _picture(path: str, content: dict[str, Any], rows: LeftOut) -> AnnotatedPicture:
    shapes = field(content, "shapes", list)
    size = checked_size(field(content, "imageHeight", object), field(content, "imageWidth", object), len(shapes))
    folder = path.rpartition("/")[0]
    name = picture_name(field(content, "imagePath", object), "imagePath")
    return AnnotatedPicture(f"{folder}/{name}" if folder else name, size, _objects(shapes, size, rows), path.removesuffix(".json"))


def _shape(name: str, mask: np.ndarray) -> dict[str, Any]:
    x0, y0, x1, y1 = masks.mask_to_box(mask)
    content = images.encode_image(mask[y0:y1, x0:x1], ".png")
    return {
        "label": name,
        "points": [[float(x0), float(y0)], [float(x1 - 1), float(y1 - 1)]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(content).decode(),
    }


def _objects(shapes: list[Any], size: tuple[int, int], rows: LeftOut) -> tuple[NamedMask, ...]:
    objects: dict[Any, NamedMask] = {}
    for number, shape in enumerate(shapes, 1):
        with rows.row(f"shape {number}", "a mask, a polygon or a rectangle"):
            label = class_name(field(shape, "label", object), f"shape {number}")
            mask = _mask(shape, size)
            group = shape.get("group_id")
            if not isinstance(group, int | str | None):
                raise DataError(f"expected a number as 'group_id', got {shown(group)}")
            key = number if group is None else (group, label)
            earlier = objects.get(key)
            objects[key] = NamedMask(label, mask if earlier is None else earlier.mask | mask)
    return tuple(objects.values())


def _mask(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    kind = shape.get("shape_type")
    points = _points(field(shape, "points", list))
    if kind == "mask":
        x, y = round(points[0][0]), round(points[0][1])
        part = images.read_mask(base64.b64decode(field(shape, "mask", str), validate=True), pixel_limit=size[0] * size[1], smallest=1) > 0
        if min(x, y) < 0 or x + part.shape[1] > size[1] or y + part.shape[0] > size[0]:
            raise DataError(f"expected a mask inside {size[1]} x {size[0]} pixels, got {part.shape[1]} x {part.shape[0]} at {shown(points[0])}")
        mask = np.zeros(size, bool)
        mask[y : y + part.shape[0], x : x + part.shape[1]] = part
        return mask
    if kind == "rectangle" and len(points) == 2:
        (xa, ya), (xb, yb) = points
        points = [[xa, ya], [xb, ya], [xb, yb], [xa, yb]]
    elif kind not in (None, "polygon", "rectangle"):
        raise DataError(f"expected a shape out of mask, polygon, rectangle; got {shown(kind)}")
    if len(points) < 3:
        raise DataError(f"expected at least three points, got {len(points)}")
    return masks.from_polygons([points], size)


def _points(points: list[Any]) -> list[list[float]]:
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(isinstance(number, int | float) and abs(number) < 2**31 for number in point):
            raise DataError(f"expected points [x, y] below 2 ** 31, got {shown(point)}")
    if not points:
        raise DataError("expected points [x, y], got none")
    return points
