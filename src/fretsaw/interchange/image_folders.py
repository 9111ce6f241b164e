"""Pictures and label pictures of the same names in two folders, as data sets on the Hugging Face hub, ADE20K and many papers have them.

A label picture holds a class number in each pixel: 0 is the background and 255 means "do not care", unless id2label.json names 0 as a class of its own.
A mask of 0 and 255 alone is one object without a name. Each class on a picture is one object, since the files tell no instances.

`metadata.jsonl` beside pictures, with `objects` in each line, holds boxes: [x, y, width, height] in pixels.

Source: Hugging Face's documentation of `datasets`, "Image folder", and its guides to object detection and semantic segmentation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fretsaw import images
from fretsaw.errors import DataError, FretsawError, ImageError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import NO_CLASSES, ClassList, ObjectClass
from fretsaw.interchange.coco import UNNAMED
from fretsaw.interchange.json_files import PictureSizes
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, NamedBox, NamedMask, checked_size, told
from fretsaw.interchange.untrusted import LeftOut, boundary, field, parse_json, whole_number
from fretsaw.interchange.voc import BACKGROUND, IGNORED

PICTURES = ("images", "image", "imgs", "img")
LABELS = ("annotations", "masks", "mask", "labels", "label", "segmentation", "segmentations", "gt")
"""What the two folders are called."""
NAMES = ("id2label.json", "label2id.json", "classes.json")
METADATA = "metadata.jsonl"
NO_CLASS = (*BACKGROUND, "unlabeled", "unlabelled", "other", "others", "void", "ignore", "none")
"""Names of 0 that mean no class."""


def pairs_of(folders: Iterable[str]) -> list[tuple[str, str]]:
    """Return the folders of pictures and of labels that lie side by side: paths with forward slashes."""
    known, found = set(folders), []
    for path in sorted(known):
        parent, _, last = path.rpartition("/")
        if last not in LABELS:
            continue
        beside = next((place for name in PICTURES if (place := f"{parent}/{name}" if parent else name) in known), None)
        if beside is not None:
            found.append((beside, path))
    return found


def roots(folders: Iterable[str], listed: Callable[[str], list[str]]) -> list[str]:
    """Return the folders in which pictures and label pictures of the same names lie.

    Args:
        folders: Of all folders, as paths with forward slashes.
        listed: Gives the stems of the pictures, or of the PNGs, in a folder and below it.
    """
    found = []
    for pictures, labels in pairs_of(folders):
        if set(listed(pictures)) & set(listed(labels)):
            found.append(pictures.rpartition("/")[0])
    return found


def classes_of(files: Mapping[str, bytes]) -> ClassList:
    """Return the classes that id2label.json tells ({"0": "wall"}), label2id.json ({"wall": 0}), or a list of names.

    Raises:
        DataError: If the file is none of these.
    """
    path = next((path for name in NAMES for path in sorted(files) if path.rpartition("/")[2] == name), None)
    if path is None:
        return NO_CLASSES
    with boundary(path, "class names by number"):
        found = parse_json(files[path], LeftOut())
        rows: list[tuple[Any, Any]] = list(enumerate(found)) if isinstance(found, list) else list(found.items()) if isinstance(found, dict) else []
        if not rows:
            raise DataError(f"expected class names by number, got {shown(found)}")
        if path.rpartition("/")[2] == "label2id.json":
            rows = [(number, name) for name, number in rows]
        entries: dict[str, ObjectClass] = {}
        for number, name in rows:
            entry = ObjectClass(class_name(name), whole_number(number, "a class number"))
            entries.setdefault(entry.name, entry)
        return ClassList(tuple(entries.values()))


def masks_of(labels: np.ndarray, classes: ClassList, rows: LeftOut) -> Iterator[NamedMask]:
    """Yield the classes on a label picture as objects.

    Args:
        labels: (H, W) numbers.
        classes: With the numbers as ids; without any, numbers are names.
        rows: For numbers that no class has.
    """
    values, names = np.unique(labels).tolist(), classes.by_id
    checked_size(labels.shape[0], labels.shape[1], len(values))
    if set(values) <= {0, IGNORED} and IGNORED in values and IGNORED not in names:
        yield NamedMask(UNNAMED, labels == IGNORED)
        return
    for number in values:
        if number == IGNORED and IGNORED not in names:
            continue
        if number == 0 and names.get(0, NO_CLASS[0]).lower() in NO_CLASS:
            continue
        if names and number not in names:
            rows.lose(f"value {number}: expected the number of one of the {len(names)} classes", "class")
            continue
        rows.kept += 1
        yield NamedMask(names.get(number, str(number)), labels == number)


def each(label: str, content: bytes, file_name: str | None, classes: ClassList) -> Iterator[AnnotatedPicture]:
    """Yield the picture of one label picture.

    Args:
        label: Path of the PNG.
        content: Of the file.
        file_name: Of the picture of this name; None where there is none.
        classes: See `classes_of`.

    Raises:
        DataError: If the PNG cannot be read or holds colours, or there is no picture.
    """
    expected = "a picture of class numbers"
    with boundary(label, expected):
        if file_name is None:
            raise DataError(f"expected a picture called {label.rpartition('/')[2].rpartition('.')[0]} beside the labels, found none")
        rows = LeftOut()
        try:
            labels = images.read_labels(content)
        except ImageError as error:
            raise DataError(str(error)) from error
        objects = tuple(masks_of(labels, classes, rows))
        size = (labels.shape[0], labels.shape[1])
        yield from told([AnnotatedPicture(file_name, size, objects, classes=classes)], LeftOut(), rows, expected)


def each_of_metadata(path: str, content: bytes, sizes: PictureSizes) -> Iterator[AnnotatedPicture]:
    """Yield the pictures of a metadata.jsonl with their boxes.

    Args:
        path: Of the file.
        content: Of the file.
        sizes: Finds the pictures' sizes.

    Raises:
        DataError: If no line of it can be used.
    """
    expected = "lines with file_name and objects"
    with boundary(path, expected):
        entries, rows = LeftOut(), LeftOut()

        def pictures() -> Iterator[AnnotatedPicture]:
            for number, line in enumerate(content.decode("utf-8-sig").splitlines(), 1):
                if not line.strip():
                    continue
                picture = None
                with entries.row(f"line {number}", "a picture and its objects"):
                    picture = _of_line(json.loads(line), number, path.rpartition("/")[0], sizes, rows)
                if picture is not None:
                    yield picture

        yield from told(pictures(), entries, rows, expected)


def _of_line(found: Any, number: int, folder: str, sizes: PictureSizes, rows: LeftOut) -> AnnotatedPicture:
    name = picture_name(field(found, "file_name", object), "file_name", folder)
    there = sizes(name)
    if there is None:
        raise DataError(f"expected the picture {name} beside the file or below --images, found none")
    boxes = tuple(boxes_of(found.get("objects"), NO_CLASSES, there[1], f"line {number}", rows))
    return AnnotatedPicture(there[0], there[1], boxes=boxes)


def boxes_of(found: Any, classes: ClassList, size: tuple[int, int], place: str, rows: LeftOut) -> Iterator[NamedBox]:
    """Yield the boxes of `objects`: lists of `bbox` and of `category` (or categories, label, id), or a list of such pairs.

    Args:
        found: As it was read.
        classes: For categories that are numbers.
        size: (H, W) of the picture.
        place: For messages.
        rows: For boxes that cannot be used.
    """
    if isinstance(found, list):
        found = {key: [row.get(key) if isinstance(row, dict) else None for row in found] for key in ("bbox", *_CATEGORIES)}
    listed = found.get("bbox", []) if isinstance(found, dict) else []
    kinds = next((found[key] for key in _CATEGORIES if isinstance(found, dict) and isinstance(found.get(key), list) and any(found[key])), [])
    kinds = kinds or next((found[key] for key in _CATEGORIES if isinstance(found, dict) and isinstance(found.get(key), list)), [])
    for number, corners in enumerate(listed if isinstance(listed, list) else [], 1):
        spot = f"{place}, object {number}"
        with rows.row(spot, "a box"):
            kind = kinds[number - 1] if number <= len(kinds) else None
            name = UNNAMED if kind is None else classes.by_id.get(kind, str(kind)) if isinstance(kind, int) else class_name(kind, spot)
            x, y, width, height = shapes.numbers(corners, "bbox", 4)
            yield NamedBox(name, shapes.box(x, y, x + width, y + height, size), None, spot)


_CATEGORIES = ("category", "categories", "label", "labels", "category_id", "class")


def is_metadata(text: bytes) -> bool:
    """Return whether a metadata.jsonl tells boxes."""
    try:
        first = json.loads(text.splitlines()[0])
    except (ValueError, IndexError, RecursionError):
        return False
    return isinstance(first, dict) and "file_name" in first and isinstance(first.get("objects"), dict | list)


def readable(files: Mapping[str, bytes]) -> ClassList:
    """`classes_of`, nothing where the file cannot be read: a wrong list of names must not cost the masks, which numbers name then."""
    try:
        return classes_of(files)
    except FretsawError:
        return NO_CLASSES
