"""Square views of images and their label maps, each a pure function of (seed, image, number), so that features of fixed views can be stored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fretsaw import frames
from fretsaw.data.boxes import draw_place
from fretsaw.data.colours import distort_colours
from fretsaw.data.truths import IGNORED
from fretsaw.layers.resampling import resize_image
from fretsaw.types import Box

SCALES = (0.5, 2.0)
"""Of a view's content beside the whole image: above 1 a part is enlarged, below 1 the image is shrunk and the rest is left empty."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image's content lies in a view.

    Attributes:
        box: Part of the image that is shown.
        side: Side of the square that it fills.
        x: Column of the square's left edge.
        y: Row of its top edge.
        mirrored: Whether the view is mirrored.
        recoloured: Seed of its colours' distortion, or None.
    """

    box: Box
    side: int
    x: int = 0
    y: int = 0
    mirrored: bool = False
    recoloured: int | None = None


def placement(height: int, width: int, size: int, number: int, seed: int, key: str) -> Placement:
    """Return how view `number` of an image is made.

    Args:
        height: H of the image.
        width: W of the image.
        size: Side S of the view.
        number: 0 is the whole image, 1 the whole image mirrored; the others are scaled, shifted, mirrored half of the time and recoloured.
        seed: Of what is drawn.
        key: Names the image; different images draw differently.

    Source: GrC-SAM (paper 000), section A.4: flips, resized crops of scale 0.5 to 2, colour jitter.
    """
    if number < 2:
        return Placement(Box(0, 0, width, height), size, mirrored=number == 1)
    rng = np.random.default_rng((seed, int(hashlib.sha256(key.encode()).hexdigest()[:12], 16), number))
    scale, mirrored, colours = float(np.exp(rng.uniform(*np.log(SCALES)))), bool(rng.random() < 0.5), int(rng.integers(2**31))
    if scale < 1:
        side = max(1, round(size * scale))
        y, x = (int(i) for i in rng.integers(0, size - side + 1, 2))
        return Placement(Box(0, 0, width, height), side, x, y, mirrored, colours)
    box = draw_place(rng, height, width, max(1, round(height / scale)), max(1, round(width / scale)))
    return Placement(box, size, 0, 0, mirrored, colours)


def view_picture(image: np.ndarray, at: Placement, size: int) -> np.ndarray:
    """Return the view of an image (H, W, 3) uint8, (S, S, 3) uint8; what the content does not fill has the image's mean colour."""
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = image.reshape(-1, 3).mean(0).round().astype(np.uint8)
    content = resize_image(np.ascontiguousarray(frames.crop(image, at.box)), at.side, at.side)
    picture[at.y : at.y + at.side, at.x : at.x + at.side] = content
    picture = np.ascontiguousarray(picture[:, ::-1]) if at.mirrored else picture
    return picture if at.recoloured is None else distort_colours(picture, np.random.default_rng(at.recoloured))


def view_labels(labels: np.ndarray, at: Placement, size: int) -> np.ndarray:
    """Return the view of a label map (H, W), (S, S) uint8, `IGNORED` where the content does not reach."""
    truth = np.full((size, size), IGNORED, np.uint8)
    content = cv2.resize(frames.crop(labels, at.box).astype(np.uint8), (at.side, at.side), interpolation=cv2.INTER_NEAREST_EXACT)
    truth[at.y : at.y + at.side, at.x : at.x + at.side] = content
    return np.ascontiguousarray(truth[:, ::-1]) if at.mirrored else truth


def key_of(path: Path) -> str:
    """Return a name for an image file's content, 24 characters."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]
