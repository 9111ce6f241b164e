"""Which patches belong together: row-stochastic matrices (N, N) that mix the values of CLIP's last block.

Source: S2CLIP, figures 3 to 6; ProxyCLIP (Lan et al. 2024), equations 5 and 6; SCLIP (Wang et al. 2024) for the self-self attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SelfAttention = Literal["qq", "kk", "vv"]
BETA, GAMMA = 1.2, 3.0
"""ProxyCLIP's shift and scale of the cosine similarities."""


def unit(features: Tensor) -> Tensor:
    """Scale features (B, N, C) to length 1."""
    return F.normalize(features, dim=-1)


def mean_cosine(units: Tensor) -> Tensor:
    """Return the mean over all images and pairs of patches of the cosine similarity of unit features (B, N, C), without making the pairs: a scalar."""
    return units.mean(dim=1).square().sum(dim=-1).mean()


def patch_affinity(units: Tensor, mean: Tensor | None = None, beta: float = BETA, gamma: float = GAMMA) -> Tensor:
    """Return how strongly each patch takes part in each other one: (B, N, N), rows sum to 1.

    Similarities below `beta` times the mean take no part.

    Args:
        units: (B, N, C) features of length 1.
        mean: Their mean similarity, where it is taken over more images than these; None means over these.
        beta: Shift, as a multiple of the mean.
        gamma: Scale before the softmax.

    Source: ProxyCLIP (Lan et al. 2024), equations 5 and 6.
    """
    mean = mean_cosine(units) if mean is None else mean
    similarity = (units @ units.transpose(1, 2) - beta * mean) * gamma
    return similarity.masked_fill_(similarity < 0, float("-inf")).softmax(dim=-1)


def self_affinity(heads: Tensor) -> Tensor:
    """Return the attention of queries to queries (keys to keys, values to values): (B, heads, N, c) -> (B, heads, N, N), rows sum to 1.

    Source: S2CLIP, figure 6, "CLIP(qq)", "CLIP(kk)", "CLIP(vv)".
    """
    return (heads @ heads.transpose(-2, -1) * heads.shape[-1] ** -0.5).softmax(dim=-1)


def progressive_affinity(last: Tensor, layers: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Correct the last layer's affinity by those of chosen layers, one after the other.

        A <- (1 - w_l) A + w_l A_l, from the shallow layers to the deep ones

    Rows keep their sum of 1. The deepest layer has the last word, as the features that it holds are the nearest to those that the text is compared with.

    Args:
        last: (B, heads, N, N), or (B, 1, N, N), of the last layer.
        layers: (B, N, N) each, of the chosen layers, shallow first.
        weights: In [0, 1], one per layer.

    Source: S2CLIP, figure 5, "hierarchical progressive feature extraction".

    Deviation: the formula is reconstructed, since the paper's main text is not at hand; see docs/papers.md.
    """
    corrected = last
    for layer, weight in zip(layers, weights, strict=True):
        corrected = torch.lerp(corrected, layer[:, None].expand_as(corrected), weight)
    return corrected
