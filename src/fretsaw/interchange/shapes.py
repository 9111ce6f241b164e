"""From the shapes that annotation tools draw to masks: boxes, rotated boxes, ellipses, circles, polygons with holes, lines with a width.

One convention for all. Coordinates are those of edges: pixel (x, y) covers x .. x + 1 and y .. y + 1, and its centre is (x + 0.5, y + 0.5). A mask holds the
pixels whose centres lie inside the shape; a centre on a left or upper edge counts as inside, on a right or lower edge as outside. So a box from 5 to 15 covers
exactly the ten columns 5 .. 14, as COCO's boxes do, and shapes that share an edge never overlap. Parts outside the picture are cut off. Polygons
of COCO alone are drawn by COCO's own rule (`fretsaw.masks.checked_coco`), which differs along slanted edges by a pixel at most.

Every function takes what stands in a stranger's file, and says what was expected where it cannot be drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import cos, isfinite, radians, sin

import numpy as np
from numpy.typing import ArrayLike

from fretsaw import masks
from fretsaw.errors import DataError, ShapeError, shown
from fretsaw.types import Box

FARTHEST = 2.0**31
"""No coordinate may lie farther from the corner of the picture."""
MOST_SEGMENTS = 2**14
"""Of one line with a width; each is looked at by itself."""

Size = tuple[int, int]


def number(value: object, what: str) -> float:
    """Return a finite number, however it was written: 5, 5.0, "5", " 5.0 ".

    Args:
        value: As it was read.
        what: For the message, for example "xtl".

    Raises:
        DataError: If it is something else, or `FARTHEST` from 0.
    """
    found = value
    if isinstance(value, str) and len(value) <= 40:
        try:
            found = float(value)
        except ValueError:
            found = None
    if isinstance(found, bool) or not isinstance(found, int | float) or not -FARTHEST < found < FARTHEST:
        raise DataError(f"expected a number below 2 ** 31 as {what}, got {shown(value, 40)}")
    return float(found)


def numbers(values: object, what: str, count: int | None = None) -> list[float]:
    """Return a list of finite numbers, of a given length if one is given.

    Raises:
        DataError: If it is something else.
    """
    if not isinstance(values, list | tuple) or (count is not None and len(values) != count):
        raise DataError(f"expected {'a list of' if count is None else count} numbers as {what}, got {shown(values)}")
    return [number(value, what) for value in values]


def vertices(points: object, what: str = "points") -> np.ndarray:
    """Return vertices (N, 2) float x, y, given as [[x, y], ...], [{"x": x, "y": y}, ...] or flat [x, y, x, y, ...].

    Further coordinates (z in GeoJSON) are dropped.

    Raises:
        DataError: If they are something else, or none.
    """
    if isinstance(points, np.ndarray):
        points = points.tolist()
    if not isinstance(points, list | tuple) or not points:
        raise DataError(f"expected vertices [x, y] as {what}, got {shown(points)}")
    if not isinstance(points[0], list | tuple | dict):
        flat = numbers(points, what)
        if len(flat) % 2:
            raise DataError(f"expected pairs of numbers x, y as {what}, got {len(flat)} numbers")
        return np.array(flat).reshape(-1, 2)
    found = []
    for point in points:
        pair = [point.get("x"), point.get("y")] if isinstance(point, dict) else point
        if not isinstance(pair, list | tuple) or not 2 <= len(pair) <= 3:
            raise DataError(f"expected vertices [x, y] as {what}, got {shown(point)}")
        found.append([number(pair[0], what), number(pair[1], what)])
    return np.array(found)


def from_percent(points: np.ndarray, size: Size) -> np.ndarray:
    """Return vertices in pixels, given in percent of the picture's width and height."""
    return points * np.array([size[1] / 100, size[0] / 100])


def from_share(points: np.ndarray, size: Size) -> np.ndarray:
    """Return vertices in pixels, given as shares 0 .. 1 of the picture's width and height."""
    return points * np.array([size[1], size[0]], float)


def box(x0: float, y0: float, x1: float, y1: float, size: Size) -> Box:
    """Return the part of a box that lies on the picture. The two corners may come in any order.

    Raises:
        DataError: If no part of it lies on the picture.
    """
    left, right = sorted((min(max(x0, 0.0), float(size[1])), min(max(x1, 0.0), float(size[1]))))
    top, bottom = sorted((min(max(y0, 0.0), float(size[0])), min(max(y1, 0.0), float(size[0]))))
    if not (left < right and top < bottom):
        raise DataError(f"expected a box on the picture of {size[1]} x {size[0]} pixels, got {x0:g}, {y0:g} to {x1:g}, {y1:g}")
    return Box(left, top, right, bottom)


def box_around(points: np.ndarray, size: Size) -> Box:
    """Return the part on the picture of the box around vertices (N, 2).

    Raises:
        DataError: If no part of it lies on the picture.
    """
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return box(x0, y0, x1, y1, size)


def box_corners(found: Box) -> np.ndarray:
    """Return the four corners of a box, (4, 2), clockwise from the upper left one."""
    return np.array([[found.x0, found.y0], [found.x1, found.y0], [found.x1, found.y1], [found.x0, found.y1]])


def rotated(points: np.ndarray, pivot: Sequence[float], degrees: float) -> np.ndarray:
    """Return points (N, 2) turned about a pivot x, y: clockwise as seen on the picture, whose y points down."""
    turn = radians(degrees)
    matrix = np.array([[cos(turn), sin(turn)], [-sin(turn), cos(turn)]])
    center = np.asarray(pivot, float)
    return (points - center) @ matrix + center


def is_upright_box(points: np.ndarray) -> bool:
    """Return whether four vertices are the corners of a box with sides along rows and columns, in any order."""
    corners = {(x, y) for x in points[:, 0].tolist() for y in points[:, 1].tolist()}
    return len(points) == 4 == len(corners) and {(x, y) for x, y in points.tolist()} == corners


def box_mask(found: Box, size: Size) -> np.ndarray:
    """Return the mask (H, W) bool of a box."""
    mask = np.zeros(size, bool)
    # ceil(edge - 0.5) is the first pixel whose centre lies on the edge or behind it.
    x0, x1, y0, y1 = (int(np.ceil(edge - 0.5)) for edge in (found.x0, found.x1, found.y0, found.y1))
    mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return mask


def polygon(outline: ArrayLike, size: Size, holes: Iterable[ArrayLike] = ()) -> np.ndarray:
    """Return the mask of a polygon without its holes.

    Where an outline crosses itself, what it goes round an even number of times is outside.

    Args:
        outline: (N, 2) x, y, N >= 3; the last vertex need not repeat the first.
        size: (H, W).
        holes: More such rings, each of which is taken away.

    Raises:
        DataError: If a ring has fewer than three vertices.
        ShapeError: If the rings are too long, see `fretsaw.masks.from_polygons`.
    """
    mask = masks.from_polygons([_ring(outline)], size)
    cut = [_ring(hole) for hole in holes]
    return mask & ~masks.unite_polygons(cut, size) if cut else mask


def ellipse(x: float, y: float, radius_x: float, radius_y: float, size: Size, degrees: float = 0.0) -> np.ndarray:
    """Return the mask of an ellipse; a circle is one with two equal radii.

    Args:
        x: Of the centre.
        y: Of the centre.
        radius_x: Along the row, before it is turned.
        radius_y: Along the column.
        size: (H, W).
        degrees: How far it is turned about its centre, clockwise as seen on the picture.

    Raises:
        DataError: If a radius is not above 0, or a number not finite.
    """
    if not all(map(isfinite, (x, y, degrees))) or not (0 < radius_x < FARTHEST and 0 < radius_y < FARTHEST):
        raise DataError(f"expected an ellipse with two radii above 0, got {radius_x:g} and {radius_y:g} at {x:g}, {y:g}")
    mask = np.zeros(size, bool)
    turn = radians(degrees)
    reach_x = float(np.hypot(radius_x * cos(turn), radius_y * sin(turn)))
    reach_y = float(np.hypot(radius_x * sin(turn), radius_y * cos(turn)))
    rows, columns = _span(y - reach_y, y + reach_y, size[0]), _span(x - reach_x, x + reach_x, size[1])
    # In portions: the coordinates of a large picture's pixels are 16 times its size.
    for top in range(rows.start, rows.stop, 256):
        part = slice(top, min(top + 256, rows.stop))
        dy = np.arange(part.start, part.stop)[:, None] + 0.5 - y
        dx = np.arange(columns.start, columns.stop)[None] + 0.5 - x
        along, across = dx * cos(turn) + dy * sin(turn), dy * cos(turn) - dx * sin(turn)
        mask[part, columns] = (along / radius_x) ** 2 + (across / radius_y) ** 2 < 1
    return mask


def line(points: ArrayLike, width: float, size: Size) -> np.ndarray:
    """Return the mask of a line through points, with round ends and corners: the pixels whose centres lie nearer to it than half its width.

    Args:
        points: (N, 2) x, y, N >= 1.
        width: In pixels, above 0.
        size: (H, W).

    Raises:
        DataError: If the width is not above 0, or there are no points or more than `MOST_SEGMENTS`.
    """
    path = np.asarray(points, float).reshape(-1, 2)
    if not 0 < width < FARTHEST or not 1 <= len(path) <= MOST_SEGMENTS:
        raise DataError(f"expected a line of 1 to {MOST_SEGMENTS} points with a width above 0, got {len(path)} points and {width:g}")
    mask, reach = np.zeros(size, bool), width / 2
    for start, end in zip(path, path[1:] if len(path) > 1 else path, strict=False):
        low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
        rows, columns = _span(low[1], high[1], size[0]), _span(low[0], high[0], size[1])
        way = end - start
        length = float(way @ way)
        for top in range(rows.start, rows.stop, 256):
            part = slice(top, min(top + 256, rows.stop))
            dy = np.arange(part.start, part.stop)[:, None] + 0.5 - start[1]
            dx = np.arange(columns.start, columns.stop)[None] + 0.5 - start[0]
            along = np.clip((dx * way[0] + dy * way[1]) / length, 0, 1) if length else 0.0
            mask[part, columns] |= (dx - along * way[0]) ** 2 + (dy - along * way[1]) ** 2 < reach**2
    return mask


def _span(low: float, high: float, side: int) -> slice:
    """Return the pixels of a row or column from one edge coordinate to another, a pixel more at either end."""
    start, stop = (int(np.clip(edge, 0, side)) for edge in (np.floor(low) - 1, np.ceil(high) + 1))
    return slice(start, max(start, stop))


def _ring(points: ArrayLike) -> np.ndarray:
    ring = np.asarray(points, float)
    if ring.ndim != 2 or ring.shape[1] != 2:
        raise ShapeError(f"expected vertices (N, 2), got {shown(points)}")
    if len(ring) < 3:
        raise DataError(f"expected at least three vertices, got {len(ring)}")
    return ring
