"""One training step of hrsam_lite, and which parameters learn at which rate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.hrsam_lite.config import HrsamLiteConfig
from fretsaw.training.embeddings import normalise
from fretsaw.training.losses import standardised_mse
from fretsaw.training.precision import autocast, precision_named
from fretsaw.training.prompt_losses import prompted_losses
from fretsaw.types import ImageEmbedding


def map_losses(student: ImageEmbedding, teacher: ImageEmbedding) -> list[Tensor]:
    """Return the distance of each of the student's maps from the teacher's: final, then high resolution, finest first (HRSAM, equation 20)."""
    pairs = zip((student.final, *student.high_res), (teacher.final, *teacher.high_res), strict=True)
    return [standardised_mse(ours, theirs) for ours, theirs in pairs]


class HrsamLiteDistillation(nn.Module):
    """The student and the frozen teacher; `step` is what the loop calls."""

    def __init__(self, student: nn.Module, teacher: SamClicks, config: HrsamLiteConfig) -> None:
        super().__init__()
        self.student = student
        self._teacher = [teacher.requires_grad_(False)]  # in a list: not a submodule, so it is not part of the checkpoint
        self._config = config

    def step(self, views: Tensor, done: int) -> Mapping[str, Tensor]:
        """Return the losses for views (B, 3, S, S) uint8."""
        config, teacher = self._config, self._teacher[0]
        pixels = normalise(views, teacher.preprocessing, config.device)
        with torch.no_grad():
            theirs = teacher.encode(pixels)
        with autocast(config.device, precision_named(config.dtype)):
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
