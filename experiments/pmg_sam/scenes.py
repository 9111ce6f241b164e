"""Synthetic images with known masks: an object with thin parts at any resolution, and objects pasted side by side."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from fretsaw import frames
from fretsaw.layers.resampling import resize_image

SUBPIXELS = 4
"""Bits of fraction in coordinates that are drawn."""


def thin_scene(side: int, seed: int = 0, spokes: int = 12, width: float = 0.0012) -> tuple[np.ndarray, np.ndarray]:
    """Draw a body with thin parts before a soft background.

    Args:
        side: Rows and columns.
        seed: Of places, colours and texture.
        spokes: Thin lines that leave the body; every second one ends in a ring.
        width: Of the lines, as a share of `side`.

    Returns:
        image (side, side, 3) uint8 RGB, and mask (side, side) bool: pixels that the object covers by more than half.
    """
    rng = np.random.default_rng(seed)
    alpha = np.zeros((side, side), np.uint8)
    centre = np.array([0.5, 0.5]) + rng.uniform(-0.05, 0.05, 2)
    axes = rng.uniform(0.13, 0.2, 2)
    scale = side << SUBPIXELS
    options = {"color": 255, "lineType": cv2.LINE_AA, "shift": SUBPIXELS}

    def point(xy: np.ndarray) -> tuple[int, int]:
        return int(xy[0] * scale), int(xy[1] * scale)

    cv2.ellipse(alpha, point(centre), point(axes), float(rng.uniform(0, 180)), 0, 360, thickness=-1, **options)
    thickness = max(1, round(width * side))
    for i, angle in enumerate(np.linspace(0, 2 * np.pi, spokes, endpoint=False) + rng.uniform(-0.1, 0.1, spokes)):
        direction = np.array([np.cos(angle), np.sin(angle)])
        end = centre + direction * rng.uniform(0.28, 0.42)
        cv2.line(alpha, point(centre), point(end), thickness=thickness, **options)
        if i % 2:
            radius = rng.uniform(0.015, 0.03)
            cv2.circle(alpha, point(end + direction * radius), int(radius * scale), thickness=thickness, **options)
    share = alpha.astype(np.float32)[..., None] / 255
    object_colour, ground = rng.uniform(150, 240, 3), rng.uniform(20, 90, 3)
    image = share * texture(side, rng, object_colour, 12) + (1 - share) * texture(side, rng, ground, 25)
    image += rng.normal(0, 3, (side, side, 1))
    return image.round().clip(0, 255).astype(np.uint8), alpha > 127


def texture(side: int, rng: np.random.Generator, colour: np.ndarray, contrast: float) -> np.ndarray:
    """Return (side, side, 3) float32: a colour with soft spots, 16 a side."""
    spots = rng.normal(0, contrast, (16, 16, 3)).astype(np.float32)
    return cv2.resize(spots, (side, side), interpolation=cv2.INTER_CUBIC) + colour.astype(np.float32)


def side_by_side(objects: Sequence[tuple[np.ndarray, np.ndarray]], ground: np.ndarray, overlap: float = 0.05) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paste objects in a row on a background so that each touches the next.

    Args:
        objects: (image (h, w, 3) uint8, mask (h, w) bool) each; scaled to one height.
        ground: (H, W, 3) uint8, the background.
        overlap: Share of an object's width that lies behind the one before it; grows until the two touch.

    Returns:
        The image, (H, W, 3) uint8, and one mask (H, W) bool an object: what of it can be seen.
    """
    height, width = ground.shape[:2]
    cuts = [_cut_out(image, mask, round(0.7 * height), round(0.9 * width / len(objects))) for image, mask in objects]
    image, taken = ground.copy(), np.zeros((height, width), bool)
    masks: list[np.ndarray] = []
    left = max(0, (width - sum(mask.shape[1] for _, mask in cuts)) // 2)
    for pixels, mask in cuts:
        top = (height - mask.shape[0]) // 2
        start = max(0, left - round(overlap * mask.shape[1])) if masks else left
        while True:
            placed = np.zeros((height, width), bool)
            shown = mask[:, : max(0, width - start)]
            placed[top : top + mask.shape[0], start : start + shown.shape[1]] = shown
            if not masks or start == 0 or (placed & cv2.dilate(taken.astype(np.uint8), np.ones((3, 3), np.uint8)).view(bool)).any():
                break
            start -= 1
        seen = placed & ~taken
        rows, columns = np.nonzero(seen)
        image[rows, columns] = pixels[rows - top, columns - start]
        taken |= placed
        masks.append(seen)
        left = start + mask.shape[1]
    return image, masks


def _cut_out(image: np.ndarray, mask: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an object's box, scaled to fit height x width."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    image, mask = np.ascontiguousarray(image[box]), np.ascontiguousarray(mask[box])
    scale = min(height / mask.shape[0], width / mask.shape[1])
    size = max(1, round(mask.shape[0] * scale)), max(1, round(mask.shape[1] * scale))
    return resize_image(image, *size), frames.resize_map(mask.astype(np.float32), *size) > 0.5
