"""labelme: a JSON file a picture. Masks are written as its shapes of type "mask", which hold every pixel; all shapes that enclose something are read.

X-AnyLabeling writes the same files with a few kinds of shapes more.

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
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import text_attributes
from fretsaw.interchange.json_files import PictureSizes, json_pictures, no_pictures
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size
from fretsaw.interchange.untrusted import LeftOut, field
from fretsaw.types import Box

WORDS = {"point": "point", "points": "point", "line": "line", "linestrip": "line"}
"""What shapes that enclose nothing are called in a report."""
VERSION = "5.5.0"
"""The version of labelme whose files these are."""


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield <stem>.json for each picture; the pictures themselves are not inside. Empty masks are left out."""
    for picture in pictures:
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": [_shape(item, mask) for item in picture.objects if (mask := item.mask).any()],
            "imagePath": picture.file_name.rpartition("/")[2],
            "imageData": None,
            "imageHeight": picture.size[0],
            "imageWidth": picture.size[1],
        }
        yield f"{picture.stem}.json", json.dumps(content).encode()


def read(files: Mapping[str, bytes], sizes: PictureSizes = no_pictures) -> list[AnnotatedPicture]:
    """Return the picture of each .json file. Shapes with one `group_id` and label are one object.

    Polygons, rectangles (also with four corners and turned, as X-AnyLabeling writes them), circles and masks are read. A shape that cannot be used, or
    encloses nothing, is left out with a sentence; see `AnnotatedPicture.left_out`.

    Args:
        files: By path.
        sizes: Finds a picture's size where its file tells none and does not hold the picture.

    Raises:
        DataError: If a file is not labelme's, or none of its shapes can be used.
    """
    return [picture for path in sorted(path for path in files if path.endswith(".json")) for picture in _each(path, files[path], sizes)]


def _each(path: str, content: bytes, sizes: PictureSizes) -> Iterator[AnnotatedPicture]:
    def pictures(found: dict[str, Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
        listed = field(found, "shapes", list)
        name = picture_name(field(found, "imagePath", object), "imagePath", path.rpartition("/")[0])
        size = _size(found, name, len(listed), sizes)
        yield AnnotatedPicture(name, size, _objects(listed, size, rows), path.removesuffix(".json"))

    return json_pictures(path, content, "labelme's shapes", dict, pictures)


def _size(content: dict[str, Any], name: str, count: int, sizes: PictureSizes) -> tuple[int, int]:
    """Return the picture's size as the file tells it; else as the picture inside the file, as old ones hold it, or beside it has it."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if height is None or width is None:
        if isinstance(held := content.get("imageData"), str) and held:
            return checked_size(*images.picture_size(base64.b64decode(held)), count)
        if (there := sizes(name)) is not None:
            return checked_size(*there[1], count)
        raise DataError(
            f"expected the picture's size in 'imageHeight' and 'imageWidth', the picture in 'imageData', or the picture {name} beside the file, found none"
        )
    return checked_size(height, width, count)


def _shape(item: NamedMask, mask: np.ndarray) -> dict[str, Any]:
    x0, y0, x1, y1 = masks.mask_to_box(mask)
    content = images.encode_image(mask[y0:y1, x0:x1], ".png")
    shape = {
        "label": item.name,
        "points": [[float(x0), float(y0)], [float(x1 - 1), float(y1 - 1)]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(content).decode(),
    }
    return shape | ({"attributes": dict(item.attributes)} if item.attributes else {}) | ({"score": item.score} if item.score is not None else {})


def _objects(listed: list[Any], size: tuple[int, int], rows: LeftOut) -> tuple[NamedMask, ...]:
    objects: dict[Any, NamedMask] = {}
    for number, shape in enumerate(listed, 1):
        kind = shape.get("shape_type") if isinstance(shape, dict) else None
        with rows.row(f"shape {number}", "a mask, a polygon, a rectangle or a circle", WORDS.get(kind, "shape") if isinstance(kind, str) else "shape"):
            label = class_name(field(shape, "label", object), f"shape {number}")
            mask, box = _mask(shape, kind, size)
            group = shape.get("group_id")
            if not isinstance(group, int | str | None):
                raise DataError(f"expected a number as 'group_id', got {shown(group)}")
            place = number if group is None else (group, label)
            earlier, score = objects.get(place), shape.get("score")
            sure = float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None
            said = text_attributes({name: True for name, value in _mapping(shape, "flags").items() if value is True} | _mapping(shape, "attributes"))
            if earlier is None:
                objects[place] = NamedMask(label, mask, sure, box, said)
            else:
                objects[place] = NamedMask(label, earlier.mask | mask, earlier.score, attributes={**earlier.attributes, **said})
    return tuple(objects.values())


def _mapping(shape: dict[str, Any], name: str) -> dict[str, Any]:
    found = shape.get(name)
    return found if isinstance(found, dict) else {}


def _mask(shape: dict[str, Any], kind: Any, size: tuple[int, int]) -> tuple[np.ndarray, Box | None]:
    """Return a shape's mask, and the box that it was drawn as."""
    points = shapes.vertices(field(shape, "points", list))
    if kind == "mask":
        x, y = (round(value) for value in points[0].tolist())
        part = images.read_mask(base64.b64decode(field(shape, "mask", str), validate=True), pixel_limit=size[0] * size[1], smallest=1) > 0
        if min(x, y) < 0 or x + part.shape[1] > size[1] or y + part.shape[0] > size[0]:
            raise DataError(f"expected a mask inside {size[1]} x {size[0]} pixels, got {part.shape[1]} x {part.shape[0]} at {shown(points[0].tolist())}")
        mask = np.zeros(size, bool)
        mask[y : y + part.shape[0], x : x + part.shape[1]] = part
        return mask, None
    if kind == "circle":
        if len(points) != 2:
            raise DataError(f"expected a circle's centre and a point on it, got {len(points)} points")
        radius = float(np.hypot(*(points[1] - points[0])))
        return shapes.ellipse(float(points[0, 0]), float(points[0, 1]), radius, radius, size), None
    if kind == "rectangle" and (len(points) == 2 or shapes.is_upright_box(points)):
        box = shapes.box_around(points, size)
        return shapes.box_mask(box, size), box
    if kind in (None, "polygon", "rectangle", "rotation", "oriented_rectangle"):
        return shapes.polygon(points, size), shapes.box_around(points, size) if kind in ("rotation", "oriented_rectangle") else None
    raise DataError(f"expected a mask, a polygon, a rectangle or a circle, got {shown(kind)}, which encloses nothing")
