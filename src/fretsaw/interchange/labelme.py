"""labelme: a JSON file a picture. Masks are written as its shapes of type "mask", which hold every pixel; polygons and rectangles are read too.

Source: labelme's file format (github.com/wkentaro/labelme): `points` of a mask are its first and last pixel, `mask` is a PNG of what lies between.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np

from fretsaw import images, masks
from fretsaw.errors import DataError
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size

VERSION = "5.5.0"
"""The version of labelme whose files these are."""


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield <stem>.json for each picture; the pictures themselves are not inside. Empty masks are left out."""
    for picture in pictures:
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": [_shape(item) for item in picture.objects if item.mask.any()],
            "imagePath": picture.file_name.rpartition("/")[2],
            "imageData": None,
            "imageHeight": picture.size[0],
            "imageWidth": picture.size[1],
        }
        yield f"{picture.stem}.json", json.dumps(content).encode()


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the picture of each .json file. Polygons with one `group_id` and label are one object.

    Raises:
        DataError: If a file is not labelme's, or a shape is of a kind that encloses nothing.
    """
    found = []
    for path in sorted(path for path in files if path.endswith(".json")):
        try:
            content = json.loads(files[path])
            size = checked_size(content["imageHeight"], content["imageWidth"], len(content["shapes"]))
            folder = path.rpartition("/")[0]
            name = f"{folder}/{content['imagePath']}" if folder else content["imagePath"]
            found.append(AnnotatedPicture(name, size, _objects(content["shapes"], size), path.removesuffix(".json")))
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise DataError(f"{path}: expected labelme's shapes, got: {error!r:.120}") from error
    return found


def _shape(item: NamedMask) -> dict[str, Any]:
    x0, y0, x1, y1 = masks.mask_to_box(item.mask)
    content = images.encode_image(item.mask[y0:y1, x0:x1], ".png")
    return {
        "label": item.name,
        "points": [[float(x0), float(y0)], [float(x1 - 1), float(y1 - 1)]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(content).decode(),
    }


def _objects(shapes: list[dict[str, Any]], size: tuple[int, int]) -> tuple[NamedMask, ...]:
    objects: dict[Any, NamedMask] = {}
    for number, shape in enumerate(shapes):
        mask = _mask(shape, size)
        group = shape.get("group_id")
        key = number if group is None else (group, shape["label"])
        earlier = objects.get(key)
        objects[key] = NamedMask(str(shape["label"]), mask if earlier is None else earlier.mask | mask)
    return tuple(objects.values())


def _mask(shape: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    kind, points = shape.get("shape_type", "polygon"), shape["points"]
    if kind == "mask":
        part = _read_part(base64.b64decode(shape["mask"], validate=True))
        x, y = round(points[0][0]), round(points[0][1])
        mask = np.zeros(size, bool)
        target = mask[y : y + part.shape[0], x : x + part.shape[1]]
        if x < 0 or y < 0 or target.shape != part.shape:
            raise DataError(f"{shape['label']}: expected a mask inside {size}, got {part.shape} at {points[0]}")
        target[:] = part
        return mask
    if kind == "rectangle":
        (xa, ya), (xb, yb) = points
        points = [[xa, ya], [xb, ya], [xb, yb], [xa, yb]]
    elif kind != "polygon":
        raise DataError(f"{shape['label']}: expected a shape out of mask, polygon, rectangle; got {kind!r}")
    return masks.from_polygons([points], size)


def _read_part(content: bytes) -> np.ndarray:
    """Read a mask's PNG with OpenCV: parts one pixel high or wide are no images to `read_image`."""
    part = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE) if content else None
    if part is None:
        raise DataError("expected a PNG in `mask`, got something else")
    return part > 0
