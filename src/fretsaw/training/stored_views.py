"""Fixed views of photos beside what a teacher makes of them, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from fretsaw.data.views import PhotoViews, fingerprint
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.training.embedding_cache import SHARD_VIEWS, EmbeddingCache
from fretsaw.training.embeddings import normalise
from fretsaw.types import ImageEmbedding


class StoredViews:
    """Fixed views of photos as a teacher sees them; stored a shard at a time, when the first of it is asked for.

    Args:
        photos: Files; their names and sizes are part of a view's key, so that another selection does not take these views for its own.
        teacher: Whose image encoder is SAM 2's.
        size: Side of a view.
        seed: Of the views.
        cache: Where they lie.
        device: Where the teacher computes.
        see: (teacher, pixels (1, 3, S, S)) -> the embedding that is kept, with the taps that a recipe learns from.
    """

    def __init__(
        self,
        photos: Sequence[Path],
        teacher: SamClicks,
        size: int,
        seed: int,
        cache: EmbeddingCache,
        device: str,
        see: Callable[[SamClicks, Tensor], ImageEmbedding],
    ) -> None:
        self._views = PhotoViews(photos, size, seed)
        self._prefix = f"{fingerprint(photos)[:12]}-{size}-{seed}-"
        self._teacher, self._cache, self._device, self._see = teacher, cache, device, see

    def __getitem__(self, index: int) -> ImageEmbedding:
        """Return the embedding of a view, B = 1."""
        if self._key(index) not in self._cache:
            first = index - index % SHARD_VIEWS
            self._cache.fill((self._key(i) for i in range(first, first + SHARD_VIEWS)), self._compute)
        return self._cache.get(self._key(index))

    def _key(self, index: int) -> str:
        return f"{self._prefix}{index}"

    def _compute(self, key: str) -> ImageEmbedding:
        pixels = normalise(self._views[int(key.removeprefix(self._prefix))][None], self._teacher.preprocessing, self._device)
        return self._see(self._teacher, pixels)
