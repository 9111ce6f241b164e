"""COCO's instance annotations: one JSON file for all pictures.

Source: COCO's data format and mask API (cocodataset.org, pycocotools).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fretsaw import masks
from fretsaw.errors import DataError, shown
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import MOST_MASK_PIXELS, AnnotatedPicture, Files, NamedMask, checked_size, required, told
from fretsaw.interchange.rings import part_rings
from fretsaw.interchange.untrusted import LeftOut, boundary, field, parse_json, whole_number

PATH = "annotations.json"


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask as COCO's compressed run lengths, which hold everything."""
    return masks.encode_rle(mask)


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Return a mask as COCO's polygons [[x, y, x, y, ...], ...], one a connected part, holes joined to the outline by a cut of no width."""
    return [ring.ravel().astype(float).tolist() for ring in part_rings(mask)]


def write(pictures: Iterable[AnnotatedPicture], segmentation: Callable[[np.ndarray], Any] = run_lengths) -> Files:
    """Yield the one file of a COCO data set.

    Args:
        pictures: Empty masks are left out.
        segmentation: `run_lengths` or `polygons`.
    """
    content: dict[str, Any] = {"images": [], "categories": [], "annotations": []}
    categories: dict[str, int] = {}
    for image_id, picture in enumerate(pictures, 1):
        content["images"].append({"id": image_id, "file_name": picture.file_name, "height": picture.size[0], "width": picture.size[1]})
        for item in picture.objects:
            mask = item.mask
            x0, y0, x1, y1 = masks.mask_to_box(mask)
            if x1 == 0:
                continue
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": categories.setdefault(item.name, len(categories) + 1),
                    "segmentation": segmentation(mask),
                    "area": int(np.count_nonzero(mask)),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                }
            )
    content["categories"] = [{"id": number, "name": name, "supercategory": "object"} for name, number in categories.items()]
    yield PATH, json.dumps(content).encode()


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
    expected = "COCO's annotations"
    with boundary(PATH, expected):
        entries, rows = LeftOut(), LeftOut()
        content = parse_json(required(files, PATH), entries)
        if not isinstance(content, dict):
            raise DataError(f"expected {expected}, got {shown(content)}")
        yield from told(_pictures(content, entries, rows), entries, rows, expected)


def _pictures(content: dict[str, Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
    images, annotations = field(content, "images", list), field(content, "annotations", list)
    places: dict[int | str, tuple[str, tuple[int, int]]] = {}
    of_image: dict[int | str, list[tuple[str, Any]]] = {}
    for number, image in enumerate(images, 1):
        with entries.row(f"image {number}", "an image"):
            identity = _identity(field(image, "id", object))
            if identity in places:
                raise DataError(f"expected images with different ids, got {shown(identity)} twice")
            name = picture_name(field(image, "file_name", object), f"image {number}")
            places[identity] = name, checked_size(field(image, "height", object), field(image, "width", object))
            of_image[identity] = []
    names = _categories(content.get("categories"), rows)
    for number, row in enumerate(annotations, 1):
        try:
            identity = _identity(field(row, "image_id", object))
            if identity not in of_image:
                raise DataError(f"expected the id of one of the images, got {shown(identity)}")
        except DataError as error:
            rows.lose(f"annotation {number}: {error}")
        else:
            of_image[identity].append((f"annotation {number}", row))
    for identity, (name, size) in places.items():
        yield AnnotatedPicture(name, size, tuple(_objects(of_image.pop(identity), size, names, rows)))


def _categories(categories: Any, left: LeftOut) -> dict[int | str, str] | None:
    """Return the class names by id; None where the file has no categories at all. What is wrong with one is noted."""
    if categories is None:
        return None
    names: dict[int | str, str] = {}
    for number, row in enumerate(categories if isinstance(categories, list) else [categories], 1):
        try:
            names[_identity(field(row, "id", object))] = class_name(field(row, "name", object), f"category {number}")
        except DataError as error:
            text = str(error)
            left.note(text if text.startswith("category") else f"category {number}: {text}")
    return names


def _identity(value: object) -> int | str:
    """Return an id as it can be looked up: a whole number, however it is written, or text."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        return value
    return whole_number(value, "an id")


def _objects(rows: list[tuple[str, Any]], size: tuple[int, int], names: Mapping[int | str, str] | None, left: LeftOut) -> Iterator[NamedMask]:
    pixels = size[0] * size[1]
    for number, (place, row) in enumerate(rows, 1):
        item = None
        with left.row(place, "a mask"):
            if pixels * number > MOST_MASK_PIXELS:
                raise DataError(f"expected masks of at most {MOST_MASK_PIXELS} pixels on one picture, got more")
            name = "object"
            if names is not None:
                category = _identity(field(row, "category_id", object))
                if category not in names:
                    raise DataError(f"expected the id of one of the categories, got {shown(category)}")
                name = names[category]
            item = NamedMask(name, _mask(field(row, "segmentation", object), size))
        if item is not None:
            yield item


def _mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, dict):
        return masks.decode_rle(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(f"expected run lengths or a list of polygons, got {shown(segmentation)}")
    return masks.unite_polygons(segmentation, size)
