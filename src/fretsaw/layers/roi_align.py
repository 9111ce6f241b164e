"""RoIAlign: boxes of a map resampled to one size, as two matrix products."""

from __future__ import annotations

import torch
from torch import Tensor


def roi_align(values: Tensor, boxes: Tensor, size: int, samples: int = 2) -> Tensor:
    """Resample boxes to size x size: the mean of samples x samples bilinear samples in every cell.

    Args:
        values: (P, C, h, w).
        boxes: (P, 4) x0, y0, x1, y1 in edge coordinates of the map, one a row of the batch.
        size: Side of the result.
        samples: Per cell and axis.

    Returns:
        (P, C, size, size).

    Source: Mask R-CNN (He et al. 2017), section 3, with half-pixel centres (`aligned=True` of torchvision).
    """
    rows, top, bottom = _sampling(boxes[:, 1], boxes[:, 3], values.shape[-2], size, samples)
    columns, left, right = _sampling(boxes[:, 0], boxes[:, 2], values.shape[-1], size, samples)
    part = values[..., top:bottom, left:right]
    return rows.to(part.dtype)[:, None] @ part @ columns.to(part.dtype)[:, None].mT


def _sampling(start: Tensor, end: Tensor, length: int, size: int, samples: int) -> tuple[Tensor, int, int]:
    """Return one axis of RoIAlign as a matrix, and the part of the axis that it reads.

    Bilinear samples on a regular grid factor into rows and columns: two small matrix products cost a fraction of sampling point by point.

    Returns:
        (P, size, last - first) float32 weights of pixels first .. last - 1, first and last.
    """
    start, end = start.float()[:, None], end.float()[:, None]
    places = (torch.arange(size * samples, device=start.device) + 0.5) / (size * samples)
    x = (start + places * (end - start) - 0.5).clamp(0, length - 1)
    low = x.floor().clamp(max=max(0, length - 2))
    first, last = int(low.min()), min(length, int(low.max()) + 2)
    weights = torch.zeros(*x.shape, last - first, device=x.device)
    index = (low.long() - first)[..., None]
    weights.scatter_(-1, index, (1 - x + low)[..., None])
    if length > 1:
        weights.scatter_(-1, index + 1, (x - low)[..., None])
    return weights.unflatten(1, (size, samples)).mean(2), first, last
