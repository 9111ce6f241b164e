"""A run of the recipe hrsam_lite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fretsaw.data.views import PhotoViews, list_photos
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.hrsam_lite.config import HrsamLiteConfig
from fretsaw.recipes.hrsam_lite.steps import HrsamLiteDistillation, freeze, parameter_groups
from fretsaw.training.loop import Schedule, Watcher, cosine, fit
from fretsaw.training.precision import precision_named
from fretsaw.training.provenance import settings_text

Config = HrsamLiteConfig
"""What `fretsaw train` fills in for this recipe."""


def length(config: HrsamLiteConfig) -> int:
    """Return the number of steps of a run."""
    return config.steps


def run(config: HrsamLiteConfig, watcher: Watcher | None = None) -> int:
    """Build student and teacher, train, and write `out`/student.safetensors, half precision, which `start` of a later run takes.

    Raises:
        ConfigError: If the photos are a set's that is held out.
        DataError: If there are no photos.
        WeightsError: If the teacher's or the trunk's weights are missing and cannot be fetched.
    """
    from fretsaw import catalog
    from fretsaw.methods.hrsam_lite import HrsamLiteEncoder
    from fretsaw.weights import load_state_dict, load_strictly

    _photos(config)
    student = HrsamLiteEncoder()
    if config.start:
        load_strictly(student, {name: tensor.float() for name, tensor in load_state_dict(Path(config.start)).items()})
    else:
        student.load_trunk(load_state_dict(Path(config.trunk) if config.trunk else catalog.weights_path("efficientnet-lite0")))
    teacher = catalog.build(config.teacher, size=config.size).clicks
    assert teacher is not None
    teacher = teacher.to(config.device).to_precision(precision_named(config.dtype))
    done = train(config, student, teacher, watcher)
    facts = {"steps": str(done), "teacher": teacher.checksum, "base": config.stated or config.teacher, "size": str(config.size)}
    export(student, Path(config.out) / "student.safetensors", {**facts, "config": settings_text(config)})
    return done


def train(config: HrsamLiteConfig, student: nn.Module, teacher: SamClicks, watcher: Watcher | None = None) -> int:
    """Run the recipe, or continue it; returns the number of steps made. The student's weights lie in `out`/checkpoint.pt under `student.`"""
    photos = _photos(config)
    student.to(config.device).train()
    freeze(student, config.frozen)
    distillation = HrsamLiteDistillation(student, teacher, config)
    optimizer = torch.optim.AdamW(parameter_groups(student, config), betas=(0.9, 0.999))
    schedule = Schedule(config.steps, config.warmup, decay=cosine)
    views = PhotoViews(photos, config.size, config.seed)

    def batches(first: int) -> Iterator[Tensor]:
        order: Sequence[int] = range(first * config.batch, config.steps * config.batch)
        return itertools.chain(DataLoader(views, config.batch, sampler=order, num_workers=config.workers, persistent_workers=config.workers > 0))

    return fit(
        distillation,
        distillation.step,
        batches,
        optimizer,
        schedule,
        Path(config.out),
        seed=config.seed,
        minutes=config.minutes or None,
        watcher=watcher,
    )


def _photos(config: HrsamLiteConfig) -> list[Path]:
    excluded = [Path(file) for file in config.exclude.split(",") if file]
    return list_photos([Path(folder) for folder in config.photos.split(",")], excluded, config.allow_held_out.split(","))


def export(student: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a student's parameters in half precision with what they were made from."""
    from safetensors.torch import save

    from fretsaw.images import write_bytes

    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in student.state_dict().items()}
    write_bytes(path, save(tensors, {"recipe": "hrsam_lite", **metadata}))
