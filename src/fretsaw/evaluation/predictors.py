"""The predictors that click protocols evaluate, and the ways in which protocols feed an image to them.

A predictor is anything that opens an image and turns clicks into a map. The wrappers are predictors around predictors: they change what the inner one sees
(a crop, a mirror image, a stretched image) and bring its map back, so that each protocol is a stack of them around any network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from fretsaw import frames
from fretsaw.evaluation.protocols import ClickProtocol
from fretsaw.layers.resampling import resize_image
from fretsaw.types import Box, Click

Unit = Literal["logits", "probabilities"]

_MOST = 1 - 1e-7


class OpenImage(Protocol):
    """One image, ready for clicks; it may remember its own last answer."""

    def predict(self, clicks: Sequence[Click], previous: np.ndarray | None) -> np.ndarray:
        """Return the map after these clicks.

        Args:
            clicks: All clicks so far, in the image's pixels.
            previous: (H, W) float32 probabilities or labels that the protocol hands back from the answer before; None at the first click, and always where the
                protocol leaves it to the network to remember.

        Returns:
            (H, W) float32, logits or probabilities as the predictor's `unit` says.
        """
        ...


class ClickPredictor(Protocol):
    """A network under a click protocol: it opens images."""

    @property
    def unit(self) -> Unit:
        """The unit of its maps."""
        ...

    def open(self, image: np.ndarray) -> OpenImage:
        """Take an image, (H, W, 3) uint8 RGB, and compute everything that does not depend on clicks."""
        ...


def wrap(predictor: ClickPredictor, protocol: ClickProtocol) -> ClickPredictor:
    """Return the predictor as the protocol feeds it: flip innermost, then the detour, then crop or squash."""
    if protocol.flip:
        predictor = Flip(predictor)
    if protocol.detour_size is not None:
        predictor = Detour(predictor, protocol.detour_size)
    if protocol.input == "squash":
        assert protocol.input_size is not None, "the protocol checks it"
        predictor = Squash(predictor, protocol.input_size)
    if protocol.input == "zoom":
        predictor = ZoomIn(predictor, protocol)
    return predictor


def probabilities(values: np.ndarray, unit: Unit) -> np.ndarray:
    """Return a map as probabilities."""
    return values if unit == "probabilities" else 1 / (1 + np.exp(-np.clip(values, -80, 80)))


def logits(values: np.ndarray, unit: Unit) -> np.ndarray:
    """Return a map as logits; probabilities of 0 and 1 become about -16 and 16."""
    if unit == "logits":
        return values
    inside = np.clip(values, 1 - _MOST, _MOST)
    return np.log(inside / (1 - inside))


@dataclass(frozen=True)
class Flip:
    """Predict on the image and on its mirror image and average the logits.

    Source: RITM (Sofiiuk et al. 2022), evaluation code, horizontal flip.
    """

    inner: ClickPredictor
    unit: Unit = "logits"

    def open(self, image: np.ndarray) -> OpenImage:
        return _Flipped(self.inner, image)


class _Flipped:
    def __init__(self, inner: ClickPredictor, image: np.ndarray) -> None:
        self._unit: Unit = inner.unit
        self._width = image.shape[1]
        self._plain = inner.open(image)
        self._mirrored = inner.open(np.ascontiguousarray(image[:, ::-1]))

    def predict(self, clicks: Sequence[Click], previous: np.ndarray | None) -> np.ndarray:
        plain = self._plain.predict(clicks, previous)
        mirrored_clicks = [replace(click, x=self._width - 1 - click.x) for click in clicks]
        mirrored_previous = None if previous is None else np.ascontiguousarray(previous[:, ::-1])
        mirrored = self._mirrored.predict(mirrored_clicks, mirrored_previous)[:, ::-1]
        return 0.5 * (logits(plain, self._unit) + logits(mirrored, self._unit))


@dataclass(frozen=True)
class Squash:
    """Stretch the image, the previous map and the clicks to a square, and the answer back.

    Source: SegNext (Liu et al. 2024), input of 1024 x 1024.
    """

    inner: ClickPredictor
    size: int

    @property
    def unit(self) -> Unit:
        return self.inner.unit

    def open(self, image: np.ndarray) -> OpenImage:
        return _Resized(self.inner, image, self.size, self.size)


@dataclass(frozen=True)
class Detour:
    """Show the network an image that was brought to a longest side first, and the answer at the image's size.

    Source: HRSAM (paper 003), appendix E and table 4: inputs resized to 1024 are enlarged to 2048.
    """

    inner: ClickPredictor
    size: int

    @property
    def unit(self) -> Unit:
        return self.inner.unit

    def open(self, image: np.ndarray) -> OpenImage:
        frame = frames.longest_side(image.shape[0], image.shape[1], self.size)
        return _Resized(self.inner, image, frame.content_height, frame.content_width)


class _Resized:
    """The inner predictor on a resized image."""

    def __init__(self, inner: ClickPredictor, image: np.ndarray, height: int, width: int) -> None:
        self._size = image.shape[:2]
        self._inner_size = (height, width)
        self._inner = inner.open(resize_image(image, height, width))

    def predict(self, clicks: Sequence[Click], previous: np.ndarray | None) -> np.ndarray:
        scale_y, scale_x = self._inner_size[0] / self._size[0], self._inner_size[1] / self._size[1]
        moved = [replace(click, x=click.x * scale_x, y=click.y * scale_y) for click in clicks]
        resized = None if previous is None else frames.resize_map(previous, *self._inner_size)
        return frames.resize_map(self._inner.predict(moved, resized), *self._size)


@dataclass(frozen=True)
class ZoomIn:
    """From the second click on show the network only a crop around the object found so far.

    The box of the last mask and the positive clicks is expanded, at least `zoom_minimum` pixels a side, and kept until it no longer fits
    (`zoom_recrop_iou`, or a positive click outside). Outside the crop the probability is 0.

    Source: RITM (Sofiiuk et al. 2022), evaluation code, zoom-in; SimpleClick (Liu et al. 2023) stretches crops, and the whole image while there is no crop.
    Deviation: resampled with half-pixel centres and 8-bit colours, where the published code aligns corners and keeps fractions: there is one way to resample
        in Fretsaw.
    Deviation: where the last mask is empty the map of the whole image is used as it is; the published code pastes it into the last crop.
    """

    inner: ClickPredictor
    protocol: ClickProtocol
    unit: Unit = "probabilities"

    def open(self, image: np.ndarray) -> OpenImage:
        return _Zoomed(self.inner, self.protocol, image)


class _Zoomed:
    def __init__(self, inner: ClickPredictor, protocol: ClickProtocol, image: np.ndarray) -> None:
        self._inner, self._protocol, self._image = inner, protocol, image
        self._crop: Box | None = None
        self._last: np.ndarray | None = None
        self._whole = self._open(Box(0, 0, image.shape[1], image.shape[0]), zoomed=False)
        self._opened: OpenImage | None = None

    def predict(self, clicks: Sequence[Click], previous: np.ndarray | None) -> np.ndarray:
        wanted = self._wanted_crop(clicks)
        if wanted is None:
            answer = probabilities(self._whole.predict(clicks, previous), self._inner.unit)
        else:
            if self._opened is None or self._crop is None or not _still_fits(self._crop, wanted, clicks, self._protocol.zoom_recrop_iou):
                self._crop, self._opened = wanted, self._open(wanted, zoomed=True)
            inside = [replace(click, x=click.x - self._crop.x0, y=click.y - self._crop.y0) for click in clicks]
            cropped = None if previous is None else np.ascontiguousarray(frames.crop(previous, self._crop))
            patch = probabilities(self._opened.predict(inside, cropped), self._inner.unit)
            answer = frames.paste(patch, self._crop, np.zeros(self._image.shape[:2], np.float32))
        self._last = answer
        return answer

    def _wanted_crop(self, clicks: Sequence[Click]) -> Box | None:
        """Return the crop for the mask as it is now, or None at the first click and where the mask is empty."""
        if self._last is None or len(clicks) < 2:
            return None
        mask = self._last > self._protocol.zoom_threshold
        if not mask.any():
            return None
        for click in clicks:
            if click.positive:
                mask[int(click.y), int(click.x)] = True
        return object_crop(mask, self._protocol.zoom_expansion, self._protocol.zoom_minimum)

    def _open(self, crop: Box, zoomed: bool) -> OpenImage:
        part = np.ascontiguousarray(frames.crop(self._image, crop))
        size = self._protocol.input_size
        assert size is not None, "the protocol checks it"
        height, width = part.shape[:2]
        if self._protocol.zoom_squash:
            return _Resized(self._inner, part, size, size)
        if not zoomed:
            return self._inner.open(part)
        scale = size / max(height, width)
        return _Resized(self._inner, part, max(1, round(height * scale)), max(1, round(width * scale)))


def object_crop(mask: np.ndarray, expansion: float, minimum: int) -> Box:
    """Return the box of a non-empty mask, expanded about its centre and cut to the image; whole-number edges.

    Source: RITM (Sofiiuk et al. 2022), evaluation code: rows and columns are counted inclusively, halves are rounded to even.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y0, y1 = _expanded(int(rows[0]), int(rows[-1]), expansion, minimum, height)
    x0, x1 = _expanded(int(columns[0]), int(columns[-1]), expansion, minimum, width)
    return Box(x0, y0, x1 + 1, y1 + 1)


def _expanded(first: int, last: int, expansion: float, minimum: int, length: int) -> tuple[int, int]:
    centre = 0.5 * (first + last)
    half = 0.5 * max(expansion * (last - first + 1), minimum)
    return max(0, round(centre - half)), min(length - 1, round(centre + half))


def _still_fits(crop: Box, wanted: Box, clicks: Sequence[Click], iou: float) -> bool:
    """Return whether the crop holds every positive click and overlaps the wanted one enough.

    Source: RITM's evaluation code, whose last row and column do not count as inside and whose overlap is the product of the two axes' IoU.
    """
    for click in clicks:
        if click.positive and not (crop.x0 <= click.x < crop.x1 - 1 and crop.y0 <= click.y < crop.y1 - 1):
            return False
    overlap = _span_iou(crop.x0, crop.x1, wanted.x0, wanted.x1) * _span_iou(crop.y0, crop.y1, wanted.y0, wanted.y1)
    return overlap >= iou


def _span_iou(a0: float, a1: float, b0: float, b1: float) -> float:
    return max(0.0, min(a1, b1) - max(a0, b0)) / (max(a1, b1) - min(a0, b0))
