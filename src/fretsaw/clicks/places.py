"""Where to click without a truth: deep inside a mask; and how far two soft masks agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def deepest_places(mask: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return up to `count` places (x, y) deep inside a mask (H, W) bool and apart from each other, the deepest first."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 0)[1:-1, 1:-1]
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    found: list[tuple[int, int]] = []
    for _ in range(count):
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        reach = float(depth[y, x])
        if reach <= 0:
            break
        found.append((int(x), int(y)))
        # The next one is worth less the nearer it lies, up to half as far again as this one is deep.
        depth = depth * np.clip(np.hypot(rows - y, columns - x) / (1.5 * reach + 8), 0, 1)
    return found


def probs_iou(mask_probs: Tensor, other: Tensor) -> Tensor:
    """Return the IoU of soft masks, sum(min) / sum(max), of maps (..., h, w) of probabilities, (...)."""
    return mask_probs.minimum(other).sum((-2, -1)) / mask_probs.maximum(other).sum((-2, -1)).clamp(min=1e-6)
