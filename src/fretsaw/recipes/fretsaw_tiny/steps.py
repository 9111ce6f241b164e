"""One training step of fretsaw_tiny, and how near the student comes to its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.fretsaw_tiny.config import FretsawTinyConfig
from fretsaw.recipes.fretsaw_tiny.cut import third_stage
from fretsaw.recipes.fretsaw_tiny.views import STEM
from fretsaw.training.embeddings import to_device
from fretsaw.training.losses import standardised_mse
from fretsaw.training.prompt_losses import prompted_losses, random_prompts
from fretsaw.training.stored_views import StoredViews
from fretsaw.types import ImageEmbedding


def continued(encoder: Any, stem: Tensor) -> Tensor:
    """Return the student's final map from what the stem computes, (B, C, S/8, S/8)."""
    tokens = stem.permute(0, 2, 3, 1)
    for block in third_stage(encoder):
        tokens = block(tokens)
    project = encoder.neck.convs[0]
    return (F.linear(tokens, project.weight.flatten(1), project.bias) + encoder.no_memory).permute(0, 3, 1, 2)


class FretsawTinyDistillation(nn.Module):
    """The part of the student that learns, and the frozen teacher; `step` is what the loop calls."""

    def __init__(self, student: SamClicks, teacher: SamClicks, config: FretsawTinyConfig) -> None:
        super().__init__()
        encoder: Any = student.image_encoder
        self.learns = nn.ModuleList([*third_stage(encoder), encoder.neck.convs[0]]).requires_grad_(True)
        self._encoder, self._teacher = [encoder], [teacher.requires_grad_(False)]  # in lists: not submodules, so not part of the checkpoint
        self._config = config

    def step(self, views: ImageEmbedding, done: int) -> Mapping[str, Tensor]:
        """Return the losses for stored views."""
        config, teacher = self._config, self._teacher[0]
        ours = ImageEmbedding(continued(self._encoder[0], views.taps[STEM]), views.high_res)
        losses = {"final": standardised_mse(ours.final, views.final)}
        total = losses["final"]
        if config.prompts:
            losses |= prompted_losses(teacher, ours, views, config.prompts, config.size, config.seed * 1_000_003 + done)
            total = total + config.mask_weight * (losses["mask"] + losses["iou"])
        return {"loss": total, **losses}


def agreement(student: SamClicks, teacher: SamClicks, views: StoredViews, config: FretsawTinyConfig) -> dict[str, float]:
    """Return how near the student comes on held-out views: "final", as in training, and "mask IoU", of its masks with the teacher's."""
    distances: list[float] = []
    overlaps: list[Tensor] = []
    for index in range(config.views, config.views + config.held_out):
        view = to_device(views[index], config.device)
        with torch.no_grad():
            ours = ImageEmbedding(continued(student.image_encoder, view.taps[STEM]), view.high_res)
            coords, labels = random_prompts(1, 6, config.size, torch.Generator().manual_seed(index))
            prompt = teacher.embed_prompt(coords[0].to(config.device), labels[0].to(config.device))
            mine, theirs = (teacher.decode(embedding, prompt)[0] > 0 for embedding in (ours, view))
        distances.append(standardised_mse(ours.final, view.final).item())
        union = (mine | theirs).sum((-2, -1))
        overlaps.append(((mine & theirs).sum((-2, -1)) / union.clamp(min=1))[union > 0])
    return {"final": sum(distances) / len(distances), "mask IoU": torch.cat(overlaps).mean().item()}
