"""The exact outline of a mask along the edges between pixels, and the way back.

Coordinates are pixel corners: pixel (x, y) covers x .. x + 1 and y .. y + 1. `fretsaw.masks.to_polygons` and `from_polygons` state the policy for holes and
check what comes in; the functions here trust their arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np


def trace_rings(mask: np.ndarray) -> list[np.ndarray]:
    """Return the rings (N, 2) int32 x, y of a mask (H, W) bool: outer ones clockwise seen with y down, holes anticlockwise.

    Every turn of an outline is a token. Where four pixels meet like on a chessboard there are two turns, hence two tokens: one for the arm that points
    left, one for the arm that points right. Along each row of corners the tokens pair up into horizontal edges, along each column into vertical ones; a
    ring alternates between the two.
    """
    padded = np.pad(mask, 1)
    north_west, north_east, south_west, south_east = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    chessboard = (north_west == south_east) & (north_east == south_west) & (north_west != north_east)
    y, x = np.nonzero((north_west ^ north_east ^ south_west ^ south_east) | chessboard)
    token_corner = np.repeat(np.arange(x.size), 1 + chessboard[y, x])
    x, y = x[token_corner], y[token_corner]
    points_right = np.zeros(x.size, bool)
    points_right[1:] = token_corner[1:] == token_corner[:-1]
    # The left arm belongs to the pixel it bounds, and so goes up where the north-west pixel is set and down where the south-west one is.
    points_down = points_right ^ (chessboard[y, x] & south_west[y, x])
    along_row = _pair(np.arange(x.size))
    along_column = _pair(np.lexsort((points_down, y, x)))
    corners = np.stack([x, y], axis=1).astype(np.int32)
    return [corners[cycle] for cycle in _cycles(along_row.tolist(), along_column.tolist(), south_east[y, x].tolist())]


def _pair(order: np.ndarray) -> np.ndarray:
    """Return each token's partner, where the first and second of `order` are partners, the third and fourth, and so on."""
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _cycles(along_row: list[int], along_column: list[int], outer: list[bool]) -> list[list[int]]:
    """Return the tokens of each ring. A ring's first token is its topmost, then leftmost: set below right of it means outer, and the walk goes right first."""
    seen = bytearray(len(outer))
    cycles: list[list[int]] = []
    for start in range(len(outer)):
        if seen[start]:
            continue
        even, odd = (along_row, along_column) if outer[start] else (along_column, along_row)
        cycle: list[int] = []
        token = start
        while not seen[token]:
            middle = even[token]
            seen[token] = seen[middle] = 1
            cycle += (token, middle)
            token = odd[middle]
        cycles.append(cycle)
    return cycles


BAND = 2**19
"""Pixels, and crossings, that are looked at in one go while rings are filled."""


def most_crossings(height: int, width: int) -> int:
    """Return how many crossings of edges and rows are worth filling: an outline of a mask crosses each row at most once a pixel."""
    return max(2**22, 4 * height * (width + 1))


def count_crossings(rings: Iterable[np.ndarray], height: int) -> int:
    """Return how often the edges of rings cross the rows of pixels of a picture: the work of `fill_rings`."""
    return sum(int(_rows(ring[:, 1], np.roll(ring[:, 1], -1), height)[1].sum()) for ring in rings)


def _rows(y0: np.ndarray, y1: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row that each edge crosses, and how many.

    An edge is crossed by the rows whose centre lies in [top, bottom): half-open, so that a shared vertex counts once.
    """
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    return first, np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64) - first


def fill_rings(rings: Iterable[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return (height, width) bool: the pixels whose centres lie inside an odd number of rings (N, 2) float x, y."""
    mask = np.zeros((height, width), bool)
    for place, part in _filled(rings, height, width):
        mask[place] = part
    return mask


def unite_rings(rings: Iterable[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return (height, width) bool: the pixels whose centres lie inside any of the rings, each for itself filled as `fill_rings` does."""
    mask = np.zeros((height, width), bool)
    for ring in rings:
        for place, part in _filled([ring], height, width):
            mask[place] |= part
    return mask


def window(ring: np.ndarray, height: int, width: int) -> int:
    """Return the pixels of a picture that lie in the box around a ring: what filling it costs beside its crossings."""
    low, high = (np.clip(limit, 0, (width, height)) for limit in (ring.min(axis=0), ring.max(axis=0)))
    sides = cast("np.ndarray", np.ceil(high) - np.floor(low))
    return int(sides.prod())


def _filled(rings: Iterable[np.ndarray], height: int, width: int) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield parts of a picture, (rows, columns), and which of their pixels lie inside an odd number of rings; elsewhere none does.

    Every crossing of an edge with the line through a row's pixel centres flips all pixels to its right; a running exclusive or then gives the mask. Rows are
    filled in bands, and nothing beside the box around the rings, so that it takes some 40 MiB.
    """
    rings = [ring for ring in rings if len(ring)]
    if not rings:
        return
    x0, y0 = np.concatenate(rings).T
    stop = np.cumsum([len(ring) for ring in rings])
    following = np.arange(1, int(x0.size) + 1)
    following[stop - 1] = np.concatenate([[0], stop[:-1]])
    x1, y1 = x0[following], y0[following]
    first, count = _rows(y0, y1, height)
    crossed = np.flatnonzero(count)
    if not crossed.size:
        return
    # A pixel further for the rounding of crossings; to the right of the last crossing nothing is inside.
    left, right = (int(np.clip(limit, 0, width)) for limit in (np.floor(x0.min()) - 1, np.ceil(x0.max()) + 1))
    x0, y0, x1, y1, first, end = (values[crossed] for values in (x0, y0, x1, y1, first, first + count))
    columns, bottom = right - left, int(end.max())
    rows = max(1, BAND // (columns + 1))
    for top in range(int(first.min()), bottom, rows):
        height_here = min(rows, bottom - top)
        low, high = np.clip(first, top, top + height_here), np.clip(end, top, top + height_here)
        flips = np.zeros(height_here * (columns + 1), bool)
        for edges in _portions(high - low):
            length = (high - low)[edges]
            edge = np.repeat(edges, length)
            row = np.arange(edge.size) - np.repeat(np.cumsum(length) - length, length) + low[edge]
            crossing = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
            column = np.clip(np.ceil(crossing - 0.5), left, right).astype(np.int64) - left
            flips ^= np.bincount((row - top) * (columns + 1) + column, minlength=flips.size) % 2 == 1
        part = np.logical_xor.accumulate(flips.reshape(height_here, columns + 1), axis=1)[:, :columns]
        yield (slice(top, top + height_here), slice(left, right)), part


def _portions(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the indices of the counts above 0, in portions whose counts add up to about `BAND`."""
    chosen = np.flatnonzero(counts)
    ends = np.cumsum(counts[chosen])
    begin = 0
    while begin < chosen.size:
        end = max(begin + 1, int(np.searchsorted(ends, (ends[begin - 1] if begin else 0) + BAND, "right")))
        yield chosen[begin:end]
        begin = end
