"""Photos with objects of other photos pasted on them: masks that are exact because the edge is made, not drawn by hand.

Outlines drawn by people lie a pixel or two off the edge; a network that learns from them alone moves good edges to where people draw. An object that is cut
out along a line inside its outline and pasted on another photo ends exactly at that line.

Source: simple copy-paste (Ghiasi et al. 2021) for the idea; the shrunken outline and soft edge are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fretsaw import frames
from fretsaw.data.click_samples import Photo
from fretsaw.data.made_photos import make_once
from fretsaw.data.samples import Sample
from fretsaw.errors import DataError
from fretsaw.images import read_image
from fretsaw.layers.resampling import resize_image

SIDE = 768
"""Longest side of the photos made."""

SHARES = 0.3, 0.85
"""Least and most of an object's longest side over the photo's shortest."""

SHRINK = 0.01
"""Of an outline, as a share of the square root of its area: what is cut away so that no background of the object's own photo comes along."""

VISIBLE = 0.4
"""An object of which less can be seen behind others is not learned from."""

SMALLEST = 400
"""Pixels of an object, in its own photo, that can be enlarged."""

TRIES = 20
"""Objects drawn until one is large enough."""


def make(folder: Path, count: int, objects: Sequence[Sample], grounds: Sequence[Path], seed: int = 0) -> list[Photo]:
    """Make photos, or find those that an earlier run made.

    Args:
        folder: They lie here, see `fretsaw.data.made_photos`.
        count: How many.
        objects: Samples to take objects from.
        grounds: Photos to paste them on.
        seed: Photo i is a function of (seed, i) and the two lists.

    Raises:
        DataError: If there are no objects that are large enough.
    """

    def draw(i: int) -> tuple[np.ndarray, list[np.ndarray]]:
        rng = np.random.default_rng((seed, i))
        return paste_objects(rng, objects, read_image(grounds[int(rng.integers(len(grounds)))]))

    return make_once(folder, count, ".jpg", draw)


def paste_objects(
    rng: np.random.Generator, objects: Sequence[Sample], ground: np.ndarray, side: int = SIDE, shares: tuple[float, float] = SHARES
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paste one to three objects on a photo, the later ones before the earlier.

    Args:
        rng: Draws objects, sizes, places, light.
        objects: Samples.
        ground: (H, W, 3) uint8; it is brought to `side`.
        side: Longest side of the photo.
        shares: Least and most of an object's longest side over the photo's shortest; drawn evenly.

    Returns:
        The photo, and one mask (H, W) bool an object: what of it can be seen.
    """
    scale = side / max(ground.shape[:2])
    height, width = (max(1, round(n * scale)) for n in ground.shape[:2])
    canvas = resize_image(ground, height, width).astype(np.float32)
    masks: list[np.ndarray] = []
    areas: list[int] = []
    for _ in range(int(rng.integers(1, 4))):
        pixels, alpha = _draw_object(rng, objects, round(rng.uniform(*shares) * min(height, width)))
        y, x = (int(rng.integers(-n // 6, max(1, full - n + n // 6))) for n, full in zip(alpha.shape, (height, width), strict=True))
        rows, columns = slice(max(y, 0), min(y + alpha.shape[0], height)), slice(max(x, 0), min(x + alpha.shape[1], width))
        part = slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x)
        share = alpha[part][..., None]
        canvas[rows, columns] = share * pixels[part] + (1 - share) * canvas[rows, columns]
        placed = np.zeros((height, width), bool)
        placed[rows, columns] = share[..., 0] > 0.5
        masks = [*(mask & ~placed for mask in masks), placed]
        areas.append(int((alpha > 0.5).sum()))
    seen = [mask for mask, area in zip(masks, areas, strict=True) if mask.sum() > VISIBLE * area]
    return canvas.round().clip(0, 255).astype(np.uint8), seen


def _draw_object(rng: np.random.Generator, objects: Sequence[Sample], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an object, its longest side `side`: pixels (h, w, 3) float32 in another light, perhaps mirrored, and its soft mask (h, w) float32."""
    for _ in range(TRIES):
        image, truth = objects[int(rng.integers(len(objects)))].read()
        mask = (truth == 1).astype(np.uint8)
        reach = 1 + 2 * max(1, round(SHRINK * float(mask.sum()) ** 0.5))
        mask = cv2.erode(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))[1:-1, 1:-1]
        if mask.sum() >= SMALLEST:
            break
    else:
        raise DataError(f"expected objects of at least {SMALLEST} pixels to paste, got none in {TRIES} draws among {len(objects)}")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    factor = side / max(rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0])
    height, width = (max(2, round(n * factor)) for n in mask[box].shape)
    pixels = resize_image(np.ascontiguousarray(image[box]), height, width).astype(np.float32)
    alpha = frames.resize_map(mask[box].astype(np.float32), height, width)
    alpha = cv2.GaussianBlur(np.pad(alpha, 3), (0, 0), float(rng.uniform(0.5, 1.2)))
    pixels = np.pad(pixels, ((3, 3), (3, 3), (0, 0)), mode="edge") * rng.uniform(0.8, 1.2) + rng.uniform(-20, 20)
    if rng.random() < 0.5:
        pixels, alpha = pixels[:, ::-1], alpha[:, ::-1]
    return pixels.clip(0, 255), alpha.clip(0, 1)
