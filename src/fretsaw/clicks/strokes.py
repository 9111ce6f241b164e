"""Lines drawn by hand, for networks that take clicks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fretsaw.types import Click, Stroke

CLICKS = 5
"""Clicks along a stroke that stand for it in SAM's prompt encoder, which takes no lines."""


def evenly(stroke: Stroke, count: int = CLICKS) -> list[Click]:
    """Return `count` clicks along a stroke, from its beginning to its end; one where it is a dot."""
    corners, lengths = _measured(stroke)
    places: np.ndarray = np.linspace(0.0, float(lengths[-1]), count) if lengths[-1] > 0 else lengths[:1]
    columns, rows = (np.interp(places, lengths, corners[:, axis]) for axis in (0, 1))
    return [Click(float(x), float(y), stroke.positive) for x, y in zip(columns, rows, strict=True)]


def closely(stroke: Stroke, spacing: float) -> list[Click]:
    """Return clicks along a stroke, its ends included, at most `spacing` pixels of the image apart."""
    _, lengths = _measured(stroke)
    return evenly(stroke, 1 + max(1, math.ceil(lengths[-1] / spacing)))


def single_clicks(clicks: Sequence[Click], strokes: Sequence[Stroke]) -> list[Click]:
    """Return a prompt's clicks that a person made one by one, without those that stand for its strokes (`evenly`); both in the order they were made."""
    single: list[Click] = []
    left, lines = list(clicks), [evenly(stroke) for stroke in strokes]
    while left:
        if lines and left[: len(lines[0])] == lines[0]:
            del left[: len(lines.pop(0))]
        else:
            single.append(left.pop(0))
    return single


def _measured(stroke: Stroke) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners (N, 2) without repetitions in a row, and how far along the stroke each lies."""
    corners = np.array(stroke.points, float).reshape(-1, 2)
    steps = np.hypot(*np.diff(corners, axis=0).T) if len(corners) > 1 else np.zeros(0)
    kept = np.concatenate([[True], steps > 0])
    return corners[kept], np.concatenate([[0.0], steps[steps > 0].cumsum()])
