"""From windows to one map: where the windows lie, how their features are joined, and how SAM's correlation spreads them over the whole image.

Source: Trident (Shi et al. 2024), sections 3.2 and 3.3, "splice, then segment".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.errors import ConfigError

LONGEST = 2048
"""No side of the image is larger for CLIP, however long the image is."""

HIGHEST_THRESHOLD = 0.9
ROWS_AT_ONCE = 256

Window = tuple[int, int, int, int]
"""y0, x0, y1, x1, half open, in pixels or in patches."""


def content_size(height: int, width: int, short_side: int, patch: int, crop: int) -> tuple[int, int]:
    """Return the size at which CLIP sees an image: the short side as asked for, then both sides up to multiples of the patch, at least a crop.

    Source: Trident (Shi et al. 2024), published code, `preprocess_image`.

    Deviation: the reference resizes twice, to the short side and then to multiples; here both sizes are computed and the image is resized once.
    """
    scale = min(short_side / min(height, width), LONGEST / max(height, width))
    rows, columns = int(height * scale + 0.5), int(width * scale + 0.5)
    if rows % patch or columns % patch:
        longer = max(rows, columns)
        factor = -(-longer // patch) * patch / longer
        rows, columns = int(rows * factor), int(columns * factor)
    rows, columns = (max(-(-side // patch) * patch, crop) for side in (rows, columns))
    return rows, columns


def windows(height: int, width: int, crop: int, stride: int) -> list[Window]:
    """Return the windows that cover an image, row by row; the last of a row or column is moved back so that it ends with the image."""

    def starts(length: int) -> list[int]:
        count = max(length - crop + stride - 1, 0) // stride + 1
        return [max(min(i * stride, length - crop), 0) for i in range(count)]

    return [(y, x, min(y + crop, height), min(x + crop, width)) for y in starts(height) for x in starts(width)]


def check_windows(crop: int, stride: int, patches: Sequence[int]) -> None:
    """Refuse windows that patches do not fit into.

    Raises:
        ConfigError: If a patch does not divide the crop, or CLIP's, the first, the stride.
    """
    for patch in patches:
        if crop % patch or crop < patch:
            raise ConfigError(f"expected a crop that is a multiple of the patch ({patch}), got {crop}")
    if stride % patches[0] or not 0 < stride <= crop:
        raise ConfigError(f"expected a stride of 1 to {crop} pixels that is a multiple of CLIP's patch ({patches[0]}), got {stride}")


def splice(features: Iterable[Tensor], coords: Sequence[Window], grid: tuple[int, int], tokens: tuple[int, int]) -> Tensor:
    """Join the windows' features into one map; where windows overlap, their mean.

    Args:
        features: (C, h', w') per window; taken one after the other.
        coords: Where each lies, in CLIP's patches.
        grid: CLIP's patches of the whole image.
        tokens: CLIP's patches of a window; features finer than that by a whole factor keep their resolution, others are resampled to the nearest factor.

    Returns:
        (C, grid * factor).

    Source: Trident (Shi et al. 2024), section 3.2.
    """
    total = count = torch.empty(0)
    factor = 0
    for feature, (y0, x0, y1, x1) in zip(features, coords, strict=True):
        if not factor:
            factor = max(1, round(feature.shape[-2] / tokens[0]))
            total = feature.new_zeros(feature.shape[0], grid[0] * factor, grid[1] * factor)
            count = total.new_zeros(total.shape[1:])
        rows, columns = slice(y0 * factor, y1 * factor), slice(x0 * factor, x1 * factor)
        size = ((y1 - y0) * factor, (x1 - x0) * factor)
        if feature.shape[-2:] != size:
            feature = F.interpolate(feature[None], size=size, mode="bilinear", align_corners=False)[0]
        total[:, rows, columns] += feature
        count[rows, columns] += 1
    return total.div_(count)


def spread(features: Tensor, correlation: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a map (C, h, w) to SAM's grid and let every place take up the places that SAM correlates it with.

    Args:
        features: The spliced map.
        correlation: (N, N), rows sum to 1, N = h' w'.
        grid: (h', w').

    Returns:
        (C, h', w').

    Source: Trident (Shi et al. 2024), section 3.3.
    """
    resized = F.interpolate(features[None], size=grid, mode="bilinear", align_corners=False)[0]
    return (resized.flatten(1) @ correlation.T).unflatten(1, grid)


def sam_correlation(attention_rows: Callable[[slice], Tensor], values: Tensor, cosine_factor: float = 1.2, negative_threshold: float | None = None) -> Tensor:
    """Return SAM's correlation between places: its last attention where the values agree, averaged over the heads, rows scaled to sum 1.

    Args:
        attention_rows: Given a slice of places, returns their attention (heads, rows, N) after the softmax; called for a few rows at a time, since all of
            them for all heads would take 0.8 GB.
        values: (heads, N, c) of SAM's last block.
        cosine_factor: A pair counts if the cosine of its values exceeds this multiple of the row's mean (at most 0.9).
        negative_threshold: The threshold where the mean is negative; None takes the multiple of the mean there too.

    Returns:
        (N, N).

    Source: Trident (Shi et al. 2024), section 3.3, and its published code.
    """
    units = F.normalize(values, dim=-1)
    heads, places = units.shape[:2]
    threshold = cosine_factor * torch.einsum("anc,ac->n", units, units.mean(dim=1)) / heads
    if negative_threshold is not None:
        threshold = threshold.masked_fill(threshold < 0, negative_threshold)
    threshold = threshold.clamp_max(HIGHEST_THRESHOLD)
    result = units.new_empty(places, places)
    for start in range(0, places, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, places))
        cosine = units[:, rows] @ units.transpose(1, 2)
        kept = attention_rows(rows).masked_fill(cosine <= threshold[None, rows, None], 0)
        total = kept.mean(dim=0)
        result[rows] = total / total.sum(dim=-1, keepdim=True)
    return result
