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
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import NO_CLASSES, ClassList, Gathered, ObjectClass, color_numbers, color_text, text_attributes
from fretsaw.interchange.json_stream import Groups, elements
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import MOST_MASK_PIXELS, AnnotatedPicture, Files, NamedBox, NamedMask, checked_size, required, told
from fretsaw.interchange.rings import part_rings
from fretsaw.interchange.untrusted import Doubles, LeftOut, boundary, field, parse_json, whole_number

PATH = "annotations.json"
EXPECTED = "COCO's annotations"
UNNAMED = "object"
"""The class of objects to which a file gives none."""
PANOPTIC = "COCO's panoptic files keep their masks in PNGs beside them; panopticapi's panoptic2detection_coco_format turns both into one file that can be read"
CROWD = "iscrowd"
"""The attribute of an object that stands for a crowd: "1"."""
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
    gathered, count = Gathered(), 0
    with tempfile.SpooledTemporaryFile(WAITING) as waiting:
        yield b'{"images": ['
        for image_id, picture in enumerate(pictures, 1):
            image = {"id": image_id, "file_name": picture.file_name, "height": picture.size[0], "width": picture.size[1]}
            yield (b", " if image_id > 1 else b"") + json.dumps(image).encode()
            gathered.add(picture.classes, (item.name for item in picture.objects))
            for item in picture.objects:
                mask = item.mask
                x0, y0, x1, y1 = masks.mask_to_box(mask)
                if x1 == 0:
                    continue
                row = {
                    "id": count + 1,
                    "image_id": image_id,
                    "segmentation": segmentation(mask),
                    "area": int(np.count_nonzero(mask)),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": int(item.attributes.get(CROWD) == "1"),
                }
                if item.score is not None:
                    row["score"] = item.score
                if said := {name: value for name, value in item.attributes.items() if name != CROWD}:
                    row["attributes"] = said
                waiting.write(f"{gathered.place(item.name)} {json.dumps(row)}\n".encode())
                count += 1
        classes = gathered.all().numbered()
        yield b'], "categories": ' + json.dumps([_category(entry) for entry in classes]).encode() + b', "annotations": ['
        ids, places = classes.ids(), gathered.places
        waiting.seek(0)
        for number, line in enumerate(waiting):
            place, _, text = line.rstrip().partition(b" ")
            yield (b", " if number else b"") + b'{"category_id": %d, ' % ids[places[int(place)]] + text[1:]
        yield b"]}"


def _category(entry: ObjectClass) -> dict[str, Any]:
    row = {"id": entry.id, "name": entry.name, "supercategory": entry.supercategory}
    return row | ({"color": list(color_numbers(entry.color))} if entry.color else {})


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
                identity = identity_of(field(value, "id", object))
                if identity in places:
                    raise DataError(f"expected images with different ids, got {shown(identity)} twice")
                name = picture_name(field(value, "file_name", object), f"image {number}")
                places[identity] = name, checked_size(field(value, "height", object), field(value, "width", object))
        elif key == "annotations":
            try:
                identity = identity_of(field(value, "image_id", object))
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
    classes, names = _categories(found.get("categories"), rows)
    for identity, (name, size) in places.items():
        listed = [(f"annotation {number}", row) for number, row in groups.take(identity)]
        boxes: list[NamedBox] = []
        objects = tuple(_objects(listed, size, names, boxes, rows))
        yield AnnotatedPicture(name, size, objects, boxes=tuple(boxes), classes=classes)


def _categories(categories: Any, left: LeftOut) -> tuple[ClassList, dict[int | str, str] | None]:
    """Return the classes, and their names by id; None where the file has no categories at all. What is wrong with one is noted."""
    if categories is None:
        return NO_CLASSES, None
    names: dict[int | str, str] = {}
    entries: dict[str, ObjectClass] = {}
    for number, row in enumerate(categories if isinstance(categories, list) else [categories], 1):
        try:
            identity, name = identity_of(field(row, "id", object)), class_name(field(row, "name", object), f"category {number}")
        except DataError as error:
            text = str(error)
            left.note(text if text.startswith("category") else f"category {number}: {text}")
            continue
        if identity in names:
            left.note(f"category {number}: expected categories with different ids, got {shown(identity)} twice; the last name counts")
            entries.pop(names[identity], None)
        elif name in entries:
            left.note(f"category {number}: the name {shown(name, 40)} stands twice; both ids count as one class")
        names[identity] = name
        above = row.get("supercategory")
        known = ObjectClass(name, identity if isinstance(identity, int) else None, color_text(row.get("color")), above if isinstance(above, str) else "")
        entries.setdefault(name, known)
    return ClassList(tuple(entries.values())), names


def identity_of(value: object) -> int | str:
    """Return an id as it can be looked up: a whole number, however it is written, or text."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        return value
    return whole_number(value, "an id")


def _objects(
    rows: list[tuple[str, Any]], size: tuple[int, int], names: Mapping[int | str, str] | None, boxes: list[NamedBox], left: LeftOut
) -> Iterator[NamedMask]:
    pixels = size[0] * size[1]
    for number, (place, row) in enumerate(rows, 1):
        item = None
        with left.row(place, "a mask or a box"):
            if pixels * number > MOST_MASK_PIXELS:
                raise DataError(f"expected masks of at most {MOST_MASK_PIXELS} pixels on one picture, got more")
            if isinstance(row, dict) and "segments_info" in row:
                raise DataError(f"expected a mask or a box, got segments of a panoptic PNG. {PANOPTIC}")
            name = UNNAMED
            if names is not None:
                category = identity_of(field(row, "category_id", object))
                if category not in names:
                    raise DataError(f"expected the id of one of the categories, got {shown(category)}")
                name = names[category]
            item = shape(row, name, size, place)
        if isinstance(item, NamedBox):
            boxes.append(item)
        elif item is not None:
            yield item


def shape(row: Any, name: str, size: tuple[int, int], place: str) -> NamedMask | NamedBox:
    """Return what an annotation draws: the mask of its segmentation, or its box where it has none.

    Raises:
        DataError, ShapeError: If it has neither, or one that cannot be drawn.
    """
    segmentation, score = row.get("segmentation"), row.get("score")
    said = text_attributes(row.get("attributes"))
    if row.get("iscrowd") in (1, 1.0, True, "1"):
        said[CROWD] = "1"
    sure = float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None
    # A table of pandas has NaN where a row has no value; some tools write an empty list, or a list of one.
    if segmentation is None or segmentation in ([], [[]]) or (isinstance(segmentation, float) and segmentation != segmentation):
        if row.get("bbox") is None:
            raise DataError("expected a segmentation or a bbox, got neither")
        x, y, width, height = shapes.numbers(row["bbox"], "bbox", 4)
        return NamedBox(name, shapes.box(x, y, x + width, y + height, size), sure, place, said)
    return NamedMask(name, mask_of(segmentation, size), sure, attributes=said)


def mask_of(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the mask of a segmentation: run lengths, polygons, or a single polygon whose list of polygons was left out.

    Polygons are drawn as pycocotools draws them, so that everybody's figures agree.

    Raises:
        DataError, ShapeError: If it is neither, or of another size.
    """
    if isinstance(segmentation, dict):
        return masks.decode_rle(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(f"expected run lengths or a list of polygons, got {shown(segmentation)}")
    if all(isinstance(number, int | float) for number in segmentation):
        segmentation = [segmentation]
    return masks.decode_rle(masks.checked_coco(segmentation, size), size)
