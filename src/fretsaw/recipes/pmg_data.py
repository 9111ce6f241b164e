"""What PMG-SAM trains on: parts of image sets, and the frozen networks' features of views, computed on the fly or read from disk.

Source: PMG-SAM (paper 001), section 4.3.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fretsaw.backbones.u2net import FULL, SIDE, U2Net, load_u2netp, saliency_map
from fretsaw.data.augment import PLAIN, MaskViews
from fretsaw.data.datasets import OBJECT_SETS, guess_name, open_dataset, split
from fretsaw.data.layouts import read_list
from fretsaw.data.parts import part_by_list, require_part, stated_part
from fretsaw.data.samples import Sample
from fretsaw.errors import ConfigError, DataError, ModelError
from fretsaw.images import write_bytes
from fretsaw.methods.pmg_sam.build import U2NET_FULL, U2NET_SMALL
from fretsaw.methods.pmg_sam.pairing import DualBranch, DualFeatures, stage_taps, stages_of
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.training.embedding_cache import EmbeddingCache, counted
from fretsaw.types import ImageEmbedding

if TYPE_CHECKING:
    from fretsaw.recipes.pmg_sam import PmgSamConfig


@dataclass(frozen=True, slots=True)
class PmgSplits:
    """What is trained on and what is validated on."""

    train: Sequence[Sample]
    validate: Sequence[Sample]


def open_parts(config: PmgSamConfig, frozen: Frozen | None) -> PmgSplits:
    """Open the image sets of a configuration.

    Args:
        config: Its `data`, `sets`, `pseudo`, `held_out` and `salient` are read.
        frozen: Judges what is salient; None skips that, and so counts a few samples more.

    Raises:
        ConfigError: If a set without lists of its parts is held out as a whole (`fretsaw.data.parts`) and not allowed.
        DataError: If a folder, a list or a mask is missing.
    """
    root = Path(config.data)
    train: list[Sample] = []
    validate: list[Sample] = []
    for name in [name for name in config.sets.split(",") if name] or [""]:
        folder = root / name if name else root
        layout = name if name in OBJECT_SETS else guess_name(folder)
        lists = [root / "splits" / f"{name}_{part}.txt" for part in ("train", "val")]
        listed = bool(name) and all(path.is_file() for path in lists)
        require_part(layout, part_by_list(layout, stated_part(layout, folder), "train" if listed else None), allowed=config.allow_held_out.split(","))
        dataset = open_dataset(folder, layout)
        if listed:
            known = {sample.image.stem for sample in dataset.samples}
            parts = [list(split(dataset, (stem for stem in read_list(path) if stem in known), "part").samples) for path in lists]
        else:
            parts = list(hold_out(dataset.samples, config.held_out))
        train, validate = train + parts[0][: config.limit or None], validate + parts[1]
    if config.pseudo:
        train += list(open_dataset(config.pseudo, "folder").samples)
    if config.salient and frozen is not None:
        known_file = Path(config.out) / "salient.json"
        train, validate = (frozen.salient_only(part, config.salient, known_file) for part in (train, validate))
    if not train or not validate:
        raise DataError(f"expected images to train on and to validate on in {root}, got {len(train)} and {len(validate)}")
    return PmgSplits(train, evenly(validate, config.validations or len(validate)))


def evenly(samples: Sequence[Sample], most: int) -> Sequence[Sample]:
    """Return at most so many samples, evenly out of a sequence, its first and last among them."""
    if len(samples) <= most:
        return samples
    return [samples[int(place)] for place in np.linspace(0, len(samples) - 1, most)]


def hold_out(samples: Sequence[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """Split samples by image, in an order drawn once and for all: (training part, held-out part with at least one image)."""
    images = sorted({sample.image for sample in samples})
    order = np.random.default_rng(0).permutation(len(images))
    held = {images[i] for i in order[: max(1, round(share * len(images)))]}
    return [s for s in samples if s.image not in held], [s for s in samples if s.image in held]


class Frozen:
    """The image encoder and U²-Net, which make the features of views.

    Args:
        model: Whose image encoder is used; its side must be the views'.
        saliency: U²-Net, whole or small.
        level_channels: Of its six levels.
        device: Where they run.
        side: Of U²-Net's input.
    """

    def __init__(self, model: SamClicks, saliency: U2Net, level_channels: tuple[int, ...], device: str = "cpu", side: int = SIDE) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.branch = DualBranch(saliency, side, mean=model.preprocessing.mean, std=model.preprocessing.std).to(device)
        self.level_channels, self._device = level_channels, device

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the encoder's four stages, found by encoding nothing in particular."""
        side = self.model.preprocessing.size
        with torch.no_grad():
            embedding = self.model.encode(torch.zeros(1, 3, side, side), stage_taps(self.model.encoder))
        try:
            return tuple(stage.shape[1] for stage in stages_of(embedding))
        except ModelError as error:
            raise ConfigError(str(error)) from error

    @torch.no_grad()
    def features(self, views: Tensor) -> DualFeatures:
        """Return the features of views (B, 3, S, S) uint8."""
        preprocessing = self.model.preprocessing
        mean, std = (torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        pixels = (views.to(self._device).float() / 255 - mean) / std
        return self.branch(pixels, self.model.encode(pixels, stage_taps(self.model.encoder)))

    def salient_only(self, samples: Sequence[Sample], least: float, known_file: Path) -> list[Sample]:
        """Return the samples whose object stands out: the share of U²-Net's map that lies on the object is at least `least`.

        What was measured is kept in `known_file` and not measured again.
        """
        known: dict[str, float] = json.loads(known_file.read_text()) if known_file.exists() else {}
        fresh = [sample for sample in samples if sample.name not in known]
        for number, sample in enumerate(fresh):
            image, truth = sample.read()
            found = saliency_map(self.branch.saliency, image)
            known[sample.name] = float(found[truth == 1].sum() / max(float(found.sum()), 1e-6))
            if number % 100 == 99 or number == len(fresh) - 1:
                write_bytes(_made(known_file), json.dumps(known).encode())
                print(f"{number + 1} of {len(fresh)} images are judged by how much stands out", file=sys.stderr, flush=True)
        return [sample for sample in samples if known[sample.name] >= least]


class LiveFeatures:
    """Batches whose features are computed as they come: views are drawn anew in every pass."""

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

    They lie in a folder named after the samples, since a view is named by its place among them.
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
    """The view that comes at place `index`: every pass over the views is a permutation drawn from the seed."""
    turn, place = divmod(index, count)
    return int(np.random.default_rng((seed, turn, 2)).permutation(count)[place])


def _stored(features: DualFeatures) -> ImageEmbedding:
    rest = {name: tensor for name, tensor in features.named().items() if name != "final" and not name.startswith("high_res.")}
    return ImageEmbedding(features.final, features.high_res, rest)


def _loaded(embedding: ImageEmbedding) -> DualFeatures:
    high_res = {f"high_res.{i}": level for i, level in enumerate(embedding.high_res)}
    return DualFeatures.from_named({**embedding.taps, "final": embedding.final, **high_res})


def resolve(config: PmgSamConfig) -> Frozen:
    """Build the frozen networks of a configuration.

    Raises:
        ModelError: If there is no such encoder.
        WeightsError: If weights are missing and cannot be fetched.
    """
    from fretsaw import catalog
    from fretsaw.weights import load_state_dict, load_strictly

    model = catalog.build(config.encoder, size=config.size).clicks
    if model is None:
        raise ConfigError(f"expected a model with an image encoder, got {config.encoder}")
    model.to_precision(torch.bfloat16 if config.dtype == "bfloat16" else torch.float32)
    if not config.saliency:
        return Frozen(model, load_u2netp(), U2NET_SMALL, config.device)
    saliency = U2Net(FULL)
    load_strictly(saliency, load_state_dict(Path(config.saliency)))
    return Frozen(model, saliency, U2NET_FULL, config.device)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
