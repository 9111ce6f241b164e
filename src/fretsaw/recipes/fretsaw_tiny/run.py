"""A run of the recipe fretsaw_tiny."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fretsaw.backbones import sam2
from fretsaw.data.views import list_photos
from fretsaw.images import write_bytes
from fretsaw.methods.sam_clicks import SamClicks, build_sam2
from fretsaw.recipes.fretsaw_tiny.config import FretsawTinyConfig
from fretsaw.recipes.fretsaw_tiny.cut import cut
from fretsaw.recipes.fretsaw_tiny.files import export, state_of, with_decoder
from fretsaw.recipes.fretsaw_tiny.steps import FretsawTinyDistillation, agreement
from fretsaw.recipes.fretsaw_tiny.views import seen
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.embeddings import stack, to_device
from fretsaw.training.loop import Schedule, Watcher, cosine, fit, say
from fretsaw.training.provenance import settings_text
from fretsaw.training.stored_views import StoredViews
from fretsaw.types import ImageEmbedding
from fretsaw.weights import load_state_dict

Config = FretsawTinyConfig
"""What `fretsaw train` fills in for this recipe."""


def length(config: FretsawTinyConfig) -> int:
    """Return the number of steps of a run."""
    return config.steps


def run(config: FretsawTinyConfig, watcher: Watcher | None = None) -> int:
    """Cut, train, and write `out`/student.safetensors: a whole SAM 2 with three stages in half precision, which `fretsaw.load` opens.

    Returns:
        The number of steps made.

    Raises:
        ConfigError: If the photos are a set's that is held out.
        DataError: If there are no photos.
        WeightsError: If the teacher's weights are missing and cannot be fetched.
    """
    from fretsaw import catalog

    excluded = [Path(file) for file in config.exclude.split(",") if file]
    photos = list_photos([Path(folder) for folder in config.photos.split(",")], excluded, config.allow_held_out.split(","))
    file = Path(config.teacher) if config.teacher not in catalog.CATALOGUE else catalog.weights_path(config.teacher)
    weights = load_state_dict(file)
    teacher = catalog.build(config.teacher, size=config.size).clicks
    assert teacher is not None
    done, student = train(config, weights, sam2.HIERA_SHORT, teacher, photos, watcher)
    facts = {"steps": str(done), "base": config.teacher, "base_checksum": teacher.checksum, "size": str(config.side), "settings": settings_text(config)}
    state = state_of(student, weights, teacher)
    if config.decoder:
        state = with_decoder(state, Path(config.decoder), config.share)
    export(state, Path(config.out) / "student.safetensors", facts)
    return done


def train(
    config: FretsawTinyConfig, weights: Mapping[str, Tensor], table: Mapping[str, Any], teacher: SamClicks, photos: list[Path], watcher: Watcher | None = None
) -> tuple[int, SamClicks]:
    """Cut the student out of the teacher and let it learn, or go on with both; returns the number of steps made and the student."""
    teacher.requires_grad_(False).to(config.device)
    cache = EmbeddingCache(Path(config.cache or f"{config.out}/views"), teacher.checksum, teacher.preprocessing.key)
    views = StoredViews(photos, teacher, config.size, config.seed, cache, config.device, seen)
    started = Path(config.out) / "start.safetensors"
    if started.exists():  # the cut is fitted once a run
        student = build_sam2(load_state_dict(started), table, config.size)
    else:
        if config.start:
            student = build_sam2(load_state_dict(Path(config.start)), table, config.size)
        else:
            student = cut(weights, table, teacher, views, config, partial(say, watcher))
        started.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(started, save(state_of(student, weights, teacher)))
    student.to(config.device)
    model = FretsawTinyDistillation(student, teacher, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=config.rate, weight_decay=config.weight_decay)

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
        watcher=watcher,
        validate=lambda _: agreement(student, teacher, views, config),
        validate_every=config.validate_every,
    )
    return done, student
