"""`fretsaw.masks.stability_score` in torch, for many masks at once on a device."""

from __future__ import annotations

from torch import Tensor


def stability_score(mask_logits: Tensor, threshold: float, offset: float) -> Tensor:
    """Return how little masks change when their threshold moves: the IoU between the masks at `threshold + offset` and at `threshold - offset`.

    Args:
        mask_logits: (..., H, W) floats; the work is done on their device.
        threshold: The logit that separates object and background.
        offset: How far the threshold is moved each way, >= 0.

    Returns:
        (...) float32 in [0, 1]; 0 where even the larger mask is empty.

    Source: Segment Anything (Kirillov et al. 2023), appendix B, stable masks.
    """
    # The smaller mask lies inside the larger one, so the areas alone give the IoU.
    smaller, larger = ((mask_logits > threshold + moved).sum((-2, -1)) for moved in (offset, -offset))
    return smaller / larger.clip(min=1)
