"""Batches for networks that learn from clicks on a frozen image encoder: pixels, stored embedding and one object's truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fretsaw.data.click_samples import Photo
from fretsaw.errors import DataError
from fretsaw.frames import MASK_PROMPT_LOGIT, Frame, Preprocessing, mask_to_logits
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.embeddings import stack, to_device
from fretsaw.types import ImageEmbedding

TRIES = 20
"""The most draws for one item before a data set counts as one whose objects are all empty."""


@dataclass(frozen=True, slots=True)
class ClickBatch:
    """Objects to click, one an image.

    Attributes:
        pixels: (B, 3, S, S) normalised.
        embedding: Of the frozen encoder, B images.
        coverage: (B, 1, k S/4, k S/4) float32, the share of each pixel of the decoder's map, or of one k times finer, that the object covers.
        valid: (B, 1, k S/4, k S/4) float32, 1 where the truth is known and inside the photo, else 0.
    """

    pixels: Tensor
    embedding: ImageEmbedding
    coverage: Tensor
    valid: Tensor

    def to(self, device: torch.device | str) -> ClickBatch:
        """Return the batch on a device."""
        return ClickBatch(self.pixels.to(device), to_device(self.embedding, device), self.coverage.to(device), self.valid.to(device))


class ClickObjects(Dataset[ClickBatch]):
    """An endless list of objects, item i a pure function of (seed, i): a photo that is drawn among all, then one of its objects.

    Args:
        photos: Those with objects whose embedding is stored; others are left out.
        cache: Embeddings by the photos' keys.
        preprocessing: Of the encoder that made them.
        seed: Of everything drawn.
        map_scale: k, side of the truth's maps over that of the decoder's.

    Raises:
        DataError: If no photo is left.
    """

    def __init__(self, photos: Sequence[Photo], cache: EmbeddingCache, preprocessing: Preprocessing, seed: int = 0, map_scale: int = 1) -> None:
        self._photos = [photo for photo in photos if photo.objects and photo.key in cache]
        if not self._photos:
            raise DataError(f"expected photos with objects and stored embeddings, got none among {len(photos)}")
        self._cache, self._preprocessing, self._seed, self._map_scale = cache, preprocessing, seed, map_scale

    def __len__(self) -> int:
        return 2**62

    @property
    def photos(self) -> int:
        """How many photos are in use."""
        return len(self._photos)

    def __getitem__(self, index: int) -> ClickBatch:
        """Return object `index`, a batch of one."""
        rng = np.random.default_rng((self._seed, index))
        drawn = ""
        for _ in range(TRIES):
            photo = self._photos[rng.integers(len(self._photos))]
            sample = photo.objects[rng.integers(len(photo.objects))]
            drawn = sample.name
            image, truth = sample.read()
            coverage, valid = truth_maps(truth, self._preprocessing, self._map_scale)
            if bool((coverage > 0.5).any()):
                return ClickBatch(torch.from_numpy(self._preprocessing.pixels_of(image)), self._cache.get(photo.key), coverage, valid)  # pyright: ignore[reportUnknownMemberType]
        raise DataError(f"expected objects that are larger than a pixel of the decoder's map, got none in {TRIES} draws, the last of them {drawn}")


def truth_maps(truth: np.ndarray, preprocessing: Preprocessing, map_scale: int = 1) -> tuple[Tensor, Tensor]:
    """Return a truth (H, W) int8 of 1, 0, -1 as coverage and validity, (1, 1, k S/4, k S/4) float32 each; k = `map_scale`, 1 for the decoder's size."""
    frame, size = preprocessing.frame_of(truth), map_scale * preprocessing.logit_side

    def share(mask: np.ndarray) -> Tensor:
        return (torch.from_numpy(mask_to_logits(mask, frame, size)) / (2 * MASK_PROMPT_LOGIT) + 0.5).clamp(0, 1)  # pyright: ignore[reportUnknownMemberType]

    known = (share(truth == -1) < 1e-3).float() if (truth == -1).any() else 1.0
    return share(truth == 1), known * _inside(frame, size)


def _inside(frame: Frame, size: int) -> Tensor:
    """Return 1 where a map of side `size` shows the photo, and 0 in the frame's padding."""
    inside = torch.zeros(1, 1, size, size)
    inside[..., : round(size * frame.content_height / frame.size), : round(size * frame.content_width / frame.size)] = 1
    return inside


def collate(items: Sequence[ClickBatch]) -> ClickBatch:
    """Join batches of one object."""
    embedding = stack([item.embedding for item in items])
    return ClickBatch(
        torch.cat([item.pixels for item in items]), embedding, torch.cat([item.coverage for item in items]), torch.cat([item.valid for item in items])
    )
