"""The coarse stage: score map and features to a soft mask of the foreground on the embedding's grid.

Legend: B images, h w grid, N = h w, C width of the generator, L layers.

Source: GrC-SAM (paper 000), algorithm 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.errors import ConfigError

TEMPERATURE = 10.0
"""Steepness of both soft thresholds."""

HIDDEN = 16
"""Hidden units of a threshold selector."""


class ThresholdSelector(nn.Module):
    """Chooses a threshold from the mean, the standard deviation and the maximum of a score map.

    Source: GrC-SAM (paper 000), algorithms 1 and 2, which name it; its two layers are this project's choice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)
        nn.init.constant_(self.out.bias, -1.0)  # a threshold near a quarter: attention is peaked, and most of a min-max scaled map lies low

    def forward(self, scores: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return thresholds (B, 1) in (0, 1) for scores (B, N), of which only those where `counted` (B, N) bool holds are looked at."""
        weight = torch.ones_like(scores) if counted is None else counted.to(scores.dtype)
        count = weight.sum(1).clamp(min=1)
        mean = (scores * weight).sum(1) / count
        variance = ((scores - mean[:, None]).square() * weight).sum(1) / count
        # Scores are not negative. The small number keeps the root's slope finite where all scores are equal.
        facts = torch.stack([mean, (variance + 1e-8).sqrt(), (scores * weight).amax(1)], dim=1)
        return self.out(torch.relu(self.hidden(facts))).sigmoid()


class Coarse(NamedTuple):
    """What the coarse stage returns.

    Attributes:
        features: (B, C, h, w).
        coarse_mask: (B, 1, h, w) in [0, 1].
        threshold: (B, 1).
    """

    features: Tensor
    coarse_mask: Tensor
    threshold: Tensor


class GuidedAttention(nn.Module):
    """Multi-head attention whose keys and values are the tokens times a weight each.

    Args:
        dim: C.
        heads: Number of heads.

    Raises:
        ConfigError: If C does not split into the heads.

    Source: GrC-SAM (paper 000), algorithm 1, lines 6 and 7.
    """

    def __init__(self, dim: int, heads: int = 8) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"expected a width that splits into {heads} heads, got {dim}")
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Map tokens (B, N, C) with weights (B, N) to (B, N, C)."""
        query = self.query(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(tokens * weights[..., None]).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class CoarseStage(nn.Module):
    """Finds the foreground on the embedding's grid and lets every token look at it.

    Args:
        dim: C.
        heads: Of the attention.

    Source: GrC-SAM (paper 000), algorithm 1.
    Deviation: the layer weights, interpolated along the tokens in row order, multiply the mask as the algorithm says, odd as it is (the first layer weighs the
        top of the image); they are divided by the largest of them, since softmaxed weights of four layers would keep the mask below one half everywhere.
    """

    def __init__(self, dim: int, heads: int = 8) -> None:
        super().__init__()
        self.selector = ThresholdSelector()
        self.attention = GuidedAttention(dim, heads)
        self.fuse = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, features: Tensor, scores: Tensor, alpha: Tensor) -> Coarse:
        """Run the stage on features (B, C, h, w), score map (B, 1, h, w) and softmaxed layer weights (L,)."""
        grid = features.shape[-2:]
        flat = scores.flatten(1)
        threshold = self.selector(flat)
        weights = soft_weights(flat, threshold, spread(alpha / alpha.max(), flat.shape[1]))
        attended = self.attention(features.flatten(2).transpose(1, 2), weights).transpose(1, 2).unflatten(2, grid)
        return Coarse(self.fuse(torch.cat([features, attended], 1)), weights.clamp(0, 1).unflatten(1, grid)[:, None], threshold)


def spread(alpha: Tensor, length: int) -> Tensor:
    """Interpolate layer weights (L,) linearly to (length,), half-pixel centres. Source: GrC-SAM (paper 000), algorithm 1, line 3."""
    return F.interpolate(alpha[None, None], size=length, mode="linear", align_corners=False)[0, 0]


def soft_weights(scores: Tensor, threshold: Tensor, alpha: Tensor) -> Tensor:
    """Return sigmoid((scores - threshold) * 10) * alpha for scores (B, N), threshold (B, 1), alpha (N,). Source: GrC-SAM (paper 000), algorithm 1, line 5."""
    return ((scores - threshold) * TEMPERATURE).sigmoid() * alpha
