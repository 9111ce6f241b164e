"""The recipe fretsaw_hr: how a run is put together."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fretsaw.backbones.sam2 import Sam2ImageEncoder
from fretsaw.data.views import list_photos
from fretsaw.errors import ConfigError
from fretsaw.images import write_bytes
from fretsaw.methods.fretsaw_hr import STRIDE, HighResolutionEncoder, HighResolutionParts, change_of, describe_parts
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.fretsaw_hr.config import FretsawHrConfig
from fretsaw.recipes.fretsaw_hr.data import seen
from fretsaw.recipes.fretsaw_hr.fitting import fit_student
from fretsaw.recipes.fretsaw_hr.steps import FretsawHrDistillation, agreement, parameter_groups
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.embeddings import stack, to_device
from fretsaw.training.loop import Schedule, Watcher, cosine, fit, say
from fretsaw.training.provenance import settings_text
from fretsaw.training.stored_views import StoredViews
from fretsaw.types import ImageEmbedding
from fretsaw.weights import load_state_dict, load_strictly

Config = FretsawHrConfig
"""What `fretsaw train` fills in for this recipe."""


def length(config: FretsawHrConfig) -> int:
    """Return the number of steps of a run."""
    return config.steps


def run(config: FretsawHrConfig, watcher: Watcher | None = None) -> int:
    """Fit, train, and write `out`/model.safetensors: the student as its change over the teacher, which `fretsaw.load` opens.

    Returns:
        The number of steps made.

    Raises:
        ConfigError: If the photos are a set's that is held out, the teacher is no SAM 2, or the views are so small that there is nothing to learn.
        DataError: If there are no photos.
        WeightsError: If the teacher's weights are missing and cannot be fetched.
    """
    from fretsaw import catalog

    if config.size <= STRIDE * config.anchor:
        raise ConfigError(f"expected views larger than {STRIDE * config.anchor} pixels, up to where a student with this anchor map is SAM 2, got {config.size}")
    excluded = [Path(file) for file in config.exclude.split(",") if file]
    photos = list_photos([Path(folder) for folder in config.photos.split(",")], excluded, config.allow_held_out.split(","))
    teacher = catalog.build(config.teacher, size=config.size).clicks
    if teacher is None or not isinstance(teacher.image_encoder, Sam2ImageEncoder):
        raise ConfigError(f"expected a SAM 2 as the teacher, got {config.teacher}")
    done, student = train(config, teacher, photos, watcher)
    facts = {"steps": str(done), "base": config.teacher, "base_checksum": teacher.checksum, "size": str(config.side), "settings": settings_text(config)}
    export(student, teacher, Path(config.out) / "model.safetensors", config.rank, facts)
    return done


def parts_of(config: FretsawHrConfig) -> HighResolutionParts:
    """Return what the configuration puts in place of global attention."""
    return HighResolutionParts(config.window, config.shift, True, config.anchor, config.state_size)


def train(config: FretsawHrConfig, teacher: SamClicks, photos: list[Path], watcher: Watcher | None = None) -> tuple[int, HighResolutionEncoder]:
    """Fit a student and let it learn, or go on with both; returns the number of steps made and the student."""
    teacher.requires_grad_(False).to(config.device)
    cache = EmbeddingCache(Path(config.cache or f"{config.out}/views"), teacher.checksum, teacher.preprocessing.key)
    views = StoredViews(photos, teacher, config.size, config.seed, cache, config.device, seen)
    theirs: Any = teacher.image_encoder
    torch.manual_seed(config.seed)
    student = HighResolutionEncoder(copy.deepcopy(theirs), parts_of(config)).to(config.device)
    started = Path(config.out) / "start.safetensors"
    if started.exists():  # the student is fitted once a run
        load_strictly(student, load_state_dict(started))
    else:
        if config.calibration:
            fit_student(student, teacher, views, config.calibration, partial(say, watcher))
        started.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(started, save({name: value.contiguous() for name, value in student.state_dict().items()}))
    model = FretsawHrDistillation(student, teacher, config)
    optimizer = torch.optim.AdamW(parameter_groups(model, config), betas=(0.9, 0.98))

    def batches(first: int) -> Iterator[ImageEmbedding]:
        for step in range(first, config.steps):
            places = [(step * config.batch + i) % config.views for i in range(config.batch)]
            yield to_device(stack([views[place] for place in places]), config.device)

    done = fit(
        model,
        model.step,
        batches,
        optimizer,
        Schedule(config.steps, config.warmup, decay=cosine),
        Path(config.out),
        seed=config.seed,
        minutes=config.minutes or None,
        log_every=config.log_every,
        watcher=watcher,
        validate=lambda _: agreement(student, teacher, views, config),
        validate_every=config.validate_every,
    )
    return done, student


def export(student: HighResolutionEncoder, teacher: SamClicks, path: Path, rank: int, metadata: Mapping[str, str]) -> None:
    """Write a student as its change over the teacher's encoder, in half precision, with what it was made from."""
    theirs: Any = teacher.image_encoder
    stored: dict[str, Tensor] = change_of(student, theirs, rank)
    facts = {"recipe": "fretsaw_hr", "fretsaw_hr": describe_parts(student.parts), "rank": str(rank), **metadata}
    write_bytes(path, save({name: value.detach().cpu().half().contiguous() for name, value in stored.items()}, facts))
