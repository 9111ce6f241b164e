"""Fixed views of photos beside what the teacher makes of them, kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fretsaw.data.views import PhotoViews, fingerprint
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.training.embedding_cache import SHARD_VIEWS, EmbeddingCache
from fretsaw.training.embeddings import normalise
from fretsaw.types import ImageEmbedding

ENTRY = "entry"
"""The tap that holds what the first block with global attention sees, (B, h, w, C)."""


def attended(block: int) -> str:
    """Return the name of the tap that holds the teacher's map behind a block's attention, before its MLP, (B, h, w, C)."""
    return f"attended{block}"


class StoredViews:
    """Fixed views as the teacher sees them; stored a shard at a time, when the first of it is asked for.

    Args:
        photos: Files; their names and sizes are part of a view's key, so that another selection does not take these views for its own.
        teacher: Whose image encoder is SAM 2's.
        size: Side of a view.
        seed: Of the views.
        cache: Where they lie.
        device: Where the teacher computes.
    """

    def __init__(self, photos: Sequence[Path], teacher: SamClicks, size: int, seed: int, cache: EmbeddingCache, device: str) -> None:
        self._views = PhotoViews(photos, size, seed)
        self._prefix = f"{fingerprint(photos)[:12]}-{size}-{seed}-"
        self._teacher, self._cache, self._device = teacher, cache, device

    def __getitem__(self, index: int) -> ImageEmbedding:
        """Return the teacher's embedding of a view, B = 1, with the taps `ENTRY` and `attended` of each block with global attention."""
        if self._key(index) not in self._cache:
            first = index - index % SHARD_VIEWS
            self._cache.fill((self._key(i) for i in range(first, first + SHARD_VIEWS)), self._compute)
        return self._cache.get(self._key(index))

    def _key(self, index: int) -> str:
        return f"{self._prefix}{index}"

    def _compute(self, key: str) -> ImageEmbedding:
        pixels = normalise(self._views[int(key.removeprefix(self._prefix))][None], self._teacher.preprocessing, self._device)
        return seen(self._teacher, pixels)


def seen(teacher: SamClicks, pixels: Tensor) -> ImageEmbedding:
    """Return SAM 2's embedding of pixels with what `StoredViews` keeps of its blocks."""
    encoder: Any = teacher.image_encoder
    taps: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> Any:
        return module.register_forward_pre_hook(lambda _module, inputs: taps.__setitem__(name, inputs[0]))

    numbers = encoder.mixed_layers()
    hooks = [keep(ENTRY, encoder.trunk.blocks[numbers[0]])]
    hooks += [keep(attended(number), encoder.trunk.blocks[number].layer_norm2) for number in numbers]
    try:
        with torch.no_grad():
            embedding = teacher.encoder(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return ImageEmbedding(embedding.final, embedding.high_res, taps)
