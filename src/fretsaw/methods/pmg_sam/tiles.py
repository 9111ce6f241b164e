"""The high-resolution pathway: what the model frame cannot show is decoded again, tile by tile, where the mask's edge runs.

A tile is a square of the image at its own resolution, encoded by itself: Hiera's stages see the image's own pixels there. The mask of the whole image takes
the pre-mask's place, so that the tile is refined, not searched. Away from the edge the mask of the whole image stays as it is.

Source: this project's own; PMG-SAM (paper 001), sections 3.5 and 4.6, names high-resolution features as what fine structures need, and ends at 1024.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from fretsaw.frames import crop
from fretsaw.types import Box

OVERLAP = 8
"""A tile shares one such part of its side with each neighbour."""

REACH = 24
"""Half width of the band in which tiles decide, in pixels of the model frame: the global mask is never further off than a few cells of its own."""

Decode = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(image of a tile (h, w, 3) uint8, coarse logits (h, w)) -> logits (h, w)."""


def refine_edges(image: np.ndarray, logits: np.ndarray, side: int, decode: Decode, reach: int = REACH) -> np.ndarray:
    """Decode a mask's edge again at the image's own resolution.

    Args:
        image: (H, W, 3) uint8 RGB.
        logits: (H, W) float32 of the whole image, enlarged.
        side: Of the tiles, in pixels of the image; the model frame's side shows them without loss.
        decode: Refines one tile.
        reach: Half width of the band around the edge, in pixels of the model frame.

    Returns:
        (H, W) float32. Inside the band the tiles' logits, mixed where they overlap and fading into the global ones at the band's rim; outside, `logits`.
    """
    zoom = max(image.shape[:2]) / side
    share = band(logits > 0, reach * zoom)
    total, weight = np.zeros(logits.shape, np.float32), np.zeros(logits.shape, np.float32)
    for box in plan_tiles(image.shape[0], image.shape[1], side):
        if not crop(share, box).any():
            continue
        patch = decode(np.ascontiguousarray(crop(image, box)), np.ascontiguousarray(crop(logits, box)))
        window = tent(*patch.shape)
        crop(total, box)[...] += window * patch
        crop(weight, box)[...] += window
    share = np.where(weight > 0, share, 0)
    return (share * total / np.maximum(weight, 1e-6) + (1 - share) * logits).astype(np.float32)


def band(mask: np.ndarray, reach: float) -> np.ndarray:
    """Return, per pixel, how much tiles decide: 1 near the mask's edge, falling from half the reach on, 0 from `reach` pixels on; (H, W) float32.

    A mask without an edge has no band.
    """
    if mask.all() or not mask.any():
        return np.zeros(mask.shape, np.float32)
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    return np.clip(2 - 2 * np.maximum(inside, outside) / reach, 0, 1).astype(np.float32)


def plan_tiles(height: int, width: int, side: int) -> list[Box]:
    """Return squares that cover an image, overlapping by at least 1 / `OVERLAP` of their side, evenly spread; shorter where the image is."""
    return [Box(x, y, x + min(side, width), y + min(side, height)) for y in _starts(height, side) for x in _starts(width, side)]


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (side * (1 - 1 / OVERLAP)))) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def tent(height: int, width: int) -> np.ndarray:
    """Return (height, width) float32 weights that fall from 1 towards the sides, where a tile knows least of what surrounds it."""
    rows, columns = (np.minimum(np.arange(n) + 1, n - np.arange(n)) / (0.5 * n + 0.5) for n in (height, width))
    return np.minimum.outer(rows, columns).astype(np.float32)
