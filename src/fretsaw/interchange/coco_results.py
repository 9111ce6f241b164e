"""COCO's results: what a detector writes, a list of masks or boxes with scores, without pictures and categories.

Pictures are called by their id, and classes by theirs, since the file says no more. A picture's size is that of its run lengths; boxes and polygons alone do
not tell it.

Source: COCO's results format (cocodataset.org).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fretsaw.errors import DataError, shown
from fretsaw.interchange import coco
from fretsaw.interchange.classes import ClassList, ObjectClass
from fretsaw.interchange.json_files import Shapes, json_pictures
from fretsaw.interchange.names import picture_name
from fretsaw.interchange.pictures import MOST_MASK_PIXELS, AnnotatedPicture, checked_size, required
from fretsaw.interchange.untrusted import LeftOut, field

PATH = "results.json"


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the pictures of a results file.

    Raises:
        DataError: If it is no such file, or none of its rows can be used.
    """
    return list(each(files))


def each(files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    """`read`, one picture at a time."""
    return json_pictures(PATH, required(files, PATH), "COCO's results, a list of masks with image_id", list, _pictures)


def _pictures(found: list[Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
    of_picture: dict[int | str, list[tuple[str, Any]]] = {}
    ids: set[int] = set()
    for number, row in enumerate(found, 1):
        try:
            of_picture.setdefault(coco.identity_of(field(row, "image_id", object)), []).append((f"result {number}", row))
            if isinstance(category := coco.identity_of(field(row, "category_id", object)), int):
                ids.add(category)
        except DataError as error:
            rows.lose(f"result {number}: {error}")
    classes = ClassList(tuple(ObjectClass(str(number), number) for number in sorted(ids)))
    for identity, listed in of_picture.items():
        picture = None
        with entries.row(f"image {shown(identity, 40)}", "a size", "image"):
            picture = _picture(identity, listed, classes, rows)
        if picture is not None:
            yield picture


def _picture(identity: int | str, listed: list[tuple[str, Any]], classes: ClassList, rows: LeftOut) -> AnnotatedPicture:
    sizes = [row["segmentation"]["size"] for _, row in listed if isinstance(row.get("segmentation"), dict) and row["segmentation"].get("size")]
    if not sizes or not isinstance(sizes[0], list | tuple) or len(sizes[0]) != 2:
        raise DataError(f"expected run lengths, whose size is the picture's, got {len(listed)} rows without; the data set's own COCO file tells the size")
    size, items = checked_size(*sizes[0]), Shapes()
    for number, (place, row) in enumerate(listed, 1):
        with rows.row(place, "a mask or a box"):
            if size[0] * size[1] * number > MOST_MASK_PIXELS:
                raise DataError(f"expected masks of at most {MOST_MASK_PIXELS} pixels on one picture, got more")
            items.add(coco.shape(row, str(coco.identity_of(field(row, "category_id", object))), size, place))
    return AnnotatedPicture(picture_name(str(identity), "image_id"), size, items.masks, boxes=items.boxes, classes=classes)
