"""A run of HRSAM's recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from fretsaw.data.datasets import open_part
from fretsaw.data.samples import Sample
from fretsaw.data.whole_views import ObjectViews, photo_files, stack
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.hrsam.config import ON_THE_FLY, HrsamConfig
from fretsaw.recipes.hrsam.networks import export, is_model, load_student, load_teacher, parameter_groups
from fretsaw.recipes.hrsam.steps import ClickLearning, HrsamDistillation
from fretsaw.training.distillation import DistilViews, fill
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.loop import Schedule, Watcher, fit, linear, say
from fretsaw.training.processes import ONE, Processes, device_of, launch, shares
from fretsaw.training.provenance import settings_text

Config = HrsamConfig
"""What `fretsaw train` fills in for this recipe."""


def length(config: HrsamConfig) -> int:
    """Return the number of steps of a run."""
    assert config.steps is not None, "filled in from the stage"
    return config.steps


def run(config: HrsamConfig, watcher: Watcher | None = None) -> int:
    """Train, or continue, and write `out`/model.safetensors; returns the number of steps made.

    Raises:
        ConfigError: If settings or files do not fit each other, or a place is held out.
        DataError: If there are no photos or objects.
        MissingExtraError: If several processes are wanted and Lightning Fabric is missing.
        WeightsError: If the teacher's or the starting weights are missing or damaged.
    """
    if config.stage == "distil":
        _photos(config)
    else:
        _objects(config)
    processes = launch(config.devices, config.device)
    teacher = load_teacher(config) if config.stage == "distil" or not is_model(config.start) else None
    return train(config, load_student(config, teacher), teacher, watcher, processes)


def train(config: HrsamConfig, student: SamClicks, teacher: SamClicks | None, watcher: Watcher | None = None, processes: Processes = ONE) -> int:
    """Run the recipe on networks that are built already; see `run`."""
    device = device_of(processes, config.device)
    student.to(device).train()
    for network in (student.prompt_encoder, student.mask_decoder):
        network.requires_grad_(config.stage != "distil" and config.decoder == "trained")
    if config.stage == "distil":
        assert teacher is not None
        teacher.to(device).eval().requires_grad_(False)
        module, views = _distillation(config, student, teacher, watcher, processes, device)
        collate = None
    else:
        module = ClickLearning(student, device, config.dtype, config.most_clicks, config.click_decay, config.click_spread, config.seed, processes.rank)
        views, collate = ObjectViews(_objects(config), student.preprocessing, config.seed), stack
    optimizer = torch.optim.AdamW(parameter_groups(module, config), lr=config.rate, betas=(0.9, 0.999))
    steps = length(config)

    def batches(first: int) -> Iterator[Any]:
        order = shares(first, steps, config.batch, processes)
        return iter(DataLoader(views, batch_sampler=order, collate_fn=collate, num_workers=config.workers, persistent_workers=config.workers > 0))

    folder = Path(config.out)
    done = fit(
        module,
        processes.setup(module),
        batches,
        optimizer,
        Schedule(steps, config.warmup, decay=linear),
        folder,
        seed=config.seed,
        minutes=config.minutes or None,
        watcher=watcher,
        processes=processes,
        log_every=config.log_every,
        save_every=config.save_every,
    )
    if processes.rank == 0:
        export(student, folder / "model.safetensors", {"stage": config.stage, "steps": str(done), "config": settings_text(config)})
    processes.wait()
    return done


def _objects(config: HrsamConfig) -> list[list[Sample]]:
    return [list(open_part(place, allowed=config.allowed).samples) for place in config.places]


def _photos(config: HrsamConfig) -> list[Path]:
    return photo_files(config.places, [Path(file) for file in config.exclude.split(",") if file], config.allowed)


def _distillation(
    config: HrsamConfig, student: SamClicks, teacher: SamClicks, watcher: Watcher | None, processes: Processes, device: torch.device
) -> tuple[nn.Module, DistilViews]:
    """Return the module and its data; the first process stores what the teacher makes of the photos, the others wait for it."""
    photos = _photos(config)
    if config.cache == ON_THE_FLY:
        return HrsamDistillation(student.image_encoder, teacher, device, config.dtype), DistilViews(photos, config.views, teacher.preprocessing, config.seed)
    folder = Path(config.cache) if config.cache else Path(config.out) / "teacher"

    def said(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            say(watcher, f"teacher's embeddings: {done} of {total} photos")

    def store() -> tuple[EmbeddingCache, dict[str, str]]:
        cache = EmbeddingCache(folder, teacher.checksum, teacher.preprocessing.key)
        return cache, fill(cache, photos, config.views, teacher, folder / "photos.json", config.workers, said)

    if processes.rank == 0:
        cache, keys = store()
        processes.wait()
    else:
        processes.wait()
        cache, keys = store()  # all of it is there by now
    return HrsamDistillation(student.image_encoder, None, device, config.dtype), DistilViews(
        photos, config.views, teacher.preprocessing, config.seed, keys, cache
    )
