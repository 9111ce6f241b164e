"""PMG-SAM's losses. Source: PMG-SAM (paper 001), section 4.3."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.training.losses import bce, dice, soft_iou


def mask_losses(logits: Tensor, target: Tensor, iou_weight: float) -> Tensor:
    """Return BCE + dice + iou_weight x IoU loss, a mean over the batch; the target is brought to the logits' size or the logits to the target's.

    Args:
        logits: (B, 1, h, w), enlarged where the target is larger.
        target: (B, 1, S, S) in [0, 1].
        iou_weight: See `PmgSamConfig`.

    Source: PMG-SAM (paper 001), section 4.3, the total loss.
    """
    if logits.shape[-2:] != target.shape[-2:]:
        logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
    return (bce(logits, target) + dice(logits, target) + iou_weight * soft_iou(logits, target)).mean()


def coarse_pre_mask(target: Tensor, generator: torch.Generator) -> Tensor:
    """Return a truth (B, 1, S, S) as the logits (B, 1, S/4, S/4) of a pre-mask from a map 4 to 16 times coarser, with its contrast lost in part."""
    side = target.shape[-1] // 4
    factor = int(torch.randint(4, 17, (1,), generator=generator))
    small = F.adaptive_avg_pool2d(target, max(2, side // factor))
    probs = F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)
    return (2 * probs - 1) * (3 + 5 * torch.rand(1, generator=generator).item())
