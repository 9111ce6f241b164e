"""The training data of GrC-SAM: views of images with their labels, and the frozen encoder's features of them, stored once or computed in every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fretsaw.data.label_folders import open_labels, open_masks, part_of
from fretsaw.data.label_views import Placement, key_of, placement, view_labels, view_picture
from fretsaw.data.samples import Sample
from fretsaw.data.truths import IGNORED
from fretsaw.errors import ConfigError
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.grc_sam.config import GrcSamConfig
from fretsaw.segmentation import BACKGROUND
from fretsaw.training.embedding_cache import EmbeddingCache, counted
from fretsaw.training.embeddings import normalise, stack
from fretsaw.types import ImageEmbedding


@dataclass(frozen=True)
class GrcData:
    """Samples by part.

    Attributes:
        train: To learn from.
        val: To choose by.
        names: Classes; () for a binary set.
        foreground: Ids that the coarse and the fine mask are to find.
    """

    train: Sequence[Sample]
    val: Sequence[Sample]
    names: tuple[str, ...]
    foreground: tuple[int, ...]


def open_data(config: GrcSamConfig) -> GrcData:
    """Open the folders of a configuration.

    Raises:
        ConfigError: If a name of the foreground is no class, class files are to be joined, or a folder is a set that is held out.
        DataError: If folders, lists or classes are missing.
    """
    folders = [Path(folder) for folder in config.data.split(",") if folder]
    lists = Path(config.splits) if config.splits else None
    if config.classes and len(folders) != 1:
        raise ConfigError(f"data: expected one folder of label maps, got {len(folders)}")
    names: tuple[str, ...] = ()
    train: list[Sample] = []
    val: list[Sample] = []
    for folder in folders:
        if config.classes:
            samples, names = open_labels(folder, config.classes)
        else:
            samples = open_masks(folder)
        train += part_of(samples, folder, "train", lists, config.allow_held_out.split(","))
        val += part_of(samples, folder, "val", lists)
    if not train:
        raise ConfigError("data: expected at least one folder, got none")
    wanted = [name.strip() for name in config.foreground.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"foreground: expected classes out of {', '.join(names) or '(a binary set has none)'}; got {unknown[0]!r}")
    return GrcData(train[: config.limit or None], val[: config.held_out or None], names, foreground_ids(names, wanted))


def foreground_ids(names: Sequence[str], wanted: Sequence[str] = ()) -> tuple[int, ...]:
    """Return the ids of the foreground: the wanted classes; without any, all but the background; 1 for a binary set."""
    if not names:
        return (1,)
    return tuple(i for i, name in enumerate(names) if (name in wanted if wanted else name != BACKGROUND))


@dataclass(frozen=True, slots=True)
class GrcBatch:
    """Views: their embedding, or their pixels where it is made in the step.

    Attributes:
        embedding: Of B views, taps included; or None.
        pixels: (B, 3, S, S) uint8; or None.
        labels: (B, S, S) uint8.
    """

    embedding: ImageEmbedding | None
    pixels: Tensor | None
    labels: Tensor


class LabelledViews(Dataset[GrcBatch]):
    """An endless list of views, in passes: each shows every image once, in an order drawn anew.

    Args:
        samples: Images and labels.
        size: S.
        views: Fixed views an image, of which a pass takes one each; 0 draws new ones.
        seed: Of everything drawn.
        cache: Features of the fixed views, or None.
    """

    def __init__(self, samples: Sequence[Sample], size: int, views: int, seed: int, cache: EmbeddingCache | None) -> None:
        self._samples, self._size, self._views, self._seed, self._cache = list(samples), size, views, seed, cache
        self._keys = {sample.image: key_of(sample.image) for sample in samples}

    def __len__(self) -> int:
        return 2**62

    def keys(self) -> list[str]:
        """Return the keys of all fixed views."""
        return [self.key(sample, number) for number in range(self._views) for sample in self._samples]

    def key(self, sample: Sample, number: int) -> str:
        """Return the name of a fixed view in the cache."""
        return f"{self._keys[sample.image]}-{self._seed if number > 1 else 0}-{number}"

    def pixels(self, key: str) -> Tensor:
        """Return the pixels of a fixed view by its key, (3, S, S) uint8."""
        content, _, number = key.split("-")
        sample = next(sample for sample in self._samples if self._keys[sample.image] == content)
        return self._pixels(sample, int(number))

    def __getitem__(self, index: int) -> GrcBatch:
        """Return view `index`, a batch of one."""
        turn, place = divmod(index, len(self._samples))
        chosen = int(np.random.default_rng((self._seed, turn)).permutation(len(self._samples))[place])
        sample = self._samples[chosen]
        # Every image goes through its fixed views in turn; they start at different ones, so that a pass holds all kinds.
        number = (turn + chosen) % self._views if self._views else turn + 2
        truth = sample.read_truth()
        labels = view_labels(np.where(truth < 0, IGNORED, truth), self._placement(sample, truth, number), self._size)
        known = torch.from_numpy(labels)[None]  # pyright: ignore[reportUnknownMemberType]
        if self._cache is None:
            return GrcBatch(None, self._pixels(sample, number)[None], known)
        return GrcBatch(self._cache.get(self.key(sample, number)), None, known)

    def _placement(self, sample: Sample, array: np.ndarray, number: int) -> Placement:
        return placement(array.shape[0], array.shape[1], self._size, number, self._seed, self._keys[sample.image])

    def _pixels(self, sample: Sample, number: int) -> Tensor:
        image = sample.read_image()
        picture = view_picture(image, self._placement(sample, image, number), self._size)
        return torch.from_numpy(picture).permute(2, 0, 1).contiguous()  # pyright: ignore[reportUnknownMemberType]


def collate(items: Sequence[GrcBatch]) -> GrcBatch:
    """Put batches of one together."""
    labels = torch.cat([item.labels for item in items])
    if items[0].embedding is None:
        return GrcBatch(None, torch.cat([item.pixels for item in items if item.pixels is not None]), labels)
    return GrcBatch(stack([item.embedding for item in items if item.embedding is not None]), None, labels)


def fill(views: LabelledViews, keys: Sequence[str], model: SamClicks, cache: EmbeddingCache, device: str, say: Callable[[str], None]) -> None:
    """Compute the features that are missing; a run that was interrupted goes on."""
    with torch.no_grad():
        cache.fill(keys, lambda key: model.encode(normalise(views.pixels(key)[None], model.preprocessing, device)), counted(cache.missing(keys), say))


def batches(views: LabelledViews, config: GrcSamConfig, first: int, steps: int) -> Iterator[GrcBatch]:
    """Yield the batches of the steps from `first` on."""
    order = range(first * config.batch, steps * config.batch)
    loader = DataLoader(views, config.batch, sampler=order, num_workers=config.workers, collate_fn=collate, persistent_workers=config.workers > 0)
    return itertools.chain(loader)
