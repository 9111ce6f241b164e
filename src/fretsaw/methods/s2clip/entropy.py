"""Spatial entropy: how concentrated a layer's channels are over the image, and what it says about which layers to listen to.

Source: S2CLIP, algorithm 1, figures 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def spatial_entropy(features: Tensor) -> float:
    """Return the mean spatial entropy of a feature map, in nats: log(h w) where every channel is flat, less the more concentrated they are.

    Args:
        features: (B, C, h, w).

    Returns:
        The mean over images and channels; 0 where it is no number.

    Source: S2CLIP, algorithm 1, lines 1-9 and 20-23. Its Gini coefficient and channel correlation (lines 10-19) do not enter its output and are left out.

    Deviation: the minimum of sigma in line 4 is taken per image, so that an image's entropy does not depend on what else is in the batch.
    """
    values = features.flatten(2).float()
    mean = values.mean(dim=2, keepdim=True)
    sigma = values.var(dim=2, keepdim=True, correction=0).sqrt()
    floor = (sigma.amin(dim=1, keepdim=True) * 1e-2).clamp_min(1e-6)
    scaled = (values - mean) / (sigma + floor)
    raised = (scaled - scaled.amax(dim=2, keepdim=True)).exp()
    shares = torch.maximum(raised / (raised.sum(dim=2, keepdim=True) + floor), floor)
    shares = shares / shares.sum(dim=2, keepdim=True)
    entropy = float(-(shares * shares.log()).sum(dim=2).mean())
    return entropy if math.isfinite(entropy) else 0.0


def choose_layers(entropies: Sequence[float], places: int, count: int) -> tuple[list[int], list[float]]:
    """Choose the layers of lowest spatial entropy and weigh them.

    Args:
        entropies: One per layer, shallow first.
        places: h w of the maps, whose logarithm is the largest entropy.
        count: Layers to choose; all, if there are fewer.

    Returns:
        Indices, shallow first, and weights in [0, 1] that sum to 1: each layer's distance from the largest entropy, as a share of the chosen ones'.

    Source: S2CLIP, figure 4, where low entropy marks the layers that figure 3 finds consistent.

    Deviation: how the paper chooses and weighs is reconstructed, since its main text is not at hand; see docs/papers.md.
    """
    chosen = sorted(sorted(range(len(entropies)), key=lambda layer: entropies[layer])[:count])
    order = [max(math.log(max(places, 1)) - entropies[layer], 0.0) for layer in chosen]
    total = sum(order)
    return chosen, [value / total if total > 0 else 1 / len(chosen) for value in order]
