"""The only code that resizes, pads and crops, and that maps between the original image and the model's input.

Conventions, valid everywhere in Fretsaw:

- A *pixel index* names a pixel's centre: the top-left pixel is (0, 0), and a photo of width W reaches from -0.5 to W - 0.5.
- An *edge coordinate* names the line between pixels: the photo reaches from 0 to W. Boxes are half open and use edge coordinates.
- Points are xy (x right, y down) in arrays whose last axis has length 2; images are row, column.
- Every resampling is bilinear with half-pixel centres, anti-aliased when it shrinks; no corner is aligned. Only logits that are brought to an image are never
  anti-aliased, see `logits_to_image`.

Values are numpy arrays. Networks whose gradients or batches stay on a device use `fretsaw.layers.resampling`, which gives the same numbers.

Deviation: a resize by s moves the centre of pixel p to (p + 0.5) s - 0.5. Published SAM and SAM 2 place prompts at p s instead and were trained so;
    `points_to_model` follows them, because half a pixel of the model frame is less than what the decoder would lose off its training distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from fretsaw.errors import ShapeError
from fretsaw.types import Box

MASK_PROMPT_LOGIT = 8.0
"""A boolean mask used as prompt becomes logits of plus or minus this value."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where one image lies in the model's square input.

    Attributes:
        height: Rows of the original image.
        width: Columns of the original image.
        size: Side S of the model's input.
        content_height: Rows of the model's input that the image fills, from the top.
        content_width: Columns that it fills, from the left.
        padded: Whether the frame keeps the aspect ratio and pads; decides how logits are enlarged, see `logits_to_image`.
    """

    height: int
    width: int
    size: int
    content_height: int
    content_width: int
    padded: bool

    @property
    def scale_x(self) -> float:
        """Model pixels per original pixel, along a row."""
        return self.content_width / self.width

    @property
    def scale_y(self) -> float:
        """Model pixels per original pixel, down a column."""
        return self.content_height / self.height


def squash(height: int, width: int, size: int) -> Frame:
    """Return the frame that stretches the image to size x size, as SAM 2 does."""
    _check_size(height, width, size)
    return Frame(height, width, size, size, size, padded=False)


def longest_side(height: int, width: int, size: int) -> Frame:
    """Return the frame that brings the longest side to `size` and pads zeros right and below, as SAM and HRSAM do.

    The shorter side is rounded half up: int(side * scale + 0.5).
    """
    _check_size(height, width, size)
    scale = size / max(height, width)
    content_height, content_width = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    return Frame(height, width, size, content_height, content_width, padded=True)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a model wants its pixels.

    Attributes:
        frame: `squash` or `longest_side`.
        size: Side S of the model's input.
        mean: Per channel, subtracted from values in [0, 1].
        std: Per channel, divides afterwards.
    """

    frame: Callable[[int, int, int], Frame] = squash
    size: int = 1024
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def key(self) -> str:
        """A short text that differs whenever the pixels would differ; part of an embedding's cache key."""
        numbers = ",".join(f"{value:.6g}" for value in (*self.mean, *self.std))
        return f"{self.frame.__name__}-{self.size}-{numbers}"

    @property
    def logit_side(self) -> int:
        """Side of the decoder's low-resolution logits, S / 4. With a refiner a model's answers may be finer; see `ClickModel.logit_side`."""
        return self.size // 4

    def frame_of(self, image: np.ndarray) -> Frame:
        """Return the frame for an image (H, W, 3)."""
        return self.frame(image.shape[0], image.shape[1], self.size)

    def pixels_of(self, image: np.ndarray) -> np.ndarray:
        """Return the model's input for an image, (1, 3, S, S) float32."""
        return to_pixels(image, self.frame_of(image), self.mean, self.std)


def to_pixels(image: np.ndarray, frame: Frame, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Bring an image into the model's frame.

    Args:
        image: (H, W, 3) uint8 RGB of the size that the frame was made for.
        frame: From `squash` or `longest_side`.
        mean: Per channel, in [0, 1] units.
        std: Per channel, in [0, 1] units.

    Returns:
        (1, 3, S, S) float32; padding is exactly 0, that is, the mean colour.

    Raises:
        ShapeError: If the image is not (H, W, 3) uint8 of the frame's size.
    """
    if image.dtype != np.uint8 or image.shape != (frame.height, frame.width, 3):
        raise ShapeError(f"expected an image ({frame.height}, {frame.width}, 3) uint8, got {image.shape} {image.dtype}")
    pixels = np.zeros((1, 3, frame.size, frame.size), np.float32)
    for channel in range(3):
        values = resize_map(image[..., channel], frame.content_height, frame.content_width)
        # Resampling is linear, so the scale to [0, 1] is set on the values that come out of it.
        content = pixels[0, channel, : frame.content_height, : frame.content_width]
        np.divide(values, 255, out=content)
        content -= np.float32(mean[channel])
        content /= np.float32(std[channel])
    return pixels


def points_to_model(xy: np.ndarray, frame: Frame) -> np.ndarray:
    """Map pixel indices (..., 2) of the original image to the model frame, by SAM's published rule x' = x * scale (see the module's deviation)."""
    return np.asarray(xy, dtype=np.float64) * (frame.scale_x, frame.scale_y)


def box_to_model(box: Box, frame: Frame) -> np.ndarray:
    """Map a half-open box to the model frame: (2, 2) float64, its top-left and bottom-right corner as xy."""
    return points_to_model(np.array([[box.x0, box.y0], [box.x1, box.y1]]), frame)


def logits_to_image(logits: np.ndarray, frame: Frame) -> np.ndarray:
    """Enlarge mask logits from the decoder to the original image.

    Args:
        logits: (P, M, h, w) covering the whole model frame.
        frame: The frame in which the image was encoded.

    Returns:
        (P, M, H, W) float32. A squashed frame is enlarged in one step, as SAM 2 does; a padded one goes through S x S, where the
        padding is cut off, as SAM does. Nothing is anti-aliased, also where logits shrink, as the published models do.
    """
    logits = logits.astype(np.float32, copy=False)
    enlarged = np.empty((*logits.shape[:2], frame.height, frame.width), np.float32)
    for index in np.ndindex(logits.shape[:2]):
        values = logits[index]
        if frame.padded:
            values = _interpolated(values, frame.size, frame.size)[: frame.content_height, : frame.content_width]
        enlarged[index] = _interpolated(values, frame.height, frame.width)
    return enlarged


def mask_to_logits(mask: np.ndarray, frame: Frame, size: int) -> np.ndarray:
    """Turn a mask or a map of logits into the mask prompt that SAM's prompt encoder takes.

    Args:
        mask: (H, W) bool, or (H, W) float logits, original frame.
        frame: The frame of the image that the mask belongs to.
        size: Side of the decoder's logits, S / 4 for SAM.

    Returns:
        (1, 1, size, size) float32. Booleans become plus or minus `MASK_PROMPT_LOGIT`, in between along anti-aliased edges; padding is background.

    Raises:
        ShapeError: If the mask is not (H, W) of the image's size, or neither bool nor float.
    """
    if mask.shape != (frame.height, frame.width):
        raise ShapeError(f"expected a mask of the image's size ({frame.height}, {frame.width}), got {mask.shape}")
    if mask.dtype != np.bool_ and not np.issubdtype(mask.dtype, np.floating):
        raise ShapeError(f"expected a bool mask or float logits, got {mask.dtype}")
    rows = max(1, round(size * frame.content_height / frame.size))
    columns = max(1, round(size * frame.content_width / frame.size))
    values = resize_map(mask, rows, columns)
    logits = np.full((1, 1, size, size), -MASK_PROMPT_LOGIT, np.float32)
    # Resampling is linear, so the scale is set on the few values that come out of it.
    logits[0, 0, :rows, :columns] = (2 * values - 1) * MASK_PROMPT_LOGIT if mask.dtype == np.bool_ else values
    return logits


def resize_map(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample one map (H, W) of any real dtype to (height, width) float32: bilinear, half-pixel centres, anti-aliased if an axis shrinks."""
    values = np.ascontiguousarray(values, np.float32)
    if height >= values.shape[0] and width >= values.shape[1]:
        return _interpolated(values, height, width)
    return np.array(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`resize_map` for an image (H, W, 3) uint8, in Pillow's own fixed-point arithmetic, which published SAM was trained on; (height, width, 3) uint8."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR))


def _interpolated(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample a map (H, W) float32 between pixel centres without anti-aliasing."""
    if values.shape == (height, width):
        return values
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)


def expand_box(box: Box, factor: float, minimum: float, height: int, width: int) -> Box:
    """Return the box grown about its centre by `factor`, at least `minimum` pixels a side, cut to the image and to whole pixels.

    A crop that would be cut on one side is not moved: what lies outside the image is lost.
    """
    centre_x, centre_y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    half_width = max((box.x1 - box.x0) * factor, minimum) / 2
    half_height = max((box.y1 - box.y0) * factor, minimum) / 2
    return Box(
        max(0, int(np.floor(centre_x - half_width))),
        max(0, int(np.floor(centre_y - half_height))),
        min(width, int(np.ceil(centre_x + half_width))),
        min(height, int(np.ceil(centre_y + half_height))),
    )


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """Return the part of (H, W, ...) that a box with whole-number edges covers; a view, not a copy."""
    return array[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]


def paste(patch: np.ndarray, box: Box, canvas: np.ndarray) -> np.ndarray:
    """Return a copy of `canvas` (H, W, ...) in which the box holds `patch`; everything outside the box is untouched."""
    result = canvas.copy()
    result[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = patch
    return result


def _check_size(height: int, width: int, size: int) -> None:
    if min(height, width, size) < 1:
        raise ShapeError(f"expected an image and a model side of at least 1 pixel, got {height} x {width} into {size}")
