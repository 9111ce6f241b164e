"""The annotator of the click protocols: the next click from a prediction and the truth. It knows nothing of models."""

from __future__ import annotations

import cv2
import numpy as np

from fretsaw.errors import ConfigError, ShapeError
from fretsaw.types import Click

EPSILON = float(np.finfo(np.float32).eps)
"""Keeps the deepest pixel itself among those that are drawn from."""

SPREAD = 0.5
"""Standard deviation, in x and in y, of a click as people make it, over the depth of the place that it is meant for."""

DRAWS = 20
"""Places drawn until one lies on the error."""


def simulate_click(prediction: np.ndarray, truth: np.ndarray, clicked: np.ndarray | None = None) -> Click:
    """Return the click a careful annotator would make next.

    The click falls on the pixel deepest inside the larger error region: positive where the object was missed, negative where background was taken.

    Args:
        prediction: (H, W) bool, original frame.
        truth: (H, W) int8, 1 object, 0 background, -1 ignored.
        clicked: (H, W) bool, pixels already clicked; they are not chosen again. They count as part of the error region while depths are measured.

    Returns:
        Click in the original frame. Ties go to the first pixel in row order; a tie between the regions gives a negative click, so a perfect prediction gives a
        negative click at (0, 0).

    Raises:
        ShapeError: If the arrays differ in size.

    Source: RITM (Sofiiuk et al. 2022), evaluation protocol. HRSAM's own rule (appendix D.4) differs, see `simulate_click_hrsam`.
    """
    _check(prediction, truth, clicked)
    missed, taken = error_regions(prediction, truth)
    missed_depth, missed_place = _deepest(missed, clicked)
    taken_depth, taken_place = _deepest(taken, clicked)
    positive = missed_depth > taken_depth
    x, y = missed_place if positive else taken_place
    return Click(float(x), float(y), positive)


def simulate_click_hrsam(prediction: np.ndarray, truth: np.ndarray, clicked: np.ndarray | None, rng: np.random.Generator, k: float = 1.0) -> Click | None:
    """Return the next click by HRSAM's and InterFormer's rule.

    Differs from `simulate_click` in three ways: pixels already clicked leave the error region before depths are measured, so a clicked pixel counts as border;
    among the deepest pixels one is drawn at random; where nothing is wrong, or every wrong pixel is clicked, there is no click.

    Args:
        prediction: (H, W) bool, original frame.
        truth: (H, W) int8, 1 object, 0 background, -1 ignored.
        clicked: (H, W) bool, pixels already clicked, or None.
        rng: Draws among ties; equal seeds give equal clicks.
        k: How careless the click is: every pixel deeper than the greatest depth over k may be drawn. 1 is the centre, as in evaluation; training takes 1.7.

    Returns:
        Click in the original frame, or None.

    Raises:
        ConfigError: If k is below 1.
        ShapeError: If the arrays differ in size.

    Source: HRSAM (paper 003), appendix D.4, and the authors' published evaluation code for what the text leaves open.
    Deviation: pixels marked -1 are never wrong; the published code takes them for background (its data sets have none).
    """
    if k < 1:
        raise ConfigError(f"expected k of at least 1, got {k}")
    _check(prediction, truth, clicked)
    missed, taken = error_regions(prediction, truth)
    if clicked is not None:
        missed, taken = missed & ~clicked, taken & ~clicked
    missed_depths, taken_depths = depths(missed), depths(taken)
    missed_most, taken_most = missed_depths.max(initial=0), taken_depths.max(initial=0)
    if missed_most == 0 and taken_most == 0:
        return None
    positive = bool(missed_most > taken_most)
    field, most = (missed_depths, missed_most) if positive else (taken_depths, taken_most)
    rows, columns = np.nonzero(field > float(most) / (k + EPSILON))
    choice = int(rng.integers(len(rows)))
    return Click(float(columns[choice]), float(rows[choice]), positive)


def simulate_click_around(
    prediction: np.ndarray, truth: np.ndarray, clicked: np.ndarray | None, rng: np.random.Generator, spread: float = SPREAD
) -> Click | None:
    """Return the next click as people make it: on the error that `simulate_click_hrsam` would click, but not at its centre.

    The place is drawn from a normal distribution around the deepest one, `spread` times its depth wide in x and in y, and drawn anew until it lies on the
    error; after `DRAWS` draws it is the deepest one itself.

    Args:
        prediction: (H, W) bool, original frame.
        truth: (H, W) int8, 1 object, 0 background, -1 ignored.
        clicked: (H, W) bool, pixels already clicked, or None.
        rng: Draws the places; equal seeds give equal clicks.
        spread: Standard deviation over the depth of the deepest place; 0 is the centre.

    Returns:
        Click in the original frame, or None where nothing is wrong or every wrong pixel is clicked.

    Raises:
        ConfigError: If the spread is below 0.
        ShapeError: If the arrays differ in size.

    Source: RClicks (Antonov et al. 2024) for the finding that people click around the centre of an error and that methods differ in how they bear it.
    Deviation: RClicks learns where people click from 475 thousand clicks; here the distance is normal, in units of the error's depth.
    """
    if spread < 0:
        raise ConfigError(f"expected a spread of at least 0, got {spread}")
    centre = simulate_click_hrsam(prediction, truth, clicked, rng)
    if centre is None:
        return None
    region = error_regions(prediction, truth)[0 if centre.positive else 1]
    if clicked is not None:
        region = region & ~clicked
    reach = spread * float(depths(region)[int(centre.y), int(centre.x)])
    places = np.rint(rng.normal((centre.x, centre.y), reach, (DRAWS, 2))).astype(int)
    height, width = region.shape
    for x, y in places:
        if 0 <= x < width and 0 <= y < height and region[y, x]:
            return Click(float(x), float(y), centre.positive)
    return centre


def error_regions(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (missed, taken), (H, W) bool each: object pixels outside the prediction, background pixels inside it; ignored pixels are in neither."""
    return (truth == 1) & ~prediction, (truth == 0) & prediction


def depths(region: np.ndarray) -> np.ndarray:
    """Return how far each pixel of a region lies from the nearest pixel outside it, beyond the image's edge included; 0 outside the region.

    Args:
        region: (H, W) bool.

    Returns:
        (H, W) float32, exact Euclidean distances between pixel centres.
    """
    padded = np.pad(region.view(np.uint8), 1)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def _deepest(region: np.ndarray, clicked: np.ndarray | None) -> tuple[float, tuple[int, int]]:
    """Return the greatest depth among pixels not clicked, and the first pixel xy in row order that has it; (0, (0, 0)) where there is none.

    Only the region's bounding box is transformed: a ring of pixels outside the region surrounds it there, and the ring is nearer than anything beyond.
    """
    rows = np.flatnonzero(region.any(axis=1))
    if len(rows) == 0:
        return 0.0, (0, 0)
    columns = np.flatnonzero(region.any(axis=0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    field = depths(region[y0:y1, x0:x1])
    if clicked is not None:
        field = np.where(clicked[y0:y1, x0:x1], 0, field)
    y, x = np.unravel_index(int(field.argmax()), field.shape)
    depth = float(field[y, x])
    return (depth, (x0 + int(x), y0 + int(y))) if depth > 0 else (0.0, (0, 0))


def _check(prediction: np.ndarray, truth: np.ndarray, clicked: np.ndarray | None) -> None:
    if prediction.ndim != 2 or prediction.dtype != np.bool_:
        raise ShapeError(f"expected a prediction (H, W) bool, got {prediction.shape} {prediction.dtype}")
    if truth.shape != prediction.shape or not np.issubdtype(truth.dtype, np.signedinteger):
        raise ShapeError(f"expected a truth {prediction.shape} of signed integers (1, 0, -1), got {truth.shape} {truth.dtype}")
    if clicked is not None and (clicked.shape != prediction.shape or clicked.dtype != np.bool_):
        raise ShapeError(f"expected clicked pixels {prediction.shape} bool, got {clicked.shape} {clicked.dtype}")
