"""Parts of photos around one object each: what a session that zooms in shows the model, as photos to learn from.

Source: f-BRS (Sofiiuk et al. 2020), zoom-in, for what is cut out; drawing the factor and the place is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fretsaw import frames
from fretsaw.data.click_samples import Photo
from fretsaw.data.made_photos import make_once
from fretsaw.data.samples import Sample
from fretsaw.errors import DataError
from fretsaw.masks import mask_to_box
from fretsaw.types import Box

FACTORS = 1.25, 1.8
"""Least and most side of a part over that of its object."""

LARGEST = 0.6
"""A part that covers more of its photo is no close-up."""

SMALLEST = 48
"""Least side of a part in pixels."""

TRIES = 40
"""Objects drawn until one is small enough in its photo."""


def make(folder: Path, count: int, groups: Sequence[Sequence[Sample]], seed: int = 0) -> list[Photo]:
    """Cut parts out of photos, or find those that an earlier run cut out.

    Args:
        folder: They lie here, see `fretsaw.data.made_photos`.
        count: How many.
        groups: Samples to draw objects from; every group is drawn equally often.
        seed: Part i is a function of (seed, i) and the groups.

    Raises:
        DataError: If there are no objects that are small enough.
    """

    def draw(i: int) -> tuple[np.ndarray, list[np.ndarray]]:
        image, mask = draw_part(np.random.default_rng((seed, i)), groups)
        return image, [mask]

    return make_once(folder, count, ".png", draw)


def draw_part(rng: np.random.Generator, groups: Sequence[Sequence[Sample]]) -> tuple[np.ndarray, np.ndarray]:
    """Return a part of a photo around an object, (h, w, 3) uint8, and the object's mask there, (h, w) bool.

    Raises:
        DataError: If in `TRIES` draws no object is small enough.
    """
    filled = [group for group in groups if group]
    for _ in range(TRIES if filled else 0):
        group = filled[int(rng.integers(len(filled)))]
        image, truth = group[int(rng.integers(len(group)))].read()
        mask = truth == 1
        if not mask.any():
            continue
        part = surroundings(rng, Box(*mask_to_box(mask)), *mask.shape)
        if (truth != -1).all() and (part.x1 - part.x0) * (part.y1 - part.y0) <= LARGEST * mask.size:
            return np.ascontiguousarray(frames.crop(image, part)), np.ascontiguousarray(frames.crop(mask, part))
    raise DataError(f"expected objects whose surroundings take at most {LARGEST} of their photo, got none in {TRIES} draws among {len(filled)} groups")


def surroundings(rng: np.random.Generator, box: Box, height: int, width: int) -> Box:
    """Return a box grown by a factor drawn from `FACTORS` and moved a little, which holds it still, cut to an image of (height, width)."""
    grown = frames.expand_box(box, float(rng.uniform(*FACTORS)), SMALLEST, height, width)
    x, y = (float(rng.uniform(-0.1, 0.1)) * side for side in (box.x1 - box.x0, box.y1 - box.y0))
    moved = Box(min(grown.x0 + x, box.x0), min(grown.y0 + y, box.y0), max(grown.x1 + x, box.x1), max(grown.y1 + y, box.y1))
    return frames.expand_box(moved, 1.0, SMALLEST, height, width)
