"""hrsam-lite: a small encoder learns to stand in for SAM 2 Hiera-T's, whose prompt encoder and mask decoder stay as they are.

paper    HRSAM (Huang et al. 2024), section 4 and appendix D, setting 2 (distillation without labels), at a size that ships
command  fretsaw train hrsam_lite --set photos=FOLDER --set out=runs/lite
teacher  sam2-hiera-tiny
data     any folder of photos; no mask is read

Two losses, added: the student's three maps against the teacher's (equation 20), and, through the frozen decoder, the student's masks against the
teacher's on random prompts. The second says which errors of the maps matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fretsaw.data.views import PhotoViews, list_photos
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.training.loop import Schedule, Watcher, cosine, fit
from fretsaw.training.losses import bce, dice, standardised_mse
from fretsaw.training.provenance import settings_text
from fretsaw.types import PADDING, ImageEmbedding


@dataclass(frozen=True, slots=True)
class HrsamLiteConfig:
    """Everything that `--set key=value` can change.

    Attributes:
        photos: Folders of photos, separated by commas.
        out: Folder of the run: checkpoint, log, the student's weights.
        exclude: Files that list stems of photos to leave out, separated by commas.
        allow_held_out: Names of sets, separated by commas, that are learned from although they are held out to choose by or to report on.
        size: Side of the views in pixels.
        batch: Views per step.
        steps: Steps in all.
        rate: Peak learning rate of the new layers.
        trunk_rate: Factor on it for the pretrained trunk.
        frozen: Blocks of the pretrained trunk, from the pixels on, that stay as they are; 3 of them end at stride 4 and cost a third of a step.
        weight_decay: Of AdamW.
        warmup: Steps.
        prompts: Prompt sets per view for the loss through the decoder; 0 leaves that loss out.
        mask_weight: Weight of the loss through the decoder.
        seed: Of everything drawn.
        workers: Processes that read photos.
        minutes: Stop after so long, to be continued; 0 trains to the end.
        device: "cpu", "cuda", "mps".
        dtype: Of the teacher, and of autocast in the student: "float32" or "bfloat16".
        start: Weights to start from, an earlier stage's student.safetensors; without, the trunk starts from ImageNet.
        trunk: File of the trunk's ImageNet weights; "" takes the catalogue's.
        teacher: Name or file of the teacher.
        stated: The catalogue's name of the teacher where `teacher` is a file: what the student's file says it stands on.
    """

    photos: str
    out: str
    exclude: str = ""
    allow_held_out: str = ""
    size: int = 512
    batch: int = 2
    steps: int = 20000
    rate: float = 1e-3
    trunk_rate: float = 0.3
    frozen: int = 3
    weight_decay: float = 0.01
    warmup: int = 300
    prompts: int = 6
    mask_weight: float = 1.0
    seed: int = 0
    workers: int = 1
    minutes: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    start: str = ""
    trunk: str = ""
    teacher: str = "sam2-hiera-tiny"
    stated: str = ""
    map_weights: tuple[float, float, float] = field(default=(1.0, 0.25, 0.25))


Config = HrsamLiteConfig
"""What `fretsaw train` fills in for this recipe."""


def random_prompts(views: int, prompts: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw prompt sets of one to three clicks each, the first positive.

    Returns:
        point_coords (views, prompts, 4, 2) in the model frame and point_labels (views, prompts, 4); what is not used, and the last place, is padding.
    """
    coords = torch.rand(views, prompts, 4, 2, generator=generator) * size
    labels = (torch.rand(views, prompts, 4, generator=generator) < 0.5).long()
    labels[..., 0] = 1
    count = torch.randint(1, 4, (views, prompts, 1), generator=generator)
    labels[torch.arange(4).expand_as(labels) >= count] = PADDING
    coords[labels == PADDING] = 0
    return coords, labels


def map_losses(student: ImageEmbedding, teacher: ImageEmbedding) -> list[Tensor]:
    """Return the distance of each of the student's maps from the teacher's: final, then high resolution, finest first (HRSAM, equation 20)."""
    pairs = zip((student.final, *student.high_res), (teacher.final, *teacher.high_res), strict=True)
    return [standardised_mse(ours, theirs) for ours, theirs in pairs]


def decoder_losses(model: SamClicks, student: ImageEmbedding, teacher: ImageEmbedding, coords: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Compare the frozen decoder's answers on the student's and the teacher's embedding of one view each.

    Args:
        model: The teacher, whose prompt encoder and decoder are used.
        student: B = 1.
        teacher: B = 1.
        coords: (P, N, 2) in the model frame.
        labels: (P, N).

    Returns:
        "mask": cross-entropy and dice against the teacher's masks, all four tokens; "iou": squared difference of the predicted IoU.
    """
    prompt = model.embed_prompt(coords, labels)
    with torch.no_grad():
        target, target_iou = model.decode(teacher, prompt)
    logits, iou = model.decode(student, prompt)
    # The teacher's own probabilities are the target of the cross-entropy: it knows where it is unsure. Dice wants a decision.
    mask = bce(logits, target.sigmoid()) + dice(logits, (target > 0).float())
    return {"mask": mask.mean(), "iou": (iou - target_iou).square().mean()}


def prompted_losses(model: SamClicks, student: ImageEmbedding, teacher: ImageEmbedding, prompts: int, size: int, seed: int) -> dict[str, Tensor]:
    """Return `decoder_losses` on random prompts, the mean over all views.

    Args:
        model: The teacher.
        student: Of B views.
        teacher: Of the same views.
        prompts: Prompt sets a view.
        size: Side of the views.
        seed: Of the prompts.
    """
    coords, labels = random_prompts(len(teacher.final), prompts, size, torch.Generator().manual_seed(seed))
    coords, labels = coords.to(teacher.final.device), labels.to(teacher.final.device)
    parts = [decoder_losses(model, _row(student, i), _row(teacher, i), coords[i], labels[i]) for i in range(len(coords))]
    return {name: torch.stack([part[name] for part in parts]).mean() for name in ("mask", "iou")}


class HrsamLiteDistillation(nn.Module):
    """The student and the frozen teacher; `step` is what the loop calls."""

    def __init__(self, student: nn.Module, teacher: SamClicks, config: HrsamLiteConfig) -> None:
        super().__init__()
        self.student = student
        self._teacher = [teacher.requires_grad_(False)]  # in a list: not a submodule, so it is not part of the checkpoint
        self._config = config
        self._mean = torch.tensor(teacher.preprocessing.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(teacher.preprocessing.std).view(1, 3, 1, 1)

    def step(self, views: Tensor, done: int) -> Mapping[str, Tensor]:
        """Return the losses for views (B, 3, S, S) uint8."""
        config, teacher = self._config, self._teacher[0]
        pixels = (views.to(config.device).float() / 255 - self._mean.to(config.device)) / self._std.to(config.device)
        with torch.no_grad():
            theirs = teacher.encode(pixels)
        with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.dtype == "bfloat16"):
            ours = self.student(pixels)
        ours = ImageEmbedding(ours.final.float(), tuple(level.float() for level in ours.high_res))
        final, fine, middle = map_losses(ours, theirs)
        weights = config.map_weights
        losses = {"final": final, "fine": fine, "middle": middle}
        total = weights[0] * final + weights[1] * fine + weights[2] * middle
        if config.prompts:
            losses |= prompted_losses(teacher, ours, theirs, config.prompts, views.shape[-1], config.seed * 1_000_003 + done)
            total = total + config.mask_weight * (losses["mask"] + losses["iou"])
        return {"loss": total, **losses}


def parameter_groups(student: nn.Module, config: HrsamLiteConfig) -> list[dict[str, object]]:
    """Group the parameters: the pretrained trunk at a lower rate, and no weight decay on vectors (norms, biases)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = config.rate * (config.trunk_rate if name.startswith("trunk.") else 1)
        groups.setdefault((rate, config.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def freeze(student: nn.Module, blocks: int) -> None:
    """Keep the trunk's stem and its first blocks as they are; 0 keeps nothing."""
    for name, parameter in student.named_parameters():
        if name.startswith("trunk."):
            part, _, rest = name.removeprefix("trunk.").partition(".")
            index = int(rest.partition(".")[0]) if part == "_blocks" else -1
            parameter.requires_grad_(index >= blocks or not blocks)


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
    teacher = teacher.to(config.device).to_precision(torch.bfloat16 if config.dtype == "bfloat16" else torch.float32)
    done = train(config, student, teacher, watcher)
    facts = {"steps": str(done), "teacher": teacher.checksum, "base": config.stated or config.teacher, "size": str(config.size)}
    export(student, Path(config.out) / "student.safetensors", {**facts, "config": settings_text(config)})
    return done


def export(student: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a student's parameters in half precision with what they were made from."""
    from safetensors.torch import save

    from fretsaw.images import write_bytes

    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in student.state_dict().items()}
    write_bytes(path, save(tensors, {"recipe": "hrsam_lite", **metadata}))


def _row(embedding: ImageEmbedding, index: int) -> ImageEmbedding:
    return ImageEmbedding(embedding.final[index : index + 1], tuple(level[index : index + 1] for level in embedding.high_res))
