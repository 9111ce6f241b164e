"""The weighted F-measure, which weighs errors by where they lie; the one metric of soft maps that needs more than level counts."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from fretsaw.evaluation.saliency import EPSILON, check_pair

_NEAREST_RADIUS = 4
_HALF_KERNEL = 3
_FAR = 160  # here the weight, 2 - 0.5 ** (distance / 5), is 2 to within 3e-10


def weighted_f(prediction: np.ndarray, truth: np.ndarray, levels: np.ndarray, beta2: float = 1.0) -> float:
    """Return the weighted F-measure, in which errors depend on their neighbours and on their distance to the object.

    Args:
        prediction: (H, W) uint8.
        truth: (H, W) bool, or uint8 with object above 128.
        levels: (256,) values of the levels.
        beta2: Weight of precision, already squared.

    Returns:
        The measure; 0 for an empty truth.

    Source: Margolin et al. 2014, How to evaluate foreground maps?, equations 7-13 (Gaussian 7 x 7 of sigma 5, decay log(0.5) / 5).
    """
    prediction, binary = check_pair(prediction, truth)
    pixels = int(cv2.countNonZero(binary))
    if pixels == 0:
        return 0.0
    false_alarms = _false_alarms(prediction, binary, levels)
    # Far from the object the weight is constant; nearer, the nearest object pixel of every error lies in the box round the object and the errors.
    box = _box(binary, _FAR)
    prediction, binary = prediction[box], binary[box]
    box = _box(cv2.bitwise_or(cv2.LUT(prediction, (levels > 0).view(np.uint8)), binary), _HALF_KERNEL)
    prediction, binary = prediction[box], binary[box]
    distance = cv2.distanceTransform(1 - binary, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    false_alarms = 2 * false_alarms - _false_alarms(prediction, binary, levels, cv2.exp(distance * np.float32(np.log(0.5) / 5)))
    box = _box(binary, _HALF_KERNEL)
    missed = _smoothed_object_error(prediction[box], binary[box], distance[box], levels)
    found = pixels - missed
    recall, precision = 1 - missed / pixels, found / (found + false_alarms + EPSILON)
    return (1 + beta2) * recall * precision / (recall + beta2 * precision + EPSILON)


def _box(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the box round a (H, W) uint8 mask, grown by a margin."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)


def _false_alarms(prediction: np.ndarray, binary: np.ndarray, levels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Sum of the errors beside the object, each times its weight if there are weights."""
    error = np.asarray(cv2.LUT(prediction, levels.astype(np.float32)))
    error[binary.view(bool)] = 0
    return cv2.sumElems(error if weights is None else cv2.multiply(error, weights))[0]


def _smoothed_object_error(prediction: np.ndarray, mask: np.ndarray, distance: np.ndarray, levels: np.ndarray) -> float:
    """Sum over the object of the smaller of each error and its Gaussian mean."""
    error = np.asarray(cv2.LUT(prediction, 1 - levels))
    targets, sources = _nearest_on_object(mask, distance)
    flat = error.reshape(-1)
    flat[targets] = flat[sources]
    offsets = np.arange(-_HALF_KERNEL, _HALF_KERNEL + 1)
    gaussian = np.exp(-(offsets**2) / (2 * 5.0**2))
    gaussian /= gaussian.sum()
    mean = cv2.sepFilter2D(error, cv2.CV_64F, gaussian, gaussian, borderType=cv2.BORDER_CONSTANT)
    return cv2.mean(cv2.min(error, mean), mask)[0] * cv2.countNonZero(mask)


@lru_cache(maxsize=1)
def _nearest_offsets() -> dict[int, tuple[tuple[int, int], ...]]:
    """Offsets (rows, columns) by squared length, as far as needed; the leftmost first, then the upper: what the published code prefers where two are equal."""
    reach = range(-_NEAREST_RADIUS, _NEAREST_RADIUS + 1)
    offsets = sorted((dx, dy) for dy in reach for dx in reach if 0 < dy * dy + dx * dx <= 2 * _HALF_KERNEL**2)
    lengths = sorted({dx * dx + dy * dy for dx, dy in offsets})
    return {length: tuple((dy, dx) for dx, dy in offsets if dx * dx + dy * dy == length) for length in lengths}


def _nearest_on_object(mask: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels beside the object that the Gaussian reaches from it, and the nearest object pixel of each, as indices into the flattened map."""
    width, padded_width = mask.shape[1], mask.shape[1] + 2 * _NEAREST_RADIUS
    near = cv2.dilate(mask, np.ones((2 * _HALF_KERNEL + 1,) * 2, np.uint8)) > mask
    targets = np.flatnonzero(near)
    squared = np.rint(np.square(distance[near])).astype(np.uint8)
    order = np.argsort(squared, kind="stable")
    targets, ends = targets[order], np.cumsum(np.bincount(squared, minlength=2 * _HALF_KERNEL**2 + 1))
    places = (targets // width + _NEAREST_RADIUS) * padded_width + targets % width + _NEAREST_RADIUS
    padded = np.pad(mask, _NEAREST_RADIUS).ravel()
    sources = np.empty_like(targets)
    for length, offsets in _nearest_offsets().items():
        waiting = np.arange(int(ends[length - 1]), int(ends[length]))
        for dy, dx in offsets:
            found = padded[places[waiting] + (dy * padded_width + dx)] != 0
            hit = waiting[found]
            sources[hit] = targets[hit] + (dy * width + dx)
            waiting = waiting[~found]
    return targets, sources
