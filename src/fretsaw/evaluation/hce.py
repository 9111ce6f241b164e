"""Human correction efforts: how many mouse clicks it takes to turn a predicted mask into the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import cv2
import numpy as np

from fretsaw.errors import MissingExtraError
from fretsaw.evaluation.saliency import check_pair

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def require_skeleton() -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that thins a mask to its skeleton.

    Raises:
        MissingExtraError: If scikit-image is not installed.
    """
    try:
        from skimage.morphology import skeletonize  # pyright: ignore[reportUnknownVariableType]
    except ImportError as error:
        raise MissingExtraError("human correction efforts (HCE) need scikit-image, which is not installed: pip install 'fretsaw[evaluate]'") from error
    return cast("Callable[[np.ndarray], np.ndarray]", skeletonize)


def human_correction_efforts(prediction: np.ndarray, truth: np.ndarray, levels: np.ndarray, relax: int = 5, epsilon: float = 2.0) -> int:
    """Return the number of clicks that correct the prediction: polygon points along wrong borders and one click per region that stands alone.

    Args:
        prediction: (H, W) uint8 soft map; its mask is where the level's value is above 0.5.
        truth: (H, W) bool, or uint8 with object above 128.
        levels: (256,) values of the levels, see `saliency`.
        relax: Errors narrower than this many erosions are forgiven.
        epsilon: Tolerance of the polygons, in pixels.

    Raises:
        MissingExtraError: If scikit-image is not installed.

    Source: Qin et al. 2022, Highly accurate dichotomous image segmentation, section 4 and algorithm 1.
    """
    skeletonize = require_skeleton()
    prediction, binary = check_pair(prediction, truth)
    predicted = (levels > 0.5).view(np.uint8)[prediction]
    hits, extra, missed = binary & predicted, predicted & (1 - binary), binary & (1 - predicted)
    core: np.ndarray = cv2.erode(binary | predicted, _CROSS, iterations=relax)
    extra = extra & _grow(extra & core, 1 - binary, relax)
    thin = _skeleton(binary, skeletonize) & (1 - predicted)
    missed = (missed & _grow(missed & core, 1 - predicted, relax)) | thin
    return _clicks(extra, hits | missed, epsilon) + _clicks(missed, 1 - (hits | extra | missed), epsilon)


def _grow(region: np.ndarray, allowed: np.ndarray, steps: int) -> np.ndarray:
    """Grow a (H, W) uint8 region by `steps` pixels (4-connected) without leaving the allowed pixels."""
    if not region.any():
        return region
    for _ in range(steps):
        region = np.bitwise_and(cv2.dilate(region, _CROSS), allowed)
    return region


def _skeleton(binary: np.ndarray, skeletonize: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the skeleton of the truth, (H, W) uint8. Only the object's box is thinned, since thinning does not look outside of it."""
    skeleton = np.zeros_like(binary)
    x, y, width, height = cv2.boundingRect(binary)
    if width:
        skeleton[y : y + height, x : x + width] = skeletonize(binary[y : y + height, x : x + width].astype(bool))
    return skeleton


def _clicks(wrong: np.ndarray, neighbours: np.ndarray, epsilon: float) -> int:
    """Points of the borders that a wrong region shares with `neighbours`, plus one for each wrong region that shares none."""
    contours, _ = cv2.findContours(wrong, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return 0
    boundaries, shared = _shared_boundaries(contours, cv2.dilate(neighbours, _CROSS))
    regions, labels = cv2.connectedComponents(wrong, connectivity=8)
    touched = np.unique(labels[shared[:, 1], shared[:, 0]]).size
    return sum(len(cv2.approxPolyDP(boundary, epsilon, False)) for boundary in boundaries) + regions - 1 - touched


def _shared_boundaries(contours: Sequence[np.ndarray], near: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Cut contours into the stretches that run where `near` is set, each pixel used once.

    Args:
        contours: (n, 1, 2) int32 xy each, in OpenCV's order.
        near: (H, W) uint8.

    Returns:
        The stretches, (n, 1, 2) int32 each, and all their points, (N, 2). If a contour's last point adjoins its first, the first stretch is appended to the
        last in reversed order: the published code's rule, which the number of points depends on.
    """
    points = np.concatenate(contours)[:, 0, :]
    owner = np.repeat(np.arange(len(contours)), [len(contour) for contour in contours])
    chosen = np.flatnonzero(near[points[:, 1], points[:, 0]])
    pixel = points[chosen, 1].astype(np.int64) * near.shape[1] + points[chosen, 0]
    chosen = chosen[np.sort(np.unique(pixel, return_index=True)[1])]
    if chosen.size == 0:
        return [], points[:0]
    breaks = (np.diff(chosen) != 1) | (np.diff(owner[chosen]) != 0)
    stretches = np.split(chosen, np.flatnonzero(breaks) + 1)
    boundaries: list[np.ndarray] = []
    start = 0
    while start < len(stretches):
        end = start + 1
        while end < len(stretches) and owner[stretches[end][0]] == owner[stretches[start][0]]:
            end += 1
        boundaries += _join_ends([points[stretch] for stretch in stretches[start:end]])
        start = end
    return [np.ascontiguousarray(boundary[:, None, :]) for boundary in boundaries], points[chosen]


def _join_ends(stretches: list[np.ndarray]) -> list[np.ndarray]:
    """Join the first to the last stretch of one contour where they meet."""
    if len(stretches) > 1 and np.abs(stretches[0][0] - stretches[-1][-1]).max() == 1:
        return [*stretches[1:-1], np.concatenate([stretches[-1], stretches[0][::-1]])]
    return stretches
