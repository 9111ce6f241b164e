"""Losses on mask logits: each takes logits and a target of one shape (..., h, w) and returns one number per leading index unless it says otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the last two axes."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))


def dice(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), p = sigmoid(logits), sums over the last two axes.

    Source: V-Net (Milletari et al. 2016), section 3, with the smoothed, unsquared denominator that SAM's training uses.
    """
    probs = logits.sigmoid()
    overlap = (probs * target).sum((-2, -1))
    return 1 - (2 * overlap + smooth) / (probs.sum((-2, -1)) + target.sum((-2, -1)) + smooth)


def focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross-entropy weighted by (1 - p_t)^gamma, positives by alpha and negatives by 1 - alpha; mean over the last two axes.

    Source: Focal Loss for Dense Object Detection (Lin et al. 2017), equation 5.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probs = logits.sigmoid()
    right = probs * target + (1 - probs) * (1 - target)
    balance = alpha * target + (1 - alpha) * (1 - target)
    return (balance * (1 - right) ** gamma * entropy).mean((-2, -1))


def normalised_focal(logits: Tensor, target: Tensor, alpha: float = 0.5, gamma: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Focal loss whose weights (1 - p_t)^gamma are scaled to a mean of one, so that easy images train as strongly as hard ones.

    Args:
        logits: (..., h, w).
        target: (..., h, w) in [0, 1].
        alpha: Weight of positives; negatives get 1 - alpha.
        gamma: Exponent.
        weight: (..., h, w), 0 where a pixel is ignored, above 1 where it counts more; None means 1 everywhere.

    Source: AdaptIS (Sofiiuk et al. 2019), section 4.2, as used by RITM; the scale is a constant for the gradient.
    """
    weight = torch.ones_like(target) if weight is None else weight
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probs = logits.sigmoid()
    right = probs * target + (1 - probs) * (1 - target)
    modulation = (1 - right) ** gamma
    count = weight.sum((-2, -1))
    scale = (count / ((modulation * weight).sum((-2, -1)) + EPSILON)).detach()
    balance = alpha * target + (1 - alpha) * (1 - target)
    return scale * (balance * modulation * weight * entropy).sum((-2, -1)) / (count + EPSILON)


def soft_iou(logits: Tensor, target: Tensor) -> Tensor:
    """1 - sum(p t) / sum(p + t - p t), sums over the last two axes.

    Source: Optimizing Intersection-Over-Union in Deep Neural Networks (Rahman and Wang 2016), equation 4.
    """
    probs = logits.sigmoid()
    overlap = (probs * target).sum((-2, -1))
    union = (probs + target - probs * target).sum((-2, -1))
    return 1 - (overlap + EPSILON) / (union + EPSILON)


def standardised_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps (B, C, h, w) in units of the teacher's variance, one number.

    0 is a perfect copy; a constant map with the teacher's mean has the loss 1. Losses of maps of different scale can therefore be added.

    Source: HRSAM (Huang et al. 2024), equation 20.

    Deviation: Divided by the teacher's variance, since three maps of different scale are distilled together.
    """
    return F.mse_loss(student, teacher) / teacher.var().clamp(min=EPSILON)
