"""How far two binary masks agree: IoU (`fretsaw.masks.mask_iou`), Dice, pixel accuracy and boundary IoU.

Two empty masks agree: every measure is 1 there.
"""

from __future__ import annotations

import cv2
import numpy as np

from fretsaw.errors import ShapeError
from fretsaw.masks import require_mask


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Return twice the intersection over the sum of the areas of two (H, W) bool masks.

    Raises:
        ShapeError: If one is not such an array or the sizes differ.
    """
    _require_pair(mask, truth)
    areas = np.count_nonzero(mask) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(mask & truth) / areas if areas else 1.0


def pixel_accuracy(mask: np.ndarray, truth: np.ndarray, ignored: np.ndarray | None = None) -> float:
    """Return the share of pixels on which two (H, W) bool masks agree, of those that a third one does not mark as ignored; 1 where it marks all.

    Raises:
        ShapeError: If one is not such an array or the sizes differ.
    """
    _require_pair(mask, truth)
    if ignored is None:
        return np.count_nonzero(mask == truth) / mask.size
    _require_pair(ignored, truth)
    counted = mask.size - np.count_nonzero(ignored)
    return np.count_nonzero((mask == truth) & ~ignored) / counted if counted else 1.0


def boundary_iou(mask: np.ndarray, truth: np.ndarray, dilation: float = 0.02) -> float:
    """Return the IoU of the inner bands along the two masks' outlines.

    Args:
        mask: (H, W) bool.
        truth: (H, W) bool.
        dilation: Width of the bands as a share of the image's diagonal; rounded to pixels, at least 1.

    Raises:
        ShapeError: If one is not such an array or the sizes differ.

    Source: Cheng et al. 2021, Boundary IoU, equation 2.
    """
    _require_pair(mask, truth)
    height, width = mask.shape
    distance = max(1, round(dilation * float(np.hypot(height, width))))
    ours, theirs = _inner_band(mask, distance), _inner_band(truth, distance)
    union = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / union if union else 1.0


def _inner_band(mask: np.ndarray, distance: int) -> np.ndarray:
    """Pixels of the mask within `distance` (in rows and columns) of a pixel outside it; beyond the image's edge is outside."""
    kernel = np.ones((2 * distance + 1,) * 2, np.uint8)
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    inner = cv2.erode(pixels, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,))
    return pixels > inner


def _require_pair(mask: np.ndarray, truth: np.ndarray) -> None:
    if require_mask(mask).shape != require_mask(truth, "truth").shape:
        raise ShapeError(f"expected mask and truth of one size, got {mask.shape} and {truth.shape}")
