"""Where a refiner looks and what it changes: boxes around clicks and changes, the crop put back, what contradicts the clicks.

Source: SAM-REF (Yu et al. 2024), section 3.4; boxes after FocalClick (Chen et al. 2022).
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor

from fretsaw.frames import expand_box
from fretsaw.types import NEGATIVE, POSITIVE, Box

BOX_FACTOR = 1.4
"""How much the box around a change is expanded before it is refined (FocalClick)."""

MARGIN = 8
"""Pixels of the map that are looked at around everything that is not sure background."""


def unsure_box(disks: Tensor, logits: Tensor, previous_logits: Tensor | None, sure: float) -> Box:
    """Return the box around prompts, the mask before and all that the decoder does not call background with certainty, with a margin.

    Args:
        disks: (1, 2, h, w) prompt maps.
        logits: (1, 1, h, w) the decoder's.
        previous_logits: (1, 1, h, w) the mask before, or None.
        sure: Logits of at most minus this are certain; infinity takes the whole map.
    """
    height, width = logits.shape[-2:]
    unsure = (logits[0, 0] > -sure) | (disks[0] > 0).any(0)
    if previous_logits is not None:
        unsure |= previous_logits[0, 0] > 0
    rows, columns = (unsure.any(axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        return Box(0, 0, width, height)
    x0, x1, y0, y1 = (int(i) for i in (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
    return Box(max(0, x0 - MARGIN), max(0, y0 - MARGIN), min(width, x1 + MARGIN), min(height, y1 + MARGIN))


def contains(outer: Box, inner: Box) -> bool:
    """Whether a box lies within another."""
    return outer.x0 <= inner.x0 and outer.y0 <= inner.y0 and outer.x1 >= inner.x1 and outer.y1 >= inner.y1


def contradictions(mask: Tensor, point_coords: Tensor, point_labels: Tensor, model_size: int) -> int:
    """Return how many clicks a mask contradicts: positive ones outside it, negative ones inside.

    Args:
        mask: (s, s) bool, in the decoder's frame.
        point_coords: (N, 2) xy in the model frame.
        point_labels: (N,); box corners and padding do not count.
        model_size: Side S of the model frame.
    """
    side = mask.shape[-1]
    x, y = ((point_coords + 0.5) * (side / model_size) - 0.5).round().long().clamp(0, side - 1).unbind(-1)
    return int(((mask[y, x] != (point_labels == POSITIVE)) & ((point_labels == POSITIVE) | (point_labels == NEGATIVE))).sum())


def click_place(point_coords: Tensor, point_labels: Tensor, model_size: int, logits: Tensor) -> tuple[float, float]:
    """Return the last click of a prompt set (1, N, 2), xy in pixels of the map."""
    place = (last_place(point_coords[0], point_labels[0]) + 0.5) * (logits.shape[-1] / model_size) - 0.5
    return float(place[0]), float(place[1])


def changed_around(click: tuple[float, float], logits: Tensor, previous: Tensor) -> Tensor:
    """Return the mask before with the decoder's answer in the box around what it changed at the click; both (1, 1, s, s)."""
    box = changed_box(logits[0, 0] > 0, previous[0, 0] > 0, click)
    if box is None:
        return previous
    return paste_crop(logits[..., int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)], box, previous)


def error_region_grew(error_map: Tensor, before: Tensor | None) -> bool:
    """Whether more pixels have sigmoid(error) > 0.5 than before; without a before, any growth counts.

    Source: SAM-REF, section 3.4.2.
    """
    count = int((error_map > 0).sum())
    return before is None or count > int((before > 0).sum())


def last_place(point_coords: Tensor, point_labels: Tensor) -> Tensor:
    """Return the xy of the last click among points (N, 2) with labels (N,); the box's centre where there is no click."""
    clicks = point_coords[(point_labels == 0) | (point_labels == 1)]
    return clicks[-1] if len(clicks) else point_coords[(point_labels == 2) | (point_labels == 3)].mean(0)


def changed_box(mask: Tensor, previous: Tensor, click: tuple[float, float], factor: float = BOX_FACTOR) -> Box | None:
    """Return the box around the change that the last click made.

    Args:
        mask: (h, w) bool, GlobalDiff's.
        previous: (h, w) bool.
        click: xy in pixels of the masks; may be fractional.
        factor: How much the box is expanded about its centre.

    Returns:
        The expanded box of the 8-connected component of (mask xor previous) that holds the click, or None where the click changed nothing.

    Source: SAM-REF, section 3.4.1; the factor from FocalClick (Chen et al. 2022).
    """
    changed = (mask ^ previous).cpu().numpy().astype(np.uint8)
    height, width = changed.shape
    column, row = min(max(round(click[0]), 0), width - 1), min(max(round(click[1]), 0), height - 1)
    labels: np.ndarray
    stats: np.ndarray
    _, labels, stats, _ = cv2.connectedComponentsWithStats(changed, connectivity=8)
    label = labels[row, column]
    if label == 0:
        return None
    x, y, columns, rows = map(int, cast("list[int]", stats[label][:4]))
    return expand_box(Box(x, y, x + columns, y + rows), factor, 2, height, width)


def paste_crop(crop: Tensor, box: Box, canvas: Tensor) -> Tensor:
    """Return `canvas` (1, 1, h, w) with `crop` (1, 1, a, b), resampled to the box's size, in the box; outside it every bit is kept."""
    rows, columns = int(box.y1 - box.y0), int(box.x1 - box.x0)
    result = canvas.clone()
    # The mean over each pixel's own area: unlike a wider filter it is not cut off at the crop's border, so a crop returns as it came.
    patch = F.interpolate(crop, (rows, columns), mode="area")
    result[..., int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = patch
    return result
