"""From a label map to the regions that SAM is asked about.

Two ways to the same set of regions: `original_regions` (S2CLIP's algorithm 2, Trident's own), region by region over whole maps, and `optimised_regions`
(algorithm 3), which leaves improbable classes out first and takes areas and boxes from the labelling's own statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

CONNECTIVITY = 8


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A connected part of the label map.

    Attributes:
        label: Its class.
        box: x0, y0, x1, y1 of its outermost pixels, the last ones included.
        mask: (y1 - y0 + 1, x1 - x0 + 1) bool: the region inside its box.
        point: x, y of its most probable pixel; the first in row order of several.
        score: Mean probability of its pixels.
        area: Number of its pixels.
    """

    label: int
    box: tuple[int, int, int, int]
    mask: np.ndarray
    point: tuple[int, int]
    score: float
    area: int


Split = Callable[[np.ndarray, int, np.ndarray, float, int], list[Region]]
"""(labels (h, w), class, its probabilities (h, w), threshold, minimum area) -> the class's regions in the order of their first pixel."""


def optimised_regions(labels: np.ndarray, label: int, probabilities: np.ndarray, threshold: float, minimum_area: int) -> list[Region]:
    """Return one class's regions, in the order of their first pixel.

    Args:
        labels: (h, w) int.
        label: The class.
        probabilities: (h, w) float32 of the class.
        threshold: A class whose probability exceeds it nowhere has no regions.
        minimum_area: Smaller regions are left out, in pixels.

    Source: S2CLIP, algorithm 3.
    """
    if float(probabilities.max()) < threshold:
        return []
    mask = labels == label
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    part = np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1], np.uint8)
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=CONNECTIVITY, ltype=cv2.CV_32S)
    regions = []
    for number in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[number])
        if area < minimum_area:
            continue
        inside = numbered[y : y + height, x : x + width] == number
        regions.append(region_of(label, left + x, top + y, inside, probabilities, area))
    return sorted(regions, key=first_pixel)


def original_regions(labels: np.ndarray, label: int, probabilities: np.ndarray, threshold: float, minimum_area: int) -> list[Region]:
    """Return the same as `optimised_regions`, the slow way: every class is labelled, and every region looked for in the whole map.

    Source: S2CLIP, algorithm 2; Trident (Shi et al. 2024), published code.
    """
    from scipy import ndimage

    mask = labels == label
    if float(probabilities.max()) < threshold:
        return []
    found: Any = ndimage.label(mask, structure=np.ones((3, 3), bool))
    numbered, count = found
    regions = []
    for number in range(1, count + 1):
        region = numbered == number
        area = int(region.sum())
        if area < minimum_area:
            continue
        score = float(probabilities[region].mean())
        y, x = divmod(int((probabilities * region).argmax()), labels.shape[1])
        rows, columns = np.nonzero(region)
        x0, y0, x1, y1 = int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())
        regions.append(Region(label, (x0, y0, x1, y1), region[y0 : y1 + 1, x0 : x1 + 1], (x, y), score, area))
    return sorted(regions, key=first_pixel)


def first_pixel(region: Region) -> tuple[int, int]:
    """Return y and x of a region's first pixel in row order."""
    x0, y0 = region.box[:2]
    return y0, x0 + int(region.mask[0].argmax())


def present_labels(labels: np.ndarray, classes: int) -> Iterator[int]:
    """Go through the classes below `classes` that occur."""
    counts = np.bincount(labels.ravel(), minlength=classes)
    return (int(label) for label in np.flatnonzero(counts[:classes]))


def region_of(label: int, x0: int, y0: int, inside: np.ndarray, probabilities: np.ndarray, area: int) -> Region:
    """Return a region of class `label` whose pixels are `inside` (h, w) bool, with its top-left corner at (x0, y0): its box, peak and mean probability."""
    height, width = inside.shape
    values = probabilities[y0 : y0 + height, x0 : x0 + width]
    # below every probability outside the region, so that the peak lies in it
    y, x = divmod(int(np.where(inside, values, np.float32(-1)).argmax()), width)
    score = float(values[inside].mean())
    return Region(label, (x0, y0, x0 + width - 1, y0 + height - 1), inside, (x0 + x, y0 + y), score, area)
