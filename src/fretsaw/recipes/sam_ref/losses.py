"""The losses of SAM-REF's two stages. Source: SAM-REF (Yu et al. 2024), section 3.5, equation 3."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.training.losses import bce, dice, normalised_focal

ERROR_WEIGHT = 1.5
"""Weight of the pixels where the coarse mask is wrong, in the loss on refined logits (section 3.5)."""


def refinement_losses(refined: Tensor, error_map: Tensor, coarse: Tensor, coverage: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Return one refiner's terms of equation 3, each a mean over the batch.

    Args:
        refined: (B, 1, h, w) logits after equation 1 or 2.
        error_map: (B, 1, h, w) logits.
        coarse: (B, 1, h, w) the decoder's logits.
        coverage: (B, 1, h, w) truth in [0, 1].
        valid: (B, 1, h, w) 0 where nothing is learned.

    Returns:
        "bnfl": normalised focal loss on the refined mask, pixels of the error region weighted by 1.5; "dice" and "bce" on the error map, whose target is
        where the coarse mask, decided at probability 0.5, differs from the truth.

    Source: SAM-REF, section 3.5, equation 3.
    """
    errors = ((coarse > 0) != (coverage > 0.5)).float() * valid
    # Outside `valid` the error map is replaced by a correct, certain answer, which adds nothing to the losses or their gradient.
    known = torch.where(valid > 0, error_map.float(), torch.full_like(coarse, -30.0))
    weight = valid * (1 + (ERROR_WEIGHT - 1) * errors)
    return {
        "bnfl": normalised_focal(refined.float(), coverage, weight=weight).mean(),
        "dice": dice(known, errors).mean(),
        "bce": bce(known, errors).mean(),
    }


Choose = Callable[[Tensor, Tensor], Tensor]
"""(distances from the truth (B, 3), predicted IoUs (B, 3)) -> which of the three masks learns, (B,)."""


def nearest(distance: Tensor, predicted_iou: Tensor) -> Tensor:
    """Choose the mask that is nearest to the truth."""
    return distance.argmin(1)


def answered(distance: Tensor, predicted_iou: Tensor) -> Tensor:
    """Choose the mask that the decoder would answer with: the one of the highest predicted IoU."""
    return predicted_iou.argmax(1)


def decoder_losses(logits: Tensor, predicted_iou: Tensor, coverage: Tensor, valid: Tensor, choose: Choose) -> tuple[dict[str, Tensor], Tensor]:
    """Return the losses of stage 1, each a mean over the batch, and the mask (B, 1, h, w) that they are computed on.

    Args:
        logits: (B, 4, h, w) the decoder's four masks.
        predicted_iou: (B, 4).
        coverage: (B, 1, h, w) truth in [0, 1].
        valid: (B, 1, h, w) 0 where nothing is learned.
        choose: Which of the three masks learns: `nearest` after one click, which may mean a part or the whole, as in SAM's own training; `answered` from the
            second click on.

    Returns:
        "nfl" and "dice" of that mask; "iou", the mean squared error of the three predicted IoUs, by which the answer is chosen.

    Source: SAM-REF, section 3.5 (normalised focal loss); Segment Anything (Kirillov et al. 2023), appendix A (the other terms, the nearest of three).
    """
    three, target = logits[:, 1:], coverage.expand(-1, 3, -1, -1)
    distance = normalised_focal(three, target, weight=valid.expand_as(target))
    with torch.no_grad():
        mask, truth = (three > 0) & (valid > 0), (target > 0.5) & (valid > 0)
        true_iou = (mask & truth).sum((-2, -1)) / (mask | truth).sum((-2, -1)).clamp(min=1)
        chosen = choose(distance, predicted_iou[:, 1:])
    rows = torch.arange(len(chosen), device=chosen.device)
    answer = three[rows, chosen][:, None]
    # Outside `valid` the mask is replaced by a correct, certain answer.
    known = torch.where(valid > 0, answer, torch.full_like(answer, -30.0))
    losses = {
        "nfl": distance[rows, chosen].mean(),
        "dice": dice(known, coverage * valid).mean(),
        "iou": F.mse_loss(predicted_iou[:, 1:], true_iou),
    }
    return losses, answer
