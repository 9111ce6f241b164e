"""Fixed views of photos, as the teacher and the frozen stem encode them."""

from __future__ import annotations

from pathlib import Path

import torch

from fretsaw.data.views import PhotoViews, fingerprint
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.training.embedding_cache import SHARD_VIEWS, EmbeddingCache
from fretsaw.training.embeddings import normalise
from fretsaw.types import ImageEmbedding

STEM = "stage2"
"""The tap that holds what the stem computes."""


class StemViews:
    """Fixed views of photos as the teacher and the frozen stem see them; stored a shard at a time, when the first of it is asked for.

    Args:
        photos: Files; their names and sizes are part of a view's key, so that another selection does not take these views for its own.
        teacher: Whose image encoder is SAM 2's.
        size: Side of a view.
        seed: Of the views.
        cache: Where they lie.
        device: Where the teacher computes.
    """

    def __init__(self, photos: list[Path], teacher: SamClicks, size: int, seed: int, cache: EmbeddingCache, device: str) -> None:
        self._views = PhotoViews(photos, size, seed)
        self._prefix = f"{fingerprint(photos)[:12]}-{size}-{seed}-"
        self._teacher, self._cache, self._device = teacher, cache, device

    def __getitem__(self, index: int) -> ImageEmbedding:
        """Return the teacher's embedding of a view, B = 1, with the stem's map as the tap `STEM`."""
        if self._key(index) not in self._cache:
            first = index - index % SHARD_VIEWS
            self._cache.fill((self._key(i) for i in range(first, first + SHARD_VIEWS)), self._compute)
        return self._cache.get(self._key(index))

    def _key(self, index: int) -> str:
        return f"{self._prefix}{index}"

    def _compute(self, key: str) -> ImageEmbedding:
        pixels = normalise(self._views[int(key.removeprefix(self._prefix))][None], self._teacher.preprocessing, self._device)
        with torch.no_grad():
            return self._teacher.encoder(pixels, (STEM,))
