"""Answers that hold to what was clicked, whatever the network says: no weights, no image, only masks and places.

    decoder's answer --only_at--> a user's own mask changes at the new clicks alone
                     --without_crumbs--> small pieces and pinholes of the decoder's own making go
                     --obeyed--> every click lies on its own side of the outline

All three look for the same thing: the piece of a region that a click means (`piece_at`). People click where an error is deepest. So parts of the region that
are much wider than at the click were not meant, nor what hangs on by a much thinner neck, nor what lies many widths away.

Source: the idea of changing a given mask at the click alone: FocalClick (Chen et al. 2022), progressive merge; SAM-REF (Yu et al. 2024), section 3.4.1.
Deviation: both take a box around the connected change; here it is the connected change itself, cut at necks, so that a shifted outline elsewhere stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fretsaw.masks import components, mask_to_box
from fretsaw.types import Click

LEAST_CERTAIN = 0.5
"""Magnitude that the logit of a pixel has at least after it changed sides."""

LEAST_KEPT, MOST_KEPT = 1e-4, 6e4
"""Magnitudes of a patch's logits."""

_ALL_NEIGHBOURS, _FOUR_NEIGHBOURS = 8, 4


@dataclass(frozen=True, slots=True)
class ClickRules:
    """How strictly answers follow the clicks.

    Depths are distances to the nearest pixel outside a region; lengths below are given in units of the depth at the click.

    Attributes:
        neck: A part that is joined to the piece by a neck of less than this depth does not belong to it; 0 for any neck.
        width: Parts that are deeper than this do not belong to it. Of a click that lies on such a part, a disc of its depth is the piece.
        reach: Pixels further from the click than this do not belong to it.
        dot: Radius of the disc that changes at least where a click is disobeyed, over the image's longest side.
        crumb: Pieces and holes that nobody clicked go if they take less than this share of the mask, or less than `cells` cells of the decoder's map; 0 to
            keep them all.
        cells: See `crumb`.
    """

    neck: float = 0.5
    width: float = 2.0
    reach: float = 4.0
    dot: float = 0.004
    crumb: float = 0.001
    cells: float = 1.0

    def unbounded(self) -> ClickRules:
        """Return the rules for the decoder's own masks, where a piece may be as wide and as long as the decoder's logits say."""
        return replace(self, width=math.inf, reach=math.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A part of an answer that differs from what the decoder said.

    Attributes:
        x: Column of its first pixel in the image.
        y: Row of its first pixel.
        logits: (h, w) float16, the pixels' logits; 0 for those that did not change. Read-only.
    """

    x: int
    y: int
    logits: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.logits.nbytes

    @classmethod
    def between(cls, before: np.ndarray, after: np.ndarray) -> Patch | None:
        """Return what makes logits (H, W) into others of the same size; None where they are equal."""
        if before is after:
            return None
        changed = before != after
        x0, y0, x1, y1 = mask_to_box(changed)
        if x0 == x1:
            return None
        # float16 rounds small numbers to zero, which would move the outline, and large ones to infinity.
        values = after[y0:y1, x0:x1]
        kept = np.where(values > 0, 1, -1) * np.clip(np.abs(values), LEAST_KEPT, MOST_KEPT)
        logits = np.where(changed[y0:y1, x0:x1], kept, 0).astype(np.float16)
        logits.flags.writeable = False
        return cls(x0, y0, logits)


def patched(logits: np.ndarray, patches: Sequence[Patch]) -> np.ndarray:
    """Return logits (H, W) float32 with parts changed, one after the other; the array itself where there are none."""
    if not patches:
        return logits
    result = logits.copy()
    for patch in patches:
        height, width = patch.logits.shape
        part = result[patch.y : patch.y + height, patch.x : patch.x + width]
        np.copyto(part, patch.logits, where=patch.logits != 0)
    return result


def only_at(before: np.ndarray, after: np.ndarray, clicks: Sequence[Click], rules: ClickRules) -> np.ndarray:
    """Return `before` with the answer's change at the given clicks; all other pixels keep every bit.

    Args:
        before: (H, W) float32 logits of the mask that is to be corrected.
        after: (H, W) float32 logits of the decoder's answer.
        clicks: The new ones, original frame. A click on its own side of the outline changes nothing.
        rules: How far a change reaches.
    """
    result = before.copy()
    for click in clicks:
        y, x = _place(click, before.shape)
        if (result[y, x] > 0) == click.positive or (after[y, x] > 0) != click.positive:
            continue
        piece = piece_at(((result > 0) != click.positive) & ((after > 0) == click.positive), x, y, rules)
        result[piece] = after[piece]
    return result


def obeyed(logits: np.ndarray, clicks: Sequence[Click], rules: ClickRules) -> np.ndarray:
    """Return logits in which every click lies on its own side of the outline.

    Around a click that the answer disobeys, the piece changes sides that the answer itself holds for at least as likely as the clicked pixel: the level set of
    its own logits. It stays nearer to this click than to any click that says otherwise. Of two contrary clicks on one pixel the later holds.

    Args:
        logits: (H, W) float32, the answer.
        clicks: All of them in their order, original frame.
        rules: How far a piece reaches.

    Returns:
        (H, W) float32; the array itself where no click is disobeyed.
    """
    places = [(*_place(click, logits.shape), click.positive) for click in clicks]
    result = logits
    for y, x, positive in places:
        if (result[y, x] > 0) == positive:
            continue
        if result is logits:
            result = logits.copy()
        sign = 1.0 if positive else -1.0
        wrong = (result > 0) != positive
        piece = piece_at(wrong & (sign * result >= sign * result[y, x]), x, y, rules)
        piece |= _dot(wrong, x, y, rules)
        contrary = [(row, column) for row, column, other in places if other != positive]
        rows, columns = np.nonzero(piece)
        if contrary:
            own = (rows - y) ** 2 + (columns - x) ** 2
            others = np.min([(rows - row) ** 2 + (columns - column) ** 2 for row, column in contrary], axis=0)
            nearer = own < others
            rows, columns = rows[nearer], columns[nearer]
        for place in ((rows, columns), (y, x)):
            result[place] = sign * np.maximum(np.abs(result[place]), LEAST_CERTAIN)
    return result


def without_crumbs(logits: np.ndarray, clicks: Sequence[Click], cell: float, rules: ClickRules) -> np.ndarray:
    """Return logits without small pieces, and without small holes, that nobody clicked; the largest piece always stays, and holes at the image's edge.

    Args:
        logits: (H, W) float32, the decoder's answer.
        clicks: All of them, original frame.
        cell: Side of a cell of the decoder's map in pixels of the image.
        rules: What is small.

    Returns:
        (H, W) float32; the array itself where nothing is small.
    """
    mask = logits > 0
    x0, y0, x1, y1 = mask_to_box(mask)
    if not rules.crumb or x0 == x1:
        return logits
    least = max(rules.crumb * np.count_nonzero(mask), rules.cells * cell**2)
    inside = mask[y0:y1, x0:x1]
    small = _small(inside, [_place(click, mask.shape) for click in clicks if click.positive], (y0, x0), least, _ALL_NEIGHBOURS)
    holes = _small(~inside, [_place(click, mask.shape) for click in clicks if not click.positive], (y0, x0), least, _FOUR_NEIGHBOURS)
    changed = small | holes
    if not changed.any():
        return logits
    result = logits.copy()
    part = result[y0:y1, x0:x1]
    part[changed] = np.where(inside, -1, 1)[changed] * np.maximum(np.abs(part[changed]), LEAST_CERTAIN)
    return result


def piece_at(region: np.ndarray, x: int, y: int, rules: ClickRules) -> np.ndarray:
    """Return the piece of a region that a click means, (H, W) bool, empty where the click lies outside the region.

    Args:
        region: (H, W) bool.
        x: Column of the click.
        y: Row of the click.
        rules: How far a piece reaches.
    """
    piece = np.zeros(region.shape, bool)
    if not region[y, x]:
        return piece
    joined = region.astype(np.uint8)
    _, _, _, (left, top, columns, rows) = cv2.floodFill(joined, None, (x, y), 2, flags=_ALL_NEIGHBOURS)
    part = joined[top : top + rows, left : left + columns] == 2
    piece[top : top + rows, left : left + columns] = _meant(part, x - left, y - top, rules)
    return piece


def _meant(part: np.ndarray, x: int, y: int, rules: ClickRules) -> np.ndarray:
    """Return what a click means of a connected region (h, w) that holds it."""
    depths = _depths(part)
    depth = float(depths[y, x])
    body = _opened(depths, rules.width * depth)
    if body[y, x]:
        return part & _disc(part.shape, x, y, depth)
    part = _joined(part & ~body & _disc(part.shape, x, y, rules.reach * depth), x, y)
    depths = _depths(part)
    neck = rules.neck * float(depths[y, x])
    if neck < 1:
        return part
    core = _joined(depths > neck, x, y)
    return _joined(part & (_distance_to(core) <= neck + 1), x, y)


def _opened(depths: np.ndarray, radius: float) -> np.ndarray:
    """Return what discs of a radius cover that lie wholly within a region, (h, w) bool: its opening.

    Args:
        depths: (h, w) of the region.
        radius: In pixels.
    """
    centres = depths > radius
    return _distance_to(centres) < radius if centres.any() else centres


def _small(region: np.ndarray, clicked: Sequence[tuple[int, int]], origin: tuple[int, int], least: float, neighbours: int) -> np.ndarray:
    """Return the pieces of a region (h, w) that are smaller than `least` pixels and hold no click; for holes (four neighbours) those at the border stay."""
    labels, stats = components(region, neighbours)
    areas = stats[:, cv2.CC_STAT_AREA]
    small = areas < least
    small[0] = False
    if neighbours == _FOUR_NEIGHBOURS:
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            small[edge] = False
    elif len(areas) > 1:
        small[1 + int(areas[1:].argmax())] = False
    height, width = region.shape
    for row, column in clicked:
        row, column = row - origin[0], column - origin[1]
        if 0 <= row < height and 0 <= column < width:
            small[labels[row, column]] = False
    return small[labels] if small.any() else np.zeros(region.shape, bool)


def _dot(wrong: np.ndarray, x: int, y: int, rules: ClickRules) -> np.ndarray:
    """Return the wrong pixels near a click that are joined to it."""
    radius = int(np.ceil(max(2.0, rules.dot * max(wrong.shape))))
    left, top = max(0, x - radius), max(0, y - radius)
    window = np.s_[top : y + radius + 1, left : x + radius + 1]
    near = wrong[window]
    dot = np.zeros(wrong.shape, bool)
    dot[window] = _joined(near & _disc(near.shape, x - left, y - top, radius), x - left, y - top)
    return dot


def _place(click: Click, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return row and column of the pixel that a click lies on."""
    row, column = int(np.floor(click.y + 0.5)), int(np.floor(click.x + 0.5))
    return min(max(row, 0), shape[0] - 1), min(max(column, 0), shape[1] - 1)


def _disc(shape: tuple[int, ...], x: int, y: int, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def _joined(region: np.ndarray, x: int, y: int) -> np.ndarray:
    """Return the connected component of a region (h, w) bool at a place; empty where it lies outside."""
    if not region[y, x]:
        return np.zeros(region.shape, bool)
    filled = region.astype(np.uint8)
    cv2.floodFill(filled, None, (x, y), 2, flags=_ALL_NEIGHBOURS)
    return filled == 2


def _depths(region: np.ndarray) -> np.ndarray:
    """Return how far each pixel lies from the nearest one outside the region, what lies beyond the array included."""
    return cv2.distanceTransform(np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def _distance_to(region: np.ndarray) -> np.ndarray:
    """Return how far each pixel lies from the nearest one inside the region."""
    return cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
