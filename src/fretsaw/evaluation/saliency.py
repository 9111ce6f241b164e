"""Metrics of one soft map against one truth: F, E, S and MAE.

A prediction has 256 levels, so these metrics need only know how often each level falls on the object and how often beside it. The levels are
counted once, apart for the four quadrants round the object's centre (which S needs); every curve, mean and adaptive value is then a sum over 256 entries.

`levels` is the table of the 256 values that the prediction's bytes stand for: `plain_levels()`, or `stretched_levels(counts)`, which spreads each image over
[0, 1]. Values are computed with the same operations in the same order as the published evaluation code's, because thresholds are compared for equality.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

from fretsaw.errors import ShapeError

EPSILON = float(np.spacing(1))
TRUTH_ABOVE = 128
_CALC_HIST_LIMIT = 1 << 24  # OpenCV returns counts as float32, which are whole numbers up to here


@dataclass(frozen=True)
class LevelCounts:
    """How many pixels of each level lie on the object and beside it.

    Attributes:
        foreground: (256,) int64, counts by level where the truth is object.
        background: (256,) int64, the same for the rest.
    """

    foreground: np.ndarray
    background: np.ndarray

    @cached_property
    def total(self) -> np.ndarray:
        """(256,) int64, counts by level over all pixels."""
        return self.foreground + self.background

    @cached_property
    def object_pixels(self) -> int:
        return int(self.foreground.sum())

    @cached_property
    def pixels(self) -> int:
        return int(self.total.sum())


@dataclass(frozen=True, slots=True)
class Quadrant:
    """The level counts of one quadrant of the image and where it lies."""

    counts: LevelCounts
    rows: slice
    columns: slice


def check_pair(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pair as it is scored: (H, W) uint8 prediction and (H, W) uint8 truth of 0 and 1.

    Args:
        prediction: (H, W) uint8 soft map.
        truth: (H, W) bool, or uint8 where values above 128 are object.

    Raises:
        ShapeError: If an array is not two-dimensional, empty, of another dtype, or the sizes differ.
    """
    if prediction.ndim != 2 or prediction.dtype != np.uint8:
        raise ShapeError(f"a prediction must be (H, W) uint8; got {prediction.dtype} of shape {prediction.shape}")
    if truth.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise ShapeError(f"a truth must be (H, W) bool or uint8; got {truth.dtype}")
    if prediction.shape != truth.shape or prediction.size == 0:
        raise ShapeError(f"prediction and truth must have the same size of at least one pixel; got {prediction.shape} and {truth.shape}")
    binary = truth if truth.dtype == bool else truth > TRUTH_ABOVE
    return np.ascontiguousarray(prediction), np.ascontiguousarray(binary).view(np.uint8)


def count_levels(prediction: np.ndarray, binary: np.ndarray) -> LevelCounts:
    """Count the levels of a prediction on the object and beside it; both arrays as `check_pair` returns them."""
    strip = max(1, _CALC_HIST_LIMIT // max(1, prediction.shape[1]))
    total, foreground = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for row in range(0, prediction.shape[0], strip):
        part, mask = prediction[row : row + strip], binary[row : row + strip]
        total += cv2.calcHist([part], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        foreground += cv2.calcHist([part], [0], mask, [256], [0, 256]).ravel().astype(np.int64)
    return LevelCounts(foreground, total - foreground)


def object_centre(binary: np.ndarray) -> tuple[int, int]:
    """Return (row, column) one beyond the rounded centre of the object, where S divides the image; the image's middle if there is no object."""
    height, width = binary.shape
    row_counts = cv2.reduce(binary, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
    column_counts = cv2.reduce(binary, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
    pixels = int(row_counts.sum())
    if pixels == 0:
        return round(height / 2) + 1, round(width / 2) + 1
    row, column = (float(counts @ np.arange(len(counts))) / pixels for counts in (row_counts, column_counts))
    return round(row) + 1, round(column) + 1


def count_quadrants(prediction: np.ndarray, truth: np.ndarray) -> tuple[Quadrant, Quadrant, Quadrant, Quadrant]:
    """Count levels in the four quadrants round the object's centre: top left, top right, bottom left, bottom right.

    Args:
        prediction: (H, W) uint8.
        truth: (H, W) bool, or uint8 with object above 128.

    Returns:
        The quadrants; together they cover the image once, and some may be empty.
    """
    prediction, binary = check_pair(prediction, truth)
    height, width = binary.shape
    row, column = object_centre(binary)
    places = [
        (slice(0, row), slice(0, column)),
        (slice(0, row), slice(column, width)),
        (slice(row, height), slice(0, column)),
        (slice(row, height), slice(column, width)),
    ]
    first, second, third, fourth = (Quadrant(count_levels(prediction[place], binary[place]), *place) for place in places)
    return first, second, third, fourth


def sum_counts(quadrants: tuple[Quadrant, ...]) -> LevelCounts:
    """Return the counts of the whole image from those of its quadrants."""
    foreground = np.sum([quadrant.counts.foreground for quadrant in quadrants], axis=0)
    background = np.sum([quadrant.counts.background for quadrant in quadrants], axis=0)
    return LevelCounts(foreground, background)


@lru_cache(maxsize=1)
def _plain_levels() -> np.ndarray:
    levels = np.arange(256) / 255
    levels.flags.writeable = False
    return levels


def plain_levels() -> np.ndarray:
    """Return (256,) float64: level / 255, the same for every image."""
    return _plain_levels()


def stretched_levels(counts: LevelCounts) -> np.ndarray:
    """Return (256,) float64 values that run from 0 at the image's lowest level to 1 at its highest; a constant image keeps level / 255."""
    levels = plain_levels()
    used = np.flatnonzero(counts.total)
    lowest, highest = levels[used[0]], levels[used[-1]]
    if lowest == highest:
        return levels
    return np.clip((levels - lowest) / (highest - lowest), 0.0, 1.0)


def _by_threshold(counts: LevelCounts, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return object and background pixels at or above each of the 256 thresholds, from 255 down to 0."""
    bytes_ = (levels * 255).astype(np.uint8)  # cut off, not rounded, as the published code does
    foreground = np.bincount(bytes_, weights=counts.foreground, minlength=256)
    background = np.bincount(bytes_, weights=counts.background, minlength=256)
    return np.cumsum(foreground[::-1]), np.cumsum(background[::-1])


def f_curve(counts: LevelCounts, levels: np.ndarray, beta2: float = 0.3) -> np.ndarray:
    """Return the F-measure at the 256 thresholds, from 255 down to 0.

    Args:
        counts: The image's level counts.
        levels: (256,) values of the levels.
        beta2: Weight of precision, already squared.

    Returns:
        (256,) float64; 0 where nothing of the object is found. A set's max F is the maximum of the images' mean curve.

    Source: Achanta et al. 2009, Frequency-tuned salient region detection, equation 10.
    """
    hits, false_alarms = _by_threshold(counts, levels)
    precision = hits / np.maximum(hits + false_alarms, 1)
    recall = hits / max(counts.object_pixels, 1)
    numerator = (1 + beta2) * precision * recall
    return numerator / np.where(numerator == 0, 1, beta2 * precision + recall)


def adaptive_threshold(prediction: np.ndarray, counts: LevelCounts, levels: np.ndarray) -> float:
    """Return twice the mean of the soft map, at most 1.

    Where the threshold falls on one of the levels in use, rounding decides on which side that level lies; only then the mean is taken over the pixels in
    their order, as the published code does for every image.
    """
    total = counts.total
    threshold = 2 * float(total @ levels) / counts.pixels
    used = levels[total > 0]
    if np.any(np.abs(used - threshold) < 1e-9):
        threshold = 2 * float(levels[prediction].mean())
    return min(threshold, 1.0)


def f_at(counts: LevelCounts, levels: np.ndarray, threshold: float, beta2: float = 0.3) -> float:
    """Return the F-measure of the map cut at `threshold` (a value of `levels`); adaptive F at `adaptive_threshold`.

    Source: Achanta et al. 2009, section 5.2.
    """
    above = levels >= threshold
    hits = int(counts.foreground[above].sum())
    if hits == 0:
        return 0.0
    precision, recall = hits / int(counts.total[above].sum()), hits / counts.object_pixels
    return (1 + beta2) * precision * recall / (beta2 * precision + recall)


def e_curve(counts: LevelCounts, levels: np.ndarray) -> np.ndarray:
    """Return the E-measure at the 256 thresholds, from 255 down to 0: (256,) float64.

    Source: Fan et al. 2018, Enhanced-alignment measure for binary foreground map evaluation, equations 2-5.
    """
    hits, false_alarms = _by_threshold(counts, levels)
    return _enhanced_alignment(hits, false_alarms, counts.object_pixels, counts.pixels)


def e_at(counts: LevelCounts, levels: np.ndarray, threshold: float) -> float:
    """Return the E-measure of the map cut at `threshold` (a value of `levels`); adaptive E at `adaptive_threshold`."""
    above = levels >= threshold
    hits, false_alarms = counts.foreground[above].sum(), counts.background[above].sum()
    return float(_enhanced_alignment(hits, false_alarms, counts.object_pixels, counts.pixels))


def _enhanced_alignment(hits: np.ndarray, false_alarms: np.ndarray, object_pixels: int, pixels: int) -> np.ndarray:
    """Mean enhanced alignment of binary maps given by their hits and false alarms; divided by pixels - 1, so a perfect map scores slightly above 1.

    Deviation: an empty or full truth counts the pixels that agree with it, as the published code does; the paper's formula is undefined there.
    """
    found = hits + false_alarms
    if object_pixels == 0:
        return (pixels - found) / (pixels - 1 + EPSILON)
    if object_pixels == pixels:
        return found / (pixels - 1 + EPSILON)
    missed = object_pixels - hits
    prediction_mean, truth_mean = found / pixels, object_pixels / pixels
    alignment = 0.0
    for part, in_prediction, in_truth in ((hits, 1, 1), (false_alarms, 1, 0), (missed, 0, 1), (pixels - found - missed, 0, 0)):
        a, b = in_prediction - prediction_mean, in_truth - truth_mean
        alignment = alignment + part * (2 * a * b / (a**2 + b**2 + EPSILON) + 1) ** 2 / 4
    return np.asarray(alignment) / (pixels - 1 + EPSILON)


def mean_absolute_error(counts: LevelCounts, levels: np.ndarray) -> float:
    """Return the mean of |map - truth| over all pixels.

    Source: Perazzi et al. 2012, Saliency filters, equation 8.
    """
    return float(counts.foreground @ (1 - levels) + counts.background @ levels) / counts.pixels


def s_measure(quadrants: tuple[Quadrant, ...], levels: np.ndarray, alpha: float = 0.5) -> float:
    """Return the structure measure: object similarity times alpha plus region similarity times 1 - alpha, at least 0.

    Args:
        quadrants: What `count_quadrants` returned.
        levels: (256,) values of the levels.
        alpha: Weight of the object part.

    Source: Fan et al. 2017, Structure-measure: a new way to evaluate foreground maps, equations 1-8.

    Deviation: an empty or full truth scores by the map's mean alone, as the published code does. A quadrant without pixels counts 0; the published code
    returns NaN there (an object that ends in the last row or column and lies wholly within it).
    """
    counts = sum_counts(quadrants)
    mean = float(counts.total @ levels) / counts.pixels
    share = counts.object_pixels / counts.pixels
    if share == 0:
        return 1 - mean
    if share == 1:
        return mean
    object_score = share * _object_similarity(counts.foreground, levels) + (1 - share) * _object_similarity(counts.background, 1 - levels)
    region_score = _region_similarity(quadrants, levels, counts.pixels)
    return max(0.0, alpha * object_score + (1 - alpha) * region_score)


def _object_similarity(counts: np.ndarray, values: np.ndarray) -> float:
    pixels = int(counts.sum())
    mean = float(counts @ values) / pixels
    spread = float(np.sqrt(counts @ (values - mean) ** 2 / (pixels - 1))) if pixels > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + EPSILON)


def _region_similarity(quadrants: tuple[Quadrant, ...], levels: np.ndarray, pixels: int) -> float:
    shape = quadrants[-1].rows.stop, quadrants[-1].columns.stop
    weights = [quadrant.counts.pixels / pixels for quadrant in quadrants]
    return sum(weight * _structural_similarity(quadrant, levels, shape) for weight, quadrant in zip(weights, quadrants, strict=True) if weight > 0)


def _structural_similarity(quadrant: Quadrant, levels: np.ndarray, shape: tuple[int, int]) -> float:
    """SSIM of the map and the truth within one quadrant, from the level counts."""
    counts, pixels = quadrant.counts, quadrant.counts.pixels
    degrees = pixels - 1 + EPSILON
    used = np.flatnonzero(counts.total)
    y = counts.object_pixels / pixels
    if used.size == 1:
        return _similarity_of_constant(float(levels[used[0]]), y, quadrant, shape)
    x = float(counts.total @ levels) / pixels
    variance_x = float(counts.total @ (levels - x) ** 2) / degrees
    variance_y = (counts.object_pixels * (1 - y) ** 2 + (pixels - counts.object_pixels) * y**2) / degrees
    covariance = float(counts.foreground @ (levels - x) * (1 - y) - counts.background @ (levels - x) * y) / degrees
    numerator, denominator = 4 * x * y * covariance, (x**2 + y**2) * (variance_x + variance_y)
    if numerator != 0:
        return numerator / (denominator + EPSILON)
    return 1.0 if denominator == 0 else 0.0


def _similarity_of_constant(value: float, share: float, quadrant: Quadrant, shape: tuple[int, int]) -> float:
    """SSIM where the map is constant: 1 if map and truth are both without variance, else 0.

    The published code finds a variance of a constant map where the mean of equal values, summed in their order in memory, is not exactly that value. The
    same sum decides here, over an array of the same strides.
    """
    if share not in (0.0, 1.0):
        return 0.0
    mean = float(np.full(shape, value)[quadrant.rows, quadrant.columns].mean())
    return 1.0 if mean == value or mean**2 + share**2 == 0 else 0.0
