"""Boxes that are drawn in images: parts that views of them show."""

from __future__ import annotations

import numpy as np

from fretsaw.types import Box


def draw_box(rng: np.random.Generator, height: int, width: int, smallest: float) -> Box:
    """Draw a box in an image (height, width) whose sides lie between `smallest` and 1 of the image's."""
    rows, columns = (max(1, round(side * rng.uniform(smallest, 1))) for side in (height, width))
    return draw_place(rng, height, width, rows, columns)


def draw_place(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> Box:
    """Draw where a box of rows x columns lies in an image (height, width), which is at least as large."""
    y0, x0 = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    return Box(x0, y0, x0 + columns, y0 + rows)
