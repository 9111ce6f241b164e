"""The train and validation splits of PMG-SAM's recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fretsaw.data.datasets import OBJECT_SETS, guess_name, open_dataset, split
from fretsaw.data.layouts import read_list
from fretsaw.data.parts import part_by_list, require_part, stated_part
from fretsaw.data.samples import Sample
from fretsaw.errors import DataError
from fretsaw.recipes.pmg_sam.config import PmgSamConfig
from fretsaw.recipes.pmg_sam.frozen import Frozen


@dataclass(frozen=True, slots=True)
class PmgSplits:
    """The train and the validation split."""

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
    """Return at most `most` samples, evenly spaced, the first and the last included."""
    if len(samples) <= most:
        return samples
    return [samples[int(place)] for place in np.linspace(0, len(samples) - 1, most)]


def hold_out(samples: Sequence[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """Split samples by image, in an order drawn once and for all: (training part, held-out part with at least one image)."""
    images = sorted({sample.image for sample in samples})
    order = np.random.default_rng(0).permutation(len(images))
    held = {images[int(i)] for i in order[: max(1, round(share * len(images)))]}
    return [s for s in samples if s.image not in held], [s for s in samples if s.image in held]
