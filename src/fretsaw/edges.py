"""Edges at the image's own resolution: what the model's frame cannot show is looked up in the image, tile by tile, where a mask's edge runs.

A guided filter explains the mask, in a small window around every pixel, as a linear function of the image's colours, so that its edge comes to lie where the
colours change. It knows nothing of objects, needs no training, and costs a second at 4096 x 4096. Away from the edge the mask stays as it is.

Source: Guided Image Filtering (He, Sun & Tang 2013), sections 3.1 and 3.4 (colour); that large images need their own pixels for fine structures: PMG-SAM
(paper 001), sections 3.5 and 4.6, which ends at 1024.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from fretsaw import frames
from fretsaw.frames import crop
from fretsaw.types import Box

LARGE = 1.5
"""An image whose longest side exceeds the model's by this factor has its edges looked up; below it the filter would lose what the decoder knows."""

CELL = 4
"""Pixels of the model's frame in one of the decoder's map: how far off its edges are, and the filter's radius."""

NOISE = 1e-4
"""Variance of colours, in [0, 1], that counts as flat (epsilon, equation 6)."""

TILE = 1024
"""Side of the tiles, in pixels of the image: what is held at once."""

OVERLAP = 8
"""A tile shares one such part of its side with each neighbour."""

REACH = 24
"""Half width of the band in which tiles decide, in pixels of the model's frame: the mask is never further off than a few cells of its own."""

BOUND = 12.0
"""Logits that the filter's shares of 0 and 1 stand for."""

Decode = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(image of a tile (h, w, 3) uint8, coarse logits (h, w)) -> logits (h, w)."""


def at_own_resolution(logits: np.ndarray, image: np.ndarray, frame: frames.Frame) -> np.ndarray:
    """Return a decoder's logits (1, 1, S/4, S/4) at the image's size, (H, W) float32, with the image's own edges where it is much larger than the frame."""
    enlarged = frames.logits_to_image(logits, frame)[0, 0]
    zoom = max(image.shape[:2]) / frame.size
    if zoom <= LARGE:
        return enlarged
    return refine_edges(image, enlarged, TILE, partial(guided_logits, radius=round(CELL * zoom)), REACH * zoom)


def guided_logits(image: np.ndarray, logits: np.ndarray, radius: int, noise: float = NOISE) -> np.ndarray:
    """Return logits (h, w) whose edges follow those of an image (h, w, 3) uint8 within windows of 2 radius + 1 pixels."""
    probs = (1 / (1 + np.exp(-np.clip(logits, -BOUND, BOUND)))).astype(np.float32)
    share = guided_filter(image.astype(np.float32) / 255, probs, radius, noise)
    least = 1 / (1 + np.exp(BOUND))
    share = np.clip(share, least, 1 - least)
    return np.log(share / (1 - share)).astype(np.float32)


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, noise: float) -> np.ndarray:
    """Return values (h, w) explained by a guide (h, w, 3), both float32, as a linear function in every window of 2 radius + 1 pixels.

    Source: Guided Image Filtering (He, Sun & Tang 2013), equations 8, 14 and 15; windows are mirrored at the border.
    """

    def mean(part: np.ndarray) -> np.ndarray:
        return cv2.blur(part, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    channels = [np.ascontiguousarray(guide[..., i]) for i in range(3)]
    means, mean_values = [mean(channel) for channel in channels], mean(values)
    r, g, b = (mean(channel * values) - own * mean_values for channel, own in zip(channels, means, strict=True))
    rr, gg, bb = (mean(channel * channel) - own * own + noise for channel, own in zip(channels, means, strict=True))
    rg, rb, gb = (mean(channels[i] * channels[j]) - means[i] * means[j] for i, j in ((0, 1), (0, 2), (1, 2)))
    # The inverse of the windows' covariance, by cofactors.
    inner = (gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb, rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg)
    determinant = rr * inner[0] + rg * inner[1] + rb * inner[2]
    slopes = [
        (inner[0] * r + inner[1] * g + inner[2] * b) / determinant,
        (inner[1] * r + inner[3] * g + inner[4] * b) / determinant,
        (inner[2] * r + inner[4] * g + inner[5] * b) / determinant,
    ]
    offset = mean_values - sum(slope * own for slope, own in zip(slopes, means, strict=True))
    return sum(mean(slope) * channel for slope, channel in zip(slopes, channels, strict=True)) + mean(offset)


def refine_edges(image: np.ndarray, logits: np.ndarray, side: int, decode: Decode, reach: float) -> np.ndarray:
    """Make a mask's edge again at the image's own resolution.

    Args:
        image: (H, W, 3) uint8 RGB.
        logits: (H, W) float32 of the whole image, enlarged.
        side: Of the tiles, in pixels of the image.
        decode: Refines one tile.
        reach: Half width of the band around the edge, in pixels of the image.

    Returns:
        (H, W) float32. Inside the band the tiles' logits, mixed where they overlap and fading into the global ones at the band's rim; outside, `logits`.
    """
    share = band(logits > 0, reach)
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
