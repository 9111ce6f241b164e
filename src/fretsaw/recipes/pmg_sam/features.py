"""The frozen networks' features of views, computed in every step or stored once.

Source: PMG-SAM (paper 001), section 4.3.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fretsaw.data.augment import PLAIN, MaskViews
from fretsaw.methods.pmg_sam.pairing import DualFeatures
from fretsaw.recipes.pmg_sam.config import PmgSamConfig
from fretsaw.recipes.pmg_sam.data import PmgSplits
from fretsaw.recipes.pmg_sam.frozen import Frozen
from fretsaw.training.embedding_cache import EmbeddingCache, counted
from fretsaw.types import ImageEmbedding


class LiveFeatures:
    """Batches whose features are computed in every step, of views that are drawn anew in every pass."""

    def __init__(self, frozen: Frozen, parts: PmgSplits, config: PmgSamConfig) -> None:
        self._frozen, self._parts, self._config = frozen, parts, config

    def training_batches(self, first: int) -> Iterator[tuple[DualFeatures, Tensor]]:
        """Yield augmented batches from step `first` on, without end."""
        config = self._config
        return self._batches(MaskViews(self._parts.train, config.size, config.seed), range(first * config.batch, 2**40))

    def validation_batches(self) -> Iterator[tuple[DualFeatures, Tensor]]:
        """Yield the validation part once, not augmented."""
        return self._batches(plain_views(self._parts, self._config), range(len(self._parts.validate)))

    def _batches(self, views: MaskViews, order: range) -> Iterator[tuple[DualFeatures, Tensor]]:
        workers = self._config.workers
        for batch, target in DataLoader(views, self._config.batch, sampler=order, num_workers=workers, persistent_workers=workers > 0):
            yield self._frozen.features(batch), target.to(self._config.device)


class CachedFeatures:
    """Batches whose features were computed once, in half precision: `config.views` fixed views of each training image, and the validation part.

    The folder's name is a hash of the samples' names, because a view is named by its place among them.
    """

    def __init__(self, frozen: Frozen, parts: PmgSplits, config: PmgSamConfig) -> None:
        self._frozen, self._parts, self._config = frozen, parts, config
        names = "\n".join(sample.name for part in (parts.train, parts.validate) for sample in part)
        folder = (Path(config.cache) if config.cache else Path(config.out) / "features") / hashlib.sha256(names.encode()).hexdigest()[:12]
        self._cache = EmbeddingCache(folder, frozen.model.checksum, f"{frozen.model.preprocessing.key}-views-{config.seed}")

    def training_batches(self, first: int) -> Iterator[tuple[DualFeatures, Tensor]]:
        """Yield batches from step `first` on, without end; every pass over the views is in an order of its own."""
        config = self._config
        views = MaskViews(self._parts.train, config.size, config.seed)
        count = len(self._parts.train) * config.views
        self._fill(views, range(count), "train-")
        step = first
        while True:
            yield self._batch(views, [_place(i, count, config.seed) for i in range(step * config.batch, (step + 1) * config.batch)], "train-")
            step += 1

    def validation_batches(self) -> Iterator[tuple[DualFeatures, Tensor]]:
        """Yield the validation part once, not augmented."""
        views, every = plain_views(self._parts, self._config), range(len(self._parts.validate))
        self._fill(views, every, "val-")
        for start in every[:: self._config.batch]:
            yield self._batch(views, every[start : start + self._config.batch], "val-")

    def _fill(self, views: MaskViews, places: range, prefix: str) -> None:
        keys = [f"{prefix}{place}" for place in places]
        said = counted(self._cache.missing(keys), lambda text: print(text, file=sys.stderr, flush=True))
        self._cache.fill(keys, lambda key: _stored(self._frozen.features(views[int(key.removeprefix(prefix))][0][None])), said)

    def _batch(self, views: MaskViews, places: Sequence[int], prefix: str) -> tuple[DualFeatures, Tensor]:
        loaded = [_loaded(self._cache.get(f"{prefix}{place}")).named() for place in places]
        named = {name: torch.cat([one[name] for one in loaded]).to(self._config.device) for name in loaded[0]}
        return DualFeatures.from_named(named), torch.stack([views[place][1] for place in places]).to(self._config.device)


def plain_views(parts: PmgSplits, config: PmgSamConfig) -> MaskViews:
    """Return the validation part as it is, in its own order."""
    return MaskViews(parts.validate, config.size, augmentation=PLAIN, ordered=True)


def _place(index: int, count: int, seed: int) -> int:
    """Return the number of the view at place `index`: every pass over the views is a permutation drawn from the seed."""
    turn, place = divmod(index, count)
    return int(np.random.default_rng((seed, turn, 2)).permutation(count)[place])


def _stored(features: DualFeatures) -> ImageEmbedding:
    rest = {name: tensor for name, tensor in features.named().items() if name != "final" and not name.startswith("high_res.")}
    return ImageEmbedding(features.final, features.high_res, rest)


def _loaded(embedding: ImageEmbedding) -> DualFeatures:
    high_res = {f"high_res.{i}": level for i, level in enumerate(embedding.high_res)}
    return DualFeatures.from_named({**embedding.taps, "final": embedding.final, **high_res})
