"""Datumaro's own JSON format, which CVAT, Geti and OpenVINO write too: one file for all pictures of a subset.

Masks that share a group are one object, as are polygons; the one with the higher z_order lies on top.

Source: Datumaro's documentation, "Datumaro format".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fretsaw import masks
from fretsaw.errors import DataError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import NO_CLASSES, ClassAttribute, ClassList, ObjectClass, color_text, text_attributes
from fretsaw.interchange.coco import UNNAMED
from fretsaw.interchange.json_files import Shapes, json_pictures
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, NamedBox, NamedMask, checked_size, required
from fretsaw.interchange.untrusted import LeftOut, field, whole_number

PATH = "default.json"
ABOUT_THE_PICTURE = ("label", "caption", "feature_vector", "hash_key")
"""Kinds of annotations that say something of a picture, and draw nothing."""


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the pictures of a Datumaro file.

    Raises:
        DataError: If it is no such file, or none of its annotations can be used.
    """
    return list(each(files))


def each(files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    """`read`, one picture at a time."""
    return json_pictures(PATH, required(files, PATH), "Datumaro's categories and items", dict, _pictures)


def _pictures(found: dict[str, Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
    classes = _classes(field(found, "categories", dict), rows)
    for number, item in enumerate(field(found, "items", list), 1):
        picture = None
        with entries.row(f"item {number}", "an item"):
            picture = _picture(item, number, classes, rows)
        if picture is not None:
            yield picture


def _classes(categories: dict[str, Any], left: LeftOut) -> ClassList:
    labels = categories.get("label")
    if not isinstance(labels, dict) or not isinstance(labels.get("labels"), list):
        return NO_CLASSES
    colors = {}
    if isinstance(mask := categories.get("mask"), dict) and isinstance(mask.get("colormap"), list):
        for row in mask["colormap"]:
            if isinstance(row, dict) and isinstance(row.get("label_id"), int):
                colors[row["label_id"]] = color_text([row.get("r"), row.get("g"), row.get("b")])
    found: dict[str, ObjectClass] = {}
    for number, row in enumerate(labels["labels"]):
        try:
            name = class_name(field(row, "name", object), f"label {number}")
        except DataError as error:
            left.note(str(error))
            continue
        said = row.get("attributes")
        attributes = tuple(ClassAttribute(text) for text in said if isinstance(text, str)) if isinstance(said, list) else ()
        parent = row.get("parent")
        found.setdefault(name, ObjectClass(name, number, colors.get(number, ""), parent if isinstance(parent, str) else "", attributes))
    return ClassList(tuple(found.values()))


def _picture(item: Any, number: int, classes: ClassList, rows: LeftOut) -> AnnotatedPicture:
    annotations, image = field(item, "annotations", list), item.get("image")
    image = image if isinstance(image, dict) else {}
    name = picture_name(image.get("path") or field(item, "id", object), f"item {number}")
    sides = image.get("size")
    if not sides:
        sides = next((row["rle"].get("size") for row in annotations if isinstance(row, dict) and isinstance(row.get("rle"), dict)), None)
    if not isinstance(sides, list) or len(sides) != 2:
        raise DataError(f"expected height and width as the image's 'size', got {shown(sides)}")
    size = checked_size(sides[0], sides[1], len(annotations))
    names, items, grouped = classes.by_id, Shapes(), {}
    for order, row in enumerate(annotations, 1):
        kind = row.get("type") if isinstance(row, dict) else None
        if kind in ABOUT_THE_PICTURE:
            continue
        with rows.row(f"item {number}, annotation {order}", "a mask, a polygon, an ellipse or a box", str(kind or "")):
            label = UNNAMED
            if row.get("label_id") is not None and classes:
                index = whole_number(row["label_id"], "label_id")
                if index not in names:
                    raise DataError(f"expected the number of one of the {len(names)} labels, got {index}")
                label = names[index]
            made = _item(row, kind, label, size, f"item {number}, annotation {order}")
            layer, group = shapes.number(row.get("z_order", 0), "z_order"), row.get("group")
            if isinstance(made, NamedMask) and isinstance(group, int) and group > 0:
                earlier = grouped.get((group, label))
                grouped[group, label] = (layer, made if earlier is None else NamedMask(label, earlier[1].mask | made.mask, attributes=made.attributes))
            else:
                items.add(made, layer)
    for layer, made in grouped.values():
        items.add(made, layer)
    return AnnotatedPicture(name, size, items.masks, boxes=items.boxes, classes=classes)


def _item(row: dict[str, Any], kind: Any, label: str, size: tuple[int, int], place: str) -> NamedMask | NamedBox:
    said = text_attributes(row.get("attributes"))
    score = row.get("attributes", {}).get("score") if isinstance(row.get("attributes"), dict) else None
    sure = float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None
    if kind == "bbox":
        x, y, width, height = shapes.numbers(row.get("bbox"), "bbox", 4)
        return NamedBox(label, shapes.box(x, y, x + width, y + height, size), sure, place, said)
    if kind in ("rotated_bbox", "rbbox"):
        x, y, width, height, turn = shapes.numbers(row.get("bbox") or row.get("rbbox"), "bbox", 5)
        corners = shapes.rotated(
            np.array([[x, y], [x, y], [x, y], [x, y]]) + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2], (x, y), turn
        )
        return NamedBox(label, shapes.box_around(corners, size), sure, place, said)
    return NamedMask(label, _mask(row, kind, size), sure, attributes=said)


def _mask(row: dict[str, Any], kind: Any, size: tuple[int, int]) -> np.ndarray:
    if kind == "mask":
        return masks.decode_rle(field(row, "rle", dict), size)
    if kind == "polygon":
        return shapes.polygon(shapes.vertices(row.get("points")), size)
    if kind == "ellipse":
        x0, y0, x1, y1 = shapes.numbers(row.get("points"), "points", 4)
        return shapes.ellipse((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2, abs(y1 - y0) / 2, size)
    raise DataError(f"expected a mask, a polygon, an ellipse or a box, got {shown(kind)}, which encloses nothing")
