"""Parquet files as the Hugging Face hub has them: a picture a row, with a label picture, boxes, or both.

Columns are told by their kind: `image` holds the picture (bytes and path), `annotation`, `label`, `mask` or the like a label picture, `objects` boxes. The
names of classes stand in the file's own description of its features.

Source: Hugging Face's documentation of `datasets`, "Image" feature and "Create an image dataset".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fretsaw import images
from fretsaw.errors import DataError, ImageError, MissingExtraError, shown
from fretsaw.interchange import image_folders
from fretsaw.interchange.classes import NO_CLASSES, ClassList
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask, told
from fretsaw.interchange.untrusted import LeftOut, boundary

MARK = b"PAR1"
LABELS = ("annotation", "annotations", "mask", "masks", "label", "labels", "segmentation", "segmentation_mask", "instance", "gt")
OBJECTS = ("objects", "annotations", "boxes")
ROWS = 16
"""Rows that are held at a time; each has a picture."""


def each(path: Path) -> Iterator[AnnotatedPicture]:
    """Yield the pictures of a Parquet file.

    Raises:
        DataError: If it is no such file, has no pictures, or none of its labels can be used.
        MissingExtraError: If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet needs pyarrow: pip install 'fretsaw[parquet]'") from error
    expected = "rows with a picture, and labels or objects"
    with boundary(path.name, expected):
        entries, rows = LeftOut(), LeftOut()
        with pyarrow.parquet.ParquetFile(path) as file:
            features = _features(file.schema_arrow.metadata)
            columns = file.schema_arrow.names
            if "image" not in columns or not set(columns) & {*LABELS, *OBJECTS}:
                raise DataError(f"expected a column 'image', and one of {', '.join((*LABELS, *OBJECTS))}; got {shown(columns)}")
            chosen = [name for name in columns if name in ("image", *LABELS, *OBJECTS)]
            yield from told(_pictures(file.iter_batches(ROWS, columns=chosen), path.stem, features, entries, rows), entries, rows, expected)


def _pictures(batches: Any, stem: str, features: dict[str, Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            picture = None
            with entries.row(f"row {number}", "a picture"):
                picture = _picture(row, number, stem, features, rows)
            if picture is not None:
                yield picture


def _picture(row: dict[str, Any], number: int, stem: str, features: dict[str, Any], rows: LeftOut) -> AnnotatedPicture:
    image, place = row.get("image"), f"row {number}"
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise DataError(f"expected a picture's bytes in 'image', got {shown(image)}")
    try:
        size = images.picture_size(content)
    except ImageError as error:
        raise DataError(str(error)) from error
    name = image.get("path") if isinstance(image, dict) else None
    objects: list[NamedMask] = []
    boxes = []
    classes = NO_CLASSES
    for column, value in row.items():
        packed = value.get("bytes") if isinstance(value, dict) else None
        if column in LABELS and isinstance(packed, bytes):
            classes = classes.merged(_names(features.get(column)))
            with rows.row(f"{place}, {column}", "a picture of class numbers"):
                objects += image_folders.masks_of(images.read_labels(packed, size=size), classes, rows)
        elif column in OBJECTS and isinstance(value, dict | list):
            classes = classes.merged(_names(features.get(column)))
            boxes += image_folders.boxes_of(value, classes, size, place, rows)
    return AnnotatedPicture(picture_name(name or f"{stem}-{number:06d}.png", place), size, tuple(objects), boxes=tuple(boxes), classes=classes)


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Return what the file says of its columns; nothing where it says nothing that can be read."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(feature: Any, depth: int = 0) -> ClassList:
    """Return the names in a feature's description: its own, or those of a column inside it."""
    if depth > 5 or not isinstance(feature, dict | list):
        return NO_CLASSES
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        names = []
        for number, name in enumerate(feature["names"]):
            try:
                names.append(class_name(name))
            except DataError:
                names.append(str(number))
        return ClassList.in_order(names)
    for inside in feature.values() if isinstance(feature, dict) else feature:
        if (found := _names(inside, depth + 1)).classes:
            return found
    return NO_CLASSES
