"""Masks as arrays: run lengths, outlines, boxes, components, non-maximum suppression and scores.

A mask is a numpy array (H, W) of bool, row 0 at the top; it need not be contiguous. Boxes are half-open, x0, y0, x1, y1 in pixels: columns x0 .. x1 - 1
and rows y0 .. y1 - 1. Nothing here alters its arguments.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import cv2
import numpy as np
from numpy.typing import ArrayLike
from pycocotools import mask as coco_mask

from fretsaw.errors import ConfigError, ShapeError, shown
from fretsaw.outlines import count_crossings, fill_rings, most_crossings, trace_rings, unite_rings, window

MOST_PIXELS = 2**28
"""Most pixels of a mask whose size nobody but the run lengths themselves tells: more than the largest image that is read unless a caller says otherwise."""
MOST_SIZED_PIXELS = 2**31 - 1
"""Most pixels of any mask: OpenCV and COCO's tools count them in 32 bits."""
LONGEST_DRAWN, FARTHEST_DRAWN = 2**22, 2**26
"""Pixels along all the outlines of one annotation, and of any vertex from the corner, that COCO's tools draw: they need about 80 bytes for each pixel of an
outline, compute in 32 bits, and check none of it."""


def is_array(value: object, axes: int | None = None, kind: type[np.generic] = np.generic) -> TypeGuard[np.ndarray]:
    """Whether a value of any origin is a numpy array; with `axes`, one of so many axes, with at least one element, and of a kind of numbers."""
    if not isinstance(value, np.ndarray):
        return False
    found = cast("np.ndarray", value)
    return axes is None or (found.ndim == axes and found.size > 0 and np.issubdtype(found.dtype, kind))


def require_mask(mask: object, name: str = "mask") -> np.ndarray:
    """Return `mask` unchanged if it is a numpy array (H, W) of bool with at least one pixel.

    Raises:
        ShapeError: If it is anything else; the message says what came.
    """
    if is_array(mask, 2, np.bool_):
        return mask
    other = is_array(mask) and mask.dtype != np.bool_
    hint = "; compare it with a threshold first, for example logits > 0" if other else ""
    raise ShapeError(f"{name}: expected a numpy array (H, W) of bool with at least one pixel, got {describe(mask)}{hint}")


def describe(value: object) -> str:
    """Return an array's kind, shape and dtype in words, for error messages; the type's name for everything else."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return type(value).__name__
    return f"{type(value).__name__} {tuple(shape)} of {dtype}"


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """Return COCO's compressed run lengths.

    Args:
        mask: (H, W) bool.

    Returns:
        `{"size": [H, W], "counts": str}`, runs in column-major order, ready for JSON.

    Raises:
        ShapeError: If `mask` is not such an array.

    Source: COCO's mask API (pycocotools), which does the encoding.
    """
    rows = require_mask(mask)[:: max(1, mask.shape[0] // 64)]
    if np.count_nonzero(rows[:, 1:] != rows[:, :-1]) * 16 < rows.size:
        # A mask with few outlines: finding them along rows is ten times as fast as turning a large mask, which encoding it does.
        encoded = cast("dict[str, bytes]", coco_mask.frPyObjects(uncompressed_rle(mask), *mask.shape))  # type: ignore[arg-type]
    else:
        encoded = cast("dict[str, bytes]", coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    """Return COCO's uncompressed run lengths.

    Args:
        mask: (H, W) bool.

    Returns:
        `{"size": [H, W], "counts": list[int]}`: lengths of runs in column-major order, background first; the first is 0 where the first pixel is set.

    Raises:
        ShapeError: If `mask` is not such an array.
    """
    height, width = require_mask(mask).shape
    # Changes are looked for along rows, as they lie in memory, and put into column-major order afterwards: they are few, and turning the mask is slow.
    rows, columns = np.divmod(np.flatnonzero(mask[1:] != mask[:-1]), width)
    wraps = np.flatnonzero(mask[0, 1:] != mask[-1, :-1]) + 1
    changes = np.sort(np.concatenate([columns * height + rows + 1, wraps * height]))
    counts = np.diff(changes, prepend=0, append=mask.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if mask[0, 0] else counts}


def decode_rle(rle: Mapping[str, Any], size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the mask that run lengths stand for.

    The runs may come from anywhere. Every one is checked before they are added up, and their sum before they are used: numpy writes beyond its memory where
    lengths are negative or wrap round, and pycocotools returns memory it never wrote where they cover too few pixels. Takes two bytes a pixel beside some 50
    for each run.

    Args:
        rle: `{"size": [H, W], "counts": ...}` with compressed counts (str or bytes) or a list of lengths.
        size: The (H, W) that is expected, where the caller knows the picture; another one is refused before anything is decoded. Without it, sizes above
            `MOST_PIXELS` are refused.

    Returns:
        (H, W) bool.

    Raises:
        ShapeError: If a key is missing, the size is another one or too large, the counts are malformed, or they do not cover exactly H x W pixels.
    """
    (height, width), counts = _checked_runs(rle, size)
    pixels = np.repeat(np.arange(counts.size) % 2 == 1, counts)
    return cv2.transpose(pixels.view(np.uint8).reshape(width, height)).view(np.bool_)


def _checked_runs(rle: object, size: tuple[int, int] | None) -> tuple[tuple[int, int], np.ndarray]:
    """Return the size and the run lengths, int64, all of 0 or more, which cover exactly its pixels; `ShapeError` otherwise."""
    if not _is_mapping(rle) or not {"size", "counts"} <= rle.keys():
        raise ShapeError(f"run lengths: expected a mapping with the keys 'size' and 'counts', got {shown(rle)}")
    height, width = _size(rle["size"])
    if size is not None and (height, width) != tuple(size):
        raise ShapeError(f"run lengths: expected the size {tuple(size)} (height, width), got {(height, width)}")
    if size is None and height * width > MOST_PIXELS:
        raise ShapeError(f"run lengths: expected at most {MOST_PIXELS} pixels, got {height} x {width}; pass the picture's size to decode larger ones")
    counts = _counts(rle["counts"], height * width)
    if (total := int(counts.sum())) != height * width:
        raise ShapeError(f"run lengths: expected lengths that cover {height} x {width} = {height * width} pixels, got a sum of {total}")
    return (height, width), counts


@dataclass(frozen=True, slots=True, eq=False)
class MaskRuns:
    """A mask as lengths of runs, row after row. It takes little memory and becomes a mask again quickly; a history keeps masks in this form.

    Attributes:
        size: (H, W).
        lengths: (n,) int32, of runs in row-major order, background first; the first length is 0 if the first pixel is set.
    """

    size: tuple[int, int]
    lengths: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> MaskRuns:
        """Return the runs of a mask (H, W) bool; `ShapeError` if it is no such array."""
        pixels = require_mask(mask).ravel()
        changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        first = [0] if pixels[0] else []
        return cls((mask.shape[0], mask.shape[1]), np.concatenate([first, np.diff(changes, prepend=0, append=pixels.size)]).astype(np.int32))

    @property
    def nbytes(self) -> int:
        return self.lengths.nbytes

    def mask(self) -> np.ndarray:
        """Return the mask, (H, W) bool, a new array."""
        return np.repeat(np.arange(self.lengths.size) % 2 == 1, self.lengths).reshape(self.size)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | np.integer | float)


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _size(size: object) -> tuple[int, int]:
    sides: list[Any] = list(size) if (_is_list(size) or is_array(size)) and len(size) == 2 else []
    # A whole number may have been written as 40.0.
    whole = [int(side) for side in sides if _is_number(side) and -(2**31) < side < 2**31 and side == int(side)]
    height, width = whole if len(whole) == 2 else (0, 0)
    if height < 1 or width < 1 or height * width > MOST_SIZED_PIXELS:
        raise ShapeError(f"size: expected two sides [H, W] of at least 1 with fewer than 2 ** 31 pixels, got {shown(size)}")
    return height, width


def _counts(counts: object, pixels: int) -> np.ndarray:
    """Return the lengths of the runs as int64, whichever way they are written: each in 0 .. pixels, and so few that their sum cannot wrap round."""
    # Runs of length 0 are allowed anywhere, but not any number of them.
    most = 2 * pixels + 2
    if isinstance(counts, str | bytes):
        lengths = _decompress(counts.encode("ascii", "replace") if isinstance(counts, str) else counts, pixels, most)
    else:
        lengths = _whole_numbers(counts)
        if lengths.size > most:
            raise ShapeError(f"run lengths: expected at most {most} lengths for {pixels} pixels, got {lengths.size}")
    if lengths.min() < 0 or lengths.max() > pixels:
        raise ShapeError(f"run lengths: expected lengths of 0 to {pixels}, got {lengths.min()} to {lengths.max()}")
    return lengths.astype(np.int64)


def _whole_numbers(counts: object) -> np.ndarray:
    """Return a list of whole numbers as an array, without asking what numpy would make of it: it may hold anything, of any size."""
    if _is_list(counts) and counts:
        try:
            return np.frombuffer(array("q", counts), np.int64)
        except (TypeError, OverflowError):
            pass
    elif is_array(counts, 1, np.integer):
        return counts
    raise ShapeError(f"run lengths: expected a string, bytes or a list of whole numbers as counts, got {shown(counts)}")


def _decompress(text: bytes, pixels: int, most: int) -> np.ndarray:
    """Return the lengths behind COCO's text form, which are not checked yet.

    Each number is written in 5-bit digits, lowest first, one character (48 + digit) each; 32 marks that more digits follow, 16 in the last one the sign.
    From the fourth number on it is the difference to the number two places before.
    """
    digits = np.frombuffer(text, np.uint8) - np.uint8(48)
    last = np.flatnonzero((digits & 32) == 0)
    if digits.size == 0 or digits.max() > 63 or last.size == 0 or last[-1] != digits.size - 1:
        raise ShapeError(f"run lengths: expected COCO's compressed counts, got {shown(text)}")
    if last.size > most:
        raise ShapeError(f"run lengths: expected at most {most} lengths for {pixels} pixels, got {last.size}")
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 8:
        raise ShapeError("run lengths: expected lengths below 2 ** 44, got one with more than 9 digits")
    position = np.arange(digits.size) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((digits & 31).astype(np.int64) << (5 * position), first)
    numbers -= np.where(digits[last] & 16, 1 << (5 * (last - first + 1)), 0)
    # Two lengths never differ by more than there are pixels, so no sum of differences that passes here can wrap round.
    if numbers.min() < -pixels or numbers.max() > pixels:
        raise ShapeError(f"run lengths: expected lengths of 0 to {pixels}, got a difference of {numbers.min()} or {numbers.max()}")
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def to_polygons(mask: np.ndarray, tolerance: float = 0.0) -> list[np.ndarray]:
    """Return the outlines of a mask, holes included.

    Policy: an outline runs along the edges between pixels, so its vertices are pixel corners, in the frame of the half-open boxes: pixel (x, y) covers
    x .. x + 1 and y .. y + 1. Every closed outline is one ring; the mask is where a point lies inside an odd number of rings (even-odd rule). Seen with
    y down, outer rings run clockwise (positive shoelace area) and rings of holes anticlockwise (negative area). Pixels that touch at a corner only lie in
    separate rings, or in the same ring twice at that corner. Rings come in the row order of their topmost, then leftmost corner.

    `from_polygons(to_polygons(mask), mask.shape)` is exactly `mask` while `tolerance` is 0.

    Args:
        mask: (H, W) bool.
        tolerance: How far, in pixels, a simplified outline may lie from the exact one; 0 keeps every corner. Simplified rings with fewer than three
            vertices vanish, and thin parts may change.

    Returns:
        Rings, each (N, 2) int32 of x, y without a repeated last vertex; none for an empty mask.

    Raises:
        ShapeError: If `mask` is not a bool array (H, W).
        ConfigError: If `tolerance` is negative or not finite.

    Source: of the simplification: Douglas and Peucker 1973, through OpenCV.
    """
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"tolerance: expected a number of pixels >= 0, got {tolerance}")
    rings = trace_rings(require_mask(mask))
    if tolerance == 0:
        return rings
    simplified = (cv2.approxPolyDP(ring[:, None], tolerance, closed=True)[:, 0] for ring in rings)
    return [ring for ring in simplified if len(ring) >= 3]


def from_polygons(polygons: Sequence[ArrayLike], size: tuple[int, int]) -> np.ndarray:
    """Return the mask of the pixels whose centres lie inside an odd number of rings.

    The centre of pixel (x, y) is (x + 0.5, y + 0.5) in the frame of the outlines (see `to_polygons`); a centre on a left or upper edge counts as inside, on a
    right or lower edge as outside, so polygons that share an edge never overlap. Parts outside the image are cut off. The even-odd rule is not COCO's
    union: rings that overlap cancel each other.

    Args:
        polygons: Rings, each (N, 2) of x, y or flat as COCO writes them [x, y, x, y, ...]; fractions are allowed; the last vertex need not repeat the first.
        size: (H, W) of the mask.

    Returns:
        (H, W) bool.

    Raises:
        ShapeError: If a ring is not such an array of numbers below 2 ** 31 in size, `size` is not two sides of at least 1, or the outlines cross more rows
            than `fretsaw.outlines.most_crossings` allows, which no outline of a mask does.
    """
    height, width = _size(size)
    rings = [_ring(ring) for ring in polygons]
    if (crossings := count_crossings(rings, height)) > (most := most_crossings(height, width)):
        raise ShapeError(f"polygon: expected outlines that cross at most {most} rows of {height} x {width} pixels, got {crossings} crossings")
    return fill_rings(rings, height, width)


def unite_polygons(polygons: Sequence[ArrayLike], size: tuple[int, int]) -> np.ndarray:
    """Return the mask of the pixels whose centres lie inside any of the rings, which is how COCO means the polygons of one object.

    Args:
        polygons: As in `from_polygons`, each with at least one vertex.
        size: (H, W) of the mask.

    Returns:
        (H, W) bool.

    Raises:
        ShapeError: As `from_polygons`; also if the boxes around the rings cover the picture more than 16 times.
    """
    height, width = _size(size)
    rings = [_ring(ring) for ring in polygons]
    if (crossings := count_crossings(rings, height)) > (most := most_crossings(height, width)):
        raise ShapeError(f"polygon: expected outlines that cross at most {most} rows of {height} x {width} pixels, got {crossings} crossings")
    if (covered := sum(window(ring, height, width) for ring in rings if len(ring))) > max(2**24, 16 * height * width):
        raise ShapeError(f"polygon: expected outlines that lie on each other at most 16 times, got boxes of {covered} pixels on {height} x {width}")
    return unite_rings(rings, height, width)


def _ring(ring: ArrayLike) -> np.ndarray:
    points: np.ndarray
    try:
        points = np.asarray(ring, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError, MemoryError):
        points = np.empty(1)
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) < 2**31).all():
        raise ShapeError(f"polygon: expected vertices (N, 2) below 2 ** 31 or flat [x, y, x, y, ...], got {shown(ring)}")
    return points


def checked_coco(segmentation: object, size: tuple[int, int]) -> dict[str, Any]:
    """Return a COCO annotation's mask, run lengths or polygons, as compressed run lengths that pycocotools can be trusted with.

    Polygons are drawn by pycocotools, so that figures agree with everybody's; what it would take too much memory for, or read beyond its end, is refused
    before. `from_polygons` draws them by a rule of its own.

    Args:
        segmentation: Run lengths (a mapping with `size` and `counts`), or a list of flat polygons [x, y, x, y, ...] of at least three vertices.
        size: (H, W) of the picture.

    Returns:
        `{"size": [H, W], "counts": bytes}`.

    Raises:
        ShapeError: If it is neither of them, has another size, or has outlines that are too long or too far away.
    """
    height, width = _size(size)
    if _is_mapping(segmentation):
        _, counts = _checked_runs(segmentation, (height, width))
        return cast("dict[str, Any]", coco_mask.frPyObjects({"size": [height, width], "counts": counts.astype(np.uint32)}, height, width))  # type: ignore[arg-type]
    if not _is_list(segmentation) or not segmentation:
        raise ShapeError(f"segmentation: expected run lengths or a list of polygons, got {shown(segmentation)}")
    rings = [_ring(ring) for ring in segmentation]
    if min(len(ring) for ring in rings) < 3:
        raise ShapeError(f"segmentation: expected polygons of at least three vertices, got {shown(segmentation)}")
    drawn = sum(float(np.abs(ring - np.roll(ring, 1, axis=0)).max(axis=1).sum()) for ring in rings)
    far = max(float(np.abs(ring).max()) for ring in rings)
    if drawn > LONGEST_DRAWN or far > FARTHEST_DRAWN:
        raise ShapeError(
            f"segmentation: expected outlines of at most {LONGEST_DRAWN} pixels together, at most {FARTHEST_DRAWN} away, got {drawn:.3g} pixels, {far:.3g} away"
        )
    drawn_apart = coco_mask.frPyObjects([ring.ravel().tolist() for ring in rings], height, width)
    return cast("dict[str, Any]", coco_mask.merge(drawn_apart))  # type: ignore[arg-type]


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the smallest half-open box x0, y0, x1, y1 around a mask (H, W) bool; (0, 0, 0, 0) where it is empty.

    Raises:
        ShapeError: If `mask` is not a bool array (H, W).
    """
    require_mask(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def components(mask: np.ndarray, connectivity: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return the connected components of a mask.

    Args:
        mask: (H, W) bool.
        connectivity: 8, pixels that touch at a corner belong together, or 4.

    Returns:
        labels: (H, W) int32, 0 background, components 1 .. n in the row order of their first pixel (OpenCV's own order differs between its algorithms).
        stats: (n + 1, 5) int32 in OpenCV's layout: x, y, width, height, area; row i belongs to label i, row 0 to the background.

    Raises:
        ShapeError: If `mask` is not a bool array (H, W).
        ConfigError: If `connectivity` is neither 4 nor 8.
    """
    if connectivity not in (4, 8):
        raise ConfigError(f"connectivity: expected 4 or 8, got {connectivity!r}")
    pixels = np.ascontiguousarray(require_mask(mask)).view(np.uint8)
    labels: np.ndarray
    stats: np.ndarray
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=connectivity, ltype=cv2.CV_32S)
    first = [(0, 0)]
    for label in range(1, count):
        x, y, width = stats[label, :3].tolist()
        first.append((y, x + int((labels[y, x : x + width] == label).argmax())))
    order = [0, *sorted(range(1, count), key=first.__getitem__)]
    if order == list(range(count)):
        return labels, stats
    renumber = np.empty(count, np.int32)
    renumber[order] = np.arange(count, dtype=np.int32)
    return renumber[labels], stats[order]


def largest_component(mask: np.ndarray, connectivity: int = 8) -> np.ndarray:
    """Return (H, W) bool of the component with the most pixels, the first in row order among equals; empty where `mask` is.

    Raises:
        ShapeError: If `mask` is not a bool array (H, W).
        ConfigError: If `connectivity` is neither 4 nor 8.
    """
    labels, stats = components(mask, connectivity)
    if len(stats) == 1:
        return np.zeros(mask.shape, bool)
    return labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()


def fill_holes(mask: np.ndarray, area: float) -> np.ndarray:
    """Return the mask with every 8-connected piece of background below `area` pixels filled, also at the image's border.

    Args:
        mask: (H, W) bool.
        area: Pieces of fewer pixels are filled.

    Returns:
        (H, W) bool, a new array.

    Raises:
        ShapeError: If `mask` is not a bool array (H, W).

    Source: Segment Anything (Kirillov et al. 2023), appendix B, removal of small holes from automatic masks.
    """
    labels, stats = components(~require_mask(mask))
    filled = stats[:, cv2.CC_STAT_AREA] < area
    filled[0] = True
    return filled[labels]


def remove_islands(mask: np.ndarray, area: float) -> np.ndarray:
    """Return the mask without its 8-connected components below `area` pixels; where all are smaller, the largest one stays.

    Args:
        mask: (H, W) bool.
        area: Components of fewer pixels are removed.

    Returns:
        (H, W) bool, a new array.

    Raises:
        ShapeError: If `mask` is not a bool array (H, W).

    Source: Segment Anything (Kirillov et al. 2023), appendix B, removal of small components from automatic masks.
    """
    labels, stats = components(mask)
    kept = stats[:, cv2.CC_STAT_AREA] >= area
    kept[0] = False
    if len(stats) > 1 and not kept.any():
        kept[1 + stats[1:, cv2.CC_STAT_AREA].argmax()] = True
    return kept[labels]


def nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Return which boxes survive greedy non-maximum suppression.

    Boxes are visited by descending score, equal scores in the order they came (a stable sort); one is dropped if its intersection over union with a
    box kept before it exceeds the threshold.

    Args:
        boxes: (n, 4) x0, y0, x1, y1; n may be 0.
        scores: (n,); NaN comes last.
        iou_threshold: In [0, 1].

    Returns:
        (k,) int64 indices of the kept boxes, in descending order of score.

    Raises:
        ShapeError: If the arrays have other shapes.
        ConfigError: If the threshold is outside [0, 1].
    """
    boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ShapeError(f"nms: expected boxes (n, 4) and scores (n,), got {boxes.shape} and {scores.shape}")
    if not 0 <= iou_threshold <= 1:
        raise ConfigError(f"iou_threshold: expected a number in [0, 1], got {iou_threshold}")
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    kept: list[np.intp] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        sides = (np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])).clip(min=0)
        intersection = sides.prod(axis=1)
        # A quotient is rounded once, so an overlap of exactly the threshold stays; boxes without area have no intersection and suppress nothing.
        union = area[best] + area[rest] - intersection
        order = rest[intersection / np.where(union > 0, union, 1) <= iou_threshold]
    return np.array(kept, np.int64)


def stability_score(mask_logits: np.ndarray, threshold: float = 0.0, offset: float = 1.0) -> np.ndarray:
    """Return how little masks change when their threshold moves: the IoU between the masks at `threshold + offset` and at `threshold - offset`.

    Args:
        mask_logits: (..., H, W) floats. `fretsaw.layers.stability` does the same for tensors on a device.
        threshold: The logit that separates object and background.
        offset: How far the threshold is moved each way, >= 0.

    Returns:
        (...) float64 in [0, 1]; 0 where even the larger mask is empty (the reference gives NaN there, which no filter keeps either).

    Raises:
        ShapeError: If it is not a numpy array of floats with at least two axes.
        ConfigError: If `offset` is negative.

    Source: Segment Anything (Kirillov et al. 2023), appendix B, stable masks.
    """
    if not is_array(mask_logits) or mask_logits.dtype.kind != "f" or mask_logits.ndim < 2:
        raise ShapeError(f"mask_logits: expected floats (..., H, W), got {describe(mask_logits)}")
    if not offset >= 0:
        raise ConfigError(f"offset: expected a number >= 0, got {offset}")
    # The smaller mask lies inside the larger one, so the areas alone give the IoU.
    smaller, larger = _areas(mask_logits > threshold + offset), _areas(mask_logits > threshold - offset)
    return smaller / larger.clip(min=1)


def _areas(mask: np.ndarray) -> np.ndarray:
    """Return how many pixels of each mask (..., H, W) are set; numpy counts one flat array many times faster than it sums along axes."""
    flat = mask.reshape(-1, mask.shape[-2] * mask.shape[-1])
    return np.array([np.count_nonzero(pixels) for pixels in flat], np.int64).reshape(mask.shape[:-2])


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two masks (H, W) bool, in [0, 1]; 1 where both are empty, since they are equal.

    Raises:
        ShapeError: If one is not a bool array (H, W) or their sizes differ.
    """
    if require_mask(a, "a").shape != require_mask(b, "b").shape:
        raise ShapeError(f"mask_iou: expected masks of one size, got {a.shape} and {b.shape}")
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0
