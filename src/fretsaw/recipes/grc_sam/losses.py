"""GrC-SAM's composite loss: every stage is told what it should have found.

Source: GrC-SAM (paper 000), section A.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.data.truths import IGNORED
from fretsaw.methods.grc_sam.model import GrcResult
from fretsaw.training.losses import bce, dice, focal

SMOOTHING = 0.1

SURE = 30.0
"""A logit that adds nothing to any loss where it is right."""

LEAST_PROB = 1e-4

WEIGHTS = (0.05, 0.2, 1.0)
"""Of the coarse, the fine and the final loss. Source: GrC-SAM (paper 000), section A.4."""


def composite_losses(result: GrcResult, labels: Tensor, foreground: Sequence[int], weights: tuple[float, float, float] = WEIGHTS) -> dict[str, Tensor]:
    """Return "coarse", "fine", "final" and their weighted sum "loss".

    Args:
        result: Of B images.
        labels: (B, s, s) int64 class ids, 255 where nothing is known; s a multiple of the embedding grid's side.
        foreground: Ids that the coarse and the fine mask are to find.
        weights: Of the three.

    Source: GrC-SAM (paper 000), section A.4.
    Deviation: the coarse target is the share of a patch that the foreground covers, not a decision, and predictions are brought to the side s of the labels,
        which may be smaller than the image, so that a step on a CPU is quick.
    """
    known = (labels != IGNORED).float()[:, None]
    wanted = torch.isin(labels, torch.tensor(list(foreground), device=labels.device)).float()[:, None]
    side = labels.shape[-1]
    share = side // result.coarse_mask.shape[-1]
    known_share = F.avg_pool2d(known, share)
    coverage = F.avg_pool2d(wanted, share) / known_share.clamp(min=1e-6)
    coarse_logits = torch.logit(result.coarse_mask, LEAST_PROB)
    losses = {"coarse": focal(sure(coarse_logits, coverage, known_share > 0.5), coverage).mean()}
    fine = sure(enlarged(result.fine_logits, side), wanted, known > 0)
    losses["fine"] = (bce(fine, wanted) + dice(fine, wanted)).mean()
    losses["final"] = final_loss(result.class_logits, labels)
    total = sum(weight * losses[name] for weight, name in zip(weights, ("coarse", "fine", "final"), strict=True))
    assert isinstance(total, Tensor)
    return {"loss": total, **losses}


def final_loss(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy with label smoothing of (B, K, ., .) against labels (B, s, s), ignored ones left out; K = 1 against labels of 0 and 1."""
    logits = enlarged(class_logits, labels.shape[-1])
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=SMOOTHING)
    known = (labels != IGNORED).float()
    target = (labels == 1).float() * (1 - SMOOTHING) + SMOOTHING / 2
    entropy = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    return (entropy * known).sum() / known.sum().clamp(min=1)


def sure(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Replace logits where nothing is known by sure, right answers, which add nothing to a loss or its gradient."""
    return torch.where(known, logits, torch.where(target > 0.5, SURE, -SURE))


def enlarged(logits: Tensor, side: int) -> Tensor:
    """Bring (B, K, ., .) to side x side."""
    if logits.shape[-1] == side:
        return logits
    return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
