"""Whole images in a model's own frame, for training at the size of use: photos, and objects with their truth. Item i is a pure function of (seed, i)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fretsaw import frames
from fretsaw.data.colours import distort_colours
from fretsaw.data.datasets import open_part
from fretsaw.data.layouts import IMAGE_FOLDERS, MASK_FOLDERS
from fretsaw.data.samples import Sample
from fretsaw.data.views import list_photos
from fretsaw.errors import DataError
from fretsaw.layers.resampling import resize_image

TRIES = 20
"""Draws before a set whose objects are all empty is given up."""


def photo_files(places: Sequence[Path], exclude: Sequence[Path] = (), allowed: Collection[str] = ()) -> list[Path]:
    """Return the photos of several places, each once.

    Args:
        places: Folders of photos, searched with their subfolders; folders of images with masks, of which the masks are left out; COCO or LVIS files.
        exclude: Files that list stems of photos to leave out, one a line.
        allowed: Names of held-out sets whose photos are taken all the same.

    Raises:
        ConfigError: If a place is held out (`fretsaw.data.parts`), nothing of it is left out and it is not allowed.
        DataError: If a place does not exist or no photo is left.
    """
    left_out = {line.strip() for path in exclude for line in path.read_text().splitlines() if line.strip()}
    found: list[Path] = []
    for place in places:
        if place.suffix.lower() == ".json":
            found += [sample.image for sample in open_part(place, allowed=allowed).samples if sample.image.stem not in left_out]
            continue
        parts = [place / name for name in IMAGE_FOLDERS if (place / name).is_dir()] if any((place / name).is_dir() for name in MASK_FOLDERS) else []
        found += list_photos(parts or [place], exclude, allowed)
    found = list(dict.fromkeys(found))
    if not found:
        raise DataError(f"expected photos in {', '.join(map(str, places))}, found none")
    return found


def to_frame(image: np.ndarray, preprocessing: frames.Preprocessing, colours: np.random.Generator | None = None) -> Tensor:
    """Bring an image into a model's frame, its colours distorted if a generator is given.

    Args:
        image: (H, W, 3) uint8 RGB.
        preprocessing: Of the model.
        colours: Draws the distortion, which happens at the model's size, where it costs least.

    Returns:
        (3, S, S) float32; padding is exactly 0.
    """
    frame = preprocessing.frame_of(image)
    small = resize_image(np.ascontiguousarray(image), frame.content_height, frame.content_width)
    if colours is not None:
        small = distort_colours(small, colours)
    placed = replace(frame, height=frame.content_height, width=frame.content_width)
    return torch.from_numpy(frames.to_pixels(small, placed, preprocessing.mean, preprocessing.std))[0]


def truth_in_frame(truth: np.ndarray, preprocessing: frames.Preprocessing) -> np.ndarray:
    """Bring a truth (H, W) int8 of 1, 0, -1 into a model's frame, (S, S) int8; padding is background."""
    frame = preprocessing.frame_of(truth)
    placed = np.zeros((frame.size, frame.size), np.int8)
    part = placed[: frame.content_height, : frame.content_width]
    for value in (1, -1):
        part[frames.resize_map((truth == value).astype(np.float32), *part.shape) >= 0.5] = value
    return placed


@dataclass(frozen=True)
class ObjectView:
    """What a network that learns from clicks is shown.

    Attributes:
        pixels: (3, S, S) float32, or (B, 3, S, S).
        truth: (S, S) int8 of 1, 0, -1, or (B, S, S).
        place: Number of the place that the object is from, (B,) or ().
    """

    pixels: Tensor
    truth: Tensor
    place: Tensor


class ObjectViews(Dataset[ObjectView]):
    """An endless list of objects: an image is drawn, then one of its objects; mirrored half of the time, colours distorted.

    Args:
        places: Samples of each place.
        preprocessing: Of the model.
        seed: Of everything drawn.

    Raises:
        DataError: If there is no sample.
    """

    def __init__(self, places: Sequence[Sequence[Sample]], preprocessing: frames.Preprocessing, seed: int = 0) -> None:
        images: dict[tuple[int, Path], list[Sample]] = {}
        for number, samples in enumerate(places):
            for sample in samples:
                images.setdefault((number, sample.image), []).append(sample)
        if not images:
            raise DataError("expected at least one object to learn from, got none")
        self._images = [(number, samples) for (number, _), samples in images.items()]
        self._preprocessing, self._seed = preprocessing, seed

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> ObjectView:
        """Return object `index`; a sample that cannot be read raises its DataError or ImageError."""
        rng = np.random.default_rng((self._seed, index))
        for _ in range(TRIES):
            number, samples = self._images[rng.integers(len(self._images))]
            sample = samples[rng.integers(len(samples))]
            image, truth = sample.read()
            if rng.random() < 0.5:
                image, truth = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(truth[:, ::-1])
            placed = truth_in_frame(truth, self._preprocessing)
            if (placed == 1).any():
                return ObjectView(to_frame(image, self._preprocessing, rng), torch.from_numpy(placed), torch.tensor(number))
        raise DataError(f"expected objects that are larger than a pixel of the model's frame, got none in {TRIES} draws, the last of them {sample.name}")


def stack(views: Sequence[ObjectView]) -> ObjectView:
    """Put objects together to a batch."""
    return ObjectView(*(torch.stack([getattr(view, name) for view in views]) for name in ("pixels", "truth", "place")))
