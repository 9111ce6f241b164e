"""Outlines with holes as single closed rings, for formats that know no holes."""

from __future__ import annotations

from collections.abc import Sequence

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
