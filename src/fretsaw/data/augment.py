"""Augmented views of an image and its mask, each a pure function of (seed, index), so that a resumed run sees what it would have seen.

Source: PMG-SAM (paper 001), section 4.3: random crops, horizontal flips, rotations and colour jitter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fretsaw import frames
from fretsaw.data.boxes import draw_box
from fretsaw.data.samples import Sample
from fretsaw.layers.resampling import resize_image
from fretsaw.types import Box

TRIES = 5
"""Crops that are drawn until one holds enough of the object; then the whole image is taken."""

LEAST = 0.3
"""Share of the object that a crop must hold, so that what it shows is still the object."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much a view may differ from its image.

    Attributes:
        whole: Share of views that show the whole image; the others show a crop.
        smallest: Least side of a crop, as a share of the image's.
        flip: Probability of a mirrored view.
        degrees: Largest rotation either way.
        jitter: Largest change of brightness, contrast and saturation, as a factor either way.
    """

    whole: float = 0.4
    smallest: float = 0.5
    flip: float = 0.5
    degrees: float = 15.0
    jitter: float = 0.3


USUAL = Augmentation()

PLAIN = Augmentation(whole=1.0, flip=0.0, degrees=0.0, jitter=0.0)
"""The image as it is, for validation."""


class MaskViews(Dataset[tuple[Tensor, Tensor]]):
    """An endless list of views: item i is (view (3, S, S) uint8, mask (1, S, S) float32 in [0, 1]), squashed to S x S.

    Every run of `len(samples)` items shows each sample once, in an order drawn anew for each pass.

    Args:
        samples: Images and their truths; ignored pixels count as background.
        size: S.
        seed: Of everything drawn.
        augmentation: How much views differ from the images.
        ordered: Whether every pass takes the samples in their own order, for validation.
    """

    def __init__(self, samples: Sequence[Sample], size: int, seed: int = 0, augmentation: Augmentation = USUAL, ordered: bool = False) -> None:
        self._samples = list(samples)
        self._size, self._seed, self._how, self._ordered = size, seed, augmentation, ordered

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return view `index`; a sample that cannot be read raises its DataError or ImageError."""
        turn, place = divmod(index, len(self._samples))
        order = np.arange(len(self._samples)) if self._ordered else np.random.default_rng((self._seed, turn)).permutation(len(self._samples))
        image, truth = self._samples[order[place]].read()
        rng = np.random.default_rng((self._seed, turn, place, 1))
        view, mask = augment(image, truth == 1, self._size, self._how, rng)
        return torch.from_numpy(view).permute(2, 0, 1).contiguous(), torch.from_numpy(mask)[None]


def augment(image: np.ndarray, mask: np.ndarray, size: int, how: Augmentation, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one view.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        size: Side of the view.
        how: What may change.
        rng: Draws it.

    Returns:
        (size, size, 3) uint8 and (size, size) float32 in [0, 1], both writable copies.
    """
    box = draw_crop(mask, how, rng)
    view = resize_image(np.ascontiguousarray(frames.crop(image, box)), size, size)
    soft = frames.resize_map(np.ascontiguousarray(frames.crop(mask, box)).astype(np.float32), size, size)
    if rng.random() < how.flip:
        view, soft = view[:, ::-1], soft[:, ::-1]
    if how.degrees:
        view, soft = rotate(view, soft, rng.uniform(-how.degrees, how.degrees))
    if how.jitter:
        view = jitter_colours(view, *rng.uniform(1 - how.jitter, 1 + how.jitter, 3))
    return np.array(view, order="C"), np.array(soft.clip(0, 1), np.float32, order="C")


def draw_crop(mask: np.ndarray, how: Augmentation, rng: np.random.Generator) -> Box:
    """Draw a crop that holds at least `LEAST` of the object, or the whole image."""
    height, width = mask.shape
    whole = Box(0, 0, width, height)
    if rng.random() < how.whole:
        return whole
    for _ in range(TRIES):
        box = draw_box(rng, height, width, how.smallest)
        if frames.crop(mask, box).sum() >= LEAST * mask.sum():
            return box
    return whole


def rotate(view: np.ndarray, mask: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotate a view and its mask about their centre; what comes in from outside is mirrored, in both."""
    centre = ((view.shape[1] - 1) / 2, (view.shape[0] - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    size = (view.shape[1], view.shape[0])
    turned = [cv2.warpAffine(np.ascontiguousarray(x), matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101) for x in (view, mask)]
    return turned[0], turned[1]


def jitter_colours(view: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Scale brightness, the distance from the mean grey, and the distance from each pixel's own grey; 1 changes nothing."""
    values = view.astype(np.float32) * brightness
    values = values.mean() + contrast * (values - values.mean())
    grey = values.mean(2, keepdims=True)
    return (grey + saturation * (values - grey)).round().clip(0, 255).astype(np.uint8)
