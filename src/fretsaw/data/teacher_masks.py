"""Masks that a model finds by itself on photos without labels, kept as one small file a photo, so that an interrupted run goes on.

Source: Segment Anything (Kirillov et al. 2023), section 4, "fully automatic stage": a grid of points, filtered by predicted IoU and stability, without
duplicates.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from fretsaw.data.samples import Sample
from fretsaw.errors import DataError
from fretsaw.images import write_bytes
from fretsaw.masks import decode_rle, encode_rle
from fretsaw.methods.grid import GridMasks, SamCrop
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.types import ImageEmbedding

GRID = GridMasks(points_per_side=8, min_predicted_iou=0.88, min_stability=0.95)
"""8 x 8 points: a teacher asks for a few good objects of many photos, not for everything in one."""

SMALLEST, LARGEST = 0.002, 0.8
"""Masks that cover less or more of the photo are no objects to learn from."""


def make(image: np.ndarray, model: SamClicks, embedding: ImageEmbedding, path: Path, grid: GridMasks = GRID) -> int:
    """Find the objects of a photo and write them.

    Args:
        image: (H, W, 3) uint8 RGB.
        model: The teacher.
        embedding: Of the whole image, by the teacher.
        path: JSON file, written atomically.
        grid: Points and filters.

    Returns:
        How many were found; a photo without any gets a file too.
    """
    found = grid.generate(image, lambda crop: SamCrop(model, embedding, model.preprocessing.frame_of(crop)))
    pixels = image.shape[0] * image.shape[1]
    kept = [mask for mask in found if SMALLEST * pixels <= mask.area <= LARGEST * pixels]
    write_bytes(path, json.dumps({"teacher": model.checksum, "masks": [encode_rle(mask.mask) for mask in kept]}).encode())
    return len(kept)


def path_of(key: str, folder: Path) -> Path:
    """Return where the masks of a photo lie."""
    return folder / f"{key}.json"


def objects_of(photo: Path, key: str, folder: Path) -> list[Sample]:
    """Return the objects that were found on a photo; none where nobody has looked yet."""
    path = path_of(key, folder)
    if not path.exists():
        return []
    return [Sample(f"{photo.stem}_{i:02d}", photo, path, partial(read_object, index=i)) for i in range(len(_read(path)))]


def read_object(path: Path, index: int) -> np.ndarray:
    """Return one mask of a file: (H, W) int8, 1 object, 0 background."""
    return decode_rle(_read(path)[index]).astype(np.int8)


def _read(path: Path) -> list[dict[str, object]]:
    try:
        return json.loads(path.read_text())["masks"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected a file of teacher masks at {path}, got one that cannot be read ({error!r}); remove it to make it anew") from error
