"""Data sets and results as COCO JSON, and COCO's average precision."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fretsaw.data.datasets import coco_image_folder, coco_rows
from fretsaw.data.truths import coco_object
from fretsaw.errors import DataError, ShapeError
from fretsaw.images import read_image
from fretsaw.masks import checked_coco

CATEGORY_ID = 1
_STATISTICS = {0: "AP", 1: "AP50", 2: "AP75"}


@dataclass(frozen=True)
class InstanceSample:
    """One image of a COCO file with all its objects.

    Attributes:
        name: The image's file name.
        image: The image's file.
        image_id: Its id in the COCO file.
        size: (height, width).
        segmentations: Polygons or run-length codes of its objects; crowds are left out.
        source: The COCO file, for messages.
    """

    name: str
    image: Path
    image_id: int
    size: tuple[int, int]
    segmentations: tuple[Any, ...]
    source: Path

    def signature(self) -> str:
        """Return a text that changes when the image or its objects do."""
        size = self.image.stat().st_size if self.image.is_file() else "missing"
        return f"{self.image.name}:{size}|{hashlib.sha256(json.dumps(self.segmentations, default=str).encode()).hexdigest()}"

    def read_truths(self) -> list[np.ndarray]:
        """Return the objects' masks, (H, W) bool each.

        Raises:
            DataError: If an annotation cannot be drawn.
        """
        return [coco_object(self.source, segmentation, self.size) > 0 for segmentation in self.segmentations]

    def read(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the image, (H, W, 3) uint8 RGB, and its objects' masks.

        Raises:
            DataError: If the image is missing or of another size than the COCO file states, or an annotation cannot be drawn.
            ImageError: If the image cannot be read.
        """
        if not self.image.is_file():
            raise DataError(f"{self.name}: expected an image at {self.image}, which does not exist.")
        image = read_image(self.image)
        if image.shape[:2] != self.size:
            raise DataError(f"{self.name}: expected an image of {self.size} (height, width) as in {self.source.name}, got {image.shape[:2]}")
        return image, self.read_truths()


@dataclass(frozen=True)
class InstanceSet:
    """The images of a COCO file.

    Attributes:
        name: As reports spell it.
        samples: In the file's order.
        content: The images and annotations of the file that can be used, as COCO's tools take them.
        expected: Number of samples its authors state; None where unknown.
        warnings: What a report must say about it.
    """

    name: str
    samples: Sequence[InstanceSample]
    content: Mapping[str, Any]
    expected: int | None = None
    warnings: Sequence[str] = ()

    def file_list_hash(self) -> str:
        """Return the SHA-256 over the samples' names and signatures, in order."""
        text = "".join(f"{sample.name}\t{sample.signature()}\n" for sample in self.samples)
        return hashlib.sha256(text.encode()).hexdigest()


def read_coco(path: Path | str, images: Path | str | None = None) -> InstanceSet:
    """Read a COCO annotation file.

    Args:
        path: The JSON file.
        images: Folder of the images; None: beside the file, in `images`, or where COCO puts them.

    Raises:
        DataError: If it is no COCO file, or no folder holds its first image.
    """
    path = Path(path)
    rows = coco_rows(path)
    folder = Path(images) if images is not None else coco_image_folder(path, [name for name, _ in rows.images.values()])
    samples: list[InstanceSample] = []
    for number, (name, size) in rows.images.items():
        segmentations = tuple(row.get("segmentation") for row in rows.annotations[number] if not row.get("iscrowd"))
        samples.append(InstanceSample(name, folder / name, number, size, segmentations, path))
    listed = [{"id": number, "file_name": name, "height": size[0], "width": size[1]} for number, (name, size) in rows.images.items()]
    annotations = [row | {"image_id": number} for number, found in rows.annotations.items() for row in found]
    return InstanceSet(path.stem, tuple(samples), {"images": listed, "annotations": annotations}, warnings=rows.warnings)


def average_precision(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], image_ids: Sequence[int] | None = None) -> dict[str, float]:
    """Return COCO's AP, AP50 and AP75 of masks, as fractions; classes are not told apart.

    Args:
        truth: Content of a COCO annotation file.
        predictions: Entries of a COCO results file: image_id, category_id, segmentation (run-length code), score.
        image_ids: Images to count; None means all.

    Returns:
        The three figures by name; NaN where no image has an object.

    Raises:
        DataError: If truth or predictions are not of this form.

    Source: Lin et al. 2014, Microsoft COCO, and pycocotools' COCOeval, which computes it: IoU 0.50 to 0.95 by 0.05, at most 100 instances an image.
    """
    try:
        chosen = {image["id"] for image in truth["images"]} if image_ids is None else set(image_ids)
        images = [image for image in truth["images"] if image["id"] in chosen]
        sizes = {image["id"]: (image["height"], image["width"]) for image in images}
        rows = [_checked(annotation, sizes) for annotation in truth["annotations"] if annotation["image_id"] in chosen]
        annotations = [_complete(annotation, number) for number, annotation in enumerate(rows, 1)]
        results: Any = [{**_checked(row, sizes), "category_id": CATEGORY_ID} for row in predictions if row["image_id"] in chosen]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            reference = _index(images, annotations)
            found = reference.loadRes(results) if results else _index(images, [])
            evaluation = COCOeval(reference, found, "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    except (KeyError, TypeError, AssertionError, ShapeError) as error:
        raise DataError(f"expected truth and predictions in COCO's form, got some that cannot be used: {error!r}") from error
    return {name: float(evaluation.stats[index]) if evaluation.stats[index] >= 0 else float("nan") for index, name in _STATISTICS.items()}


def _checked(row: Mapping[str, Any], sizes: Mapping[Any, tuple[int, int]]) -> dict[str, Any]:
    """Return a row after checking its mask, because pycocotools checks neither run lengths nor vertices."""
    return {**row, "segmentation": checked_coco(row["segmentation"], sizes[row["image_id"]])}


def _complete(annotation: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the fields of an annotation that COCOeval needs: the one class, an id and a crowd flag.

    Its area only sorts it by size, which AP does not use.
    """
    kept = {key: annotation[key] for key in ("image_id", "segmentation")}
    return {"area": 1.0, "iscrowd": int(bool(annotation.get("iscrowd"))), **kept, "id": number, "category_id": CATEGORY_ID}


def _index(images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]) -> COCO:
    coco: Any = COCO()
    coco.dataset = {"images": list(images), "annotations": list(annotations), "categories": [{"id": CATEGORY_ID, "name": "object"}]}
    coco.createIndex()
    return coco
