"""COCO's instance annotations: one JSON file for all pictures.

Source: COCO's data format and mask API (cocodataset.org, pycocotools).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fretsaw import masks
from fretsaw.errors import DataError
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size, required
from fretsaw.interchange.rings import part_rings

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
            x0, y0, x1, y1 = masks.mask_to_box(item.mask)
            if x1 == 0:
                continue
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": categories.setdefault(item.name, len(categories) + 1),
                    "segmentation": segmentation(item.mask),
                    "area": int(np.count_nonzero(item.mask)),
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
    """`read`, one picture at a time: the masks of a whole data set may not fit into memory. Annotations without a mask are left out."""
    try:
        content = json.loads(required(files, PATH))
        names = {category["id"]: category["name"] for category in content["categories"]}
        rows: dict[int, list[Any]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            rows[annotation["image_id"]].append(annotation)
        for image in content["images"]:
            found = [row for row in rows[image["id"]] if row["segmentation"]]
            size = checked_size(image["height"], image["width"], len(found))
            yield AnnotatedPicture(image["file_name"], size, tuple(NamedMask(names[row["category_id"]], _mask(row["segmentation"], size)) for row in found))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{PATH}: expected COCO's annotations, got: {error!r:.120}") from error


def _mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, Mapping):
        return masks.decode_rle(segmentation)
    if not isinstance(segmentation, list):
        raise DataError(f"segmentation: expected run lengths or a list of polygons, got {type(segmentation).__name__}")
    united = np.zeros(size, bool)
    for ring in segmentation:
        united |= masks.from_polygons([ring], size)
    return united
