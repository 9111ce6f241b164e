"""Compare two embeddings through a frozen mask decoder: its answers to the same random prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.training.embeddings import row
from fretsaw.training.losses import bce, dice
from fretsaw.types import PADDING, ImageEmbedding


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
    # The target of the cross-entropy is the teacher's probabilities, which show where the teacher is unsure. Dice needs a binary target.
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
    parts = [decoder_losses(model, row(student, i), row(teacher, i), coords[i], labels[i]) for i in range(len(coords))]
    return {name: torch.stack([part[name] for part in parts]).mean() for name in ("mask", "iou")}
