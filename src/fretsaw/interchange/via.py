"""VIA, the VGG Image Annotator, version 2: its JSON export, and its project file. Neither says how large a picture is, so the pictures must be there.

The class of a region is the first of its attributes that has a value, `name`, `label`, `class`, `type` and `category` before others.

Source: VIA's documentation (robots.ox.ac.uk/~vgg/software/via), "export and import of annotations".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fretsaw.errors import DataError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import NO_CLASSES, ClassList, text_attributes
from fretsaw.interchange.coco import UNNAMED
from fretsaw.interchange.json_files import PictureSizes, Shapes, json_pictures
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, NamedBox, NamedMask, checked_size
from fretsaw.interchange.untrusted import LeftOut, field

PATH = "via.json"
NAMED = ("name", "label", "class", "type", "category")


def each(content: bytes, sizes: PictureSizes) -> Iterator[AnnotatedPicture]:
    """Yield the pictures of a VIA file.

    Args:
        content: Of the file.
        sizes: Finds the pictures' sizes.

    Raises:
        DataError: If it is no such file, or none of its regions can be used.
    """

    def pictures(found: dict[str, Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
        classes = _classes(found.get("_via_attributes"))
        listed = found.get("_via_img_metadata", found)
        if not isinstance(listed, dict):
            raise DataError(f"expected pictures by their key, got {shown(listed)}")
        for number, entry in enumerate(listed.values(), 1):
            picture = None
            with entries.row(f"file {number}", "a file and its regions", "picture"):
                picture = _picture(entry, number, classes, sizes, rows)
            if picture is not None:
                yield picture

    return json_pictures(PATH, content, "VIA's files and regions", dict, pictures)


def _classes(attributes: Any) -> ClassList:
    """Return the classes that a project offers: the options of the attribute that names regions."""
    regions = attributes.get("region") if isinstance(attributes, dict) else None
    for name in NAMED:
        options = regions.get(name, {}).get("options") if isinstance(regions, dict) and isinstance(regions.get(name), dict) else None
        if isinstance(options, dict):
            names = []
            for option in options:
                try:
                    names.append(class_name(option, "option"))
                except DataError:
                    continue
            return ClassList.of(names)
    return NO_CLASSES


def _picture(entry: Any, number: int, classes: ClassList, sizes: PictureSizes, rows: LeftOut) -> AnnotatedPicture:
    name = picture_name(field(entry, "filename", object), f"file {number}")
    regions = entry.get("regions", [])
    listed = list(regions.values()) if isinstance(regions, dict) else regions
    if not isinstance(listed, list):
        raise DataError(f"expected a list as 'regions', got {shown(listed)}")
    there = sizes(name)
    if there is None:
        raise DataError(
            f"expected the picture {name} beside the file or below --images, found none: VIA, as YOLO, does not say how large a picture is. "
            "VIA can also export to COCO, which does"
        )
    size, items = checked_size(*there[1], len(listed)), Shapes()
    for order, region in enumerate(listed, 1):
        place = f"file {number}, region {order}"
        kind = (region.get("shape_attributes") or {}).get("name") if isinstance(region, dict) else None
        with rows.row(place, "a polygon, a circle, an ellipse or a rectangle", kind if isinstance(kind, str) else ""):
            items.add(_item(field(region, "shape_attributes", dict), kind, _name(region.get("region_attributes"), place), size, place, region))
    return AnnotatedPicture(there[0], size, items.masks, boxes=items.boxes, classes=classes)


def _name(attributes: Any, place: str) -> str:
    if not isinstance(attributes, dict):
        return UNNAMED
    for key in sorted(attributes, key=lambda key: NAMED.index(key) if key in NAMED else len(NAMED)):
        value = attributes[key]
        if isinstance(value, dict):  # of a checkbox: {"cat": true}
            value = next((option for option, chosen in value.items() if chosen), None)
        if value not in (None, ""):
            return class_name(value, place)
    return UNNAMED


def _item(shape: dict[str, Any], kind: Any, name: str, size: tuple[int, int], place: str, region: dict[str, Any]) -> NamedMask | NamedBox:
    said = text_attributes(region.get("region_attributes"))
    if kind == "rect":
        x, y, width, height = (shapes.number(shape.get(key), key) for key in ("x", "y", "width", "height"))
        return NamedBox(name, shapes.box(x, y, x + width, y + height, size), None, place, said)
    if kind in ("polygon", "polyline"):
        xs, ys = (shapes.numbers(shape.get(key), key) for key in ("all_points_x", "all_points_y"))
        if len(xs) != len(ys):
            raise DataError(f"expected as many x as y, got {len(xs)} and {len(ys)}")
        if kind == "polyline" and (len(xs) < 4 or (xs[0], ys[0]) != (xs[-1], ys[-1])):
            raise DataError("expected a shape that encloses something, got a line")
        return NamedMask(name, shapes.polygon(np.array([xs, ys]).T, size), attributes=said)
    if kind in ("circle", "ellipse"):
        x, y = (shapes.number(shape.get(key), key) for key in ("cx", "cy"))
        radii = [shapes.number(shape.get(key), key) for key in (("r", "r") if kind == "circle" else ("rx", "ry"))]
        turn = shapes.number(shape.get("theta", 0), "theta")
        return NamedMask(name, shapes.ellipse(x, y, radii[0], radii[1], size, np.degrees(turn)), attributes=said)
    raise DataError(f"expected a polygon, a circle, an ellipse or a rectangle, got {shown(kind)}")
