"""Outlines with holes as single closed rings, for formats that know no holes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from fretsaw import masks


def part_rings(mask: np.ndarray, tolerance: float = 0.0) -> list[np.ndarray]:
    """Return one ring (N, 2) int32 for each 4-connected part of a mask; holes are joined to the outline by a cut of no width.

    Filled by the even-odd rule and united, the rings give the mask back exactly while `tolerance`, see `fretsaw.masks.to_polygons`, is 0.
    """
    labels, stats = masks.components(mask, connectivity=4)
    found = []
    for label in range(1, len(stats)):
        x, y, width, height = stats[label, :4].tolist()
        rings = masks.to_polygons(labels[y : y + height, x : x + width] == label, tolerance)
        if rings:
            found.append(join(rings) + np.array([x, y], np.int32))
    return found


def joined_ring(mask: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """Return a whole mask, all parts and holes, as one ring (N, 2) int32 for the even-odd rule; (0, 2) where the mask is empty."""
    rings = masks.to_polygons(mask, tolerance)
    return join(rings) if rings else np.zeros((0, 2), np.int32)


def join(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Chain rings into one: from the first vertex of the first ring to each other ring and the same way back.

    A way that is walked there and back encloses nothing. It runs along rows and columns, where no rounding can let the two directions differ.
    """
    start = rings[0][:1]
    pieces = [rings[0], start]
    for ring in rings[1:]:
        corner = np.array([[start[0, 0], ring[0, 1]]], ring.dtype)
        pieces += [corner, ring, ring[:1], corner, start]
    # The last vertex joins the first by itself.
    return np.concatenate(pieces[:-1])


def painted_rings(mask: np.ndarray) -> list[np.ndarray]:
    """Return one ring (N, 2) int32 of pixels, columns and rows, for each 8-connected part: painted by cv2.fillPoly, the rings give the mask back exactly.

    OpenCV paints the outline as well as what lies inside, and so do the many tools that use it: vertices must be the pixels on the border themselves, not the
    edges around them. A hole is joined to what lies left of it by a cut along its row through pixels of the mask, which may be painted.
    """
    labels, stats = masks.components(mask, connectivity=8)
    found = []
    for label in range(1, len(stats)):
        x, y, width, height = stats[label, :4].tolist()
        part = labels[y : y + height, x : x + width] == label
        found.append(_painted(part) + np.array([x, y], np.int32))
    return found


def _painted(part: np.ndarray) -> np.ndarray:
    """Return the ring of one 8-connected part."""
    borders, levels = cv2.findContours(part.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    paths = [border[:, 0].astype(np.int32) for border in borders]
    outer = next(number for number, level in enumerate(levels[0]) if level[3] < 0)
    holes = [number for number in range(len(paths)) if number != outer]
    ring = paths[outer]
    # From left to right, so that whatever lies left of a hole is in the ring already.
    for number in sorted(holes, key=lambda number: tuple(paths[number].min(axis=0))):
        path = paths[number]
        first = int(np.lexsort((path[:, 1], path[:, 0]))[0])
        path = np.roll(path, -first, axis=0)
        column, row = path[0].tolist()
        there = np.flatnonzero((ring[:, 1] == row) & (ring[:, 0] <= column))
        place = int(there[ring[there, 0].argmax()])
        ring = np.concatenate([ring[: place + 1], path, path[:1], ring[place:]])
    return _without_middles(ring)


def _without_middles(ring: np.ndarray) -> np.ndarray:
    """Return a ring without the vertices that lie on the straight way from the one before to the next."""
    if len(ring) < 3:
        return ring
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    straight = (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]) & ((before * after).sum(axis=1) > 0)
    return ring[~straight]
