"""Colours as another camera would have caught them: the distortion that SSD made usual."""

from __future__ import annotations

import cv2
import numpy as np

BRIGHTNESS = 32.0
"""Largest shift, of 255."""

CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18
"""Largest turn, of 180."""


def distort_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each half of the time; contrast before or after the other two.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: Draws what happens.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Source: SSD (Liu et al. 2016), section 2.2, by the numbers of HRSAM's published training configuration.
    """
    values = image.astype(np.float32)
    if rng.random() < 0.5:
        values += rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    contrast_first, contrast = rng.random() < 0.5, rng.uniform(*CONTRAST) if rng.random() < 0.5 else 1.0
    if contrast_first:
        values *= contrast
    saturation = rng.uniform(*SATURATION) if rng.random() < 0.5 else 1.0
    hue = rng.integers(-HUE, HUE + 1) if rng.random() < 0.5 else 0
    if saturation != 1.0 or hue:
        hsv = cv2.cvtColor(values.round().clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + hue) % 180
        hsv[..., 1] = (hsv[..., 1] * saturation).clip(0, 255)
        values = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    if not contrast_first:
        values *= contrast
    return values.round().clip(0, 255).astype(np.uint8)
