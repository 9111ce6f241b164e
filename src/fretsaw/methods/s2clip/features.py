"""The image side: an image in, one map of patch embeddings out.

    image --windows--> CLIP's tokens --values, mixed by CLIP's own layers (S2CLIP) or not (Trident)--> mixed by DINO's affinity --splice--> one map
          --spread by SAM's correlation--> embedded in the space of the texts

Source: S2CLIP, figure 5; Trident (Shi et al. 2024), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.backbones.clip import Clip, Part, resize_tokens
from fretsaw.methods.s2clip.affinity import (
    BETA,
    GAMMA,
    SelfAttention,
    mean_cosine,
    patch_affinity,
    progressive_affinity,
    self_affinity,
    unit,
)
from fretsaw.methods.s2clip.entropy import choose_layers, spatial_entropy
from fretsaw.methods.s2clip.splice import Window, spread

Grid = tuple[int, int]

PARTS: dict[SelfAttention, Part] = {"qq": "query", "kk": "key", "vv": "value"}


class PatchFeatures(Protocol):
    """Pixels (B, 3, H, W), normalised as ImageNet's, to patch features (B, C, h, w); `patch` is the side of a patch in pixels."""

    patch: int

    def __call__(self, pixels: Tensor) -> Tensor: ...


ValueRule = Callable[[Clip, Sequence[Tensor], Grid], Tensor]
"""(CLIP, its patch tokens after each block but the last, their grid) -> the values (B, N, C) of the last block, heads joined, that DINO's affinity mixes."""


def plain_values(clip: Clip, layers: Sequence[Tensor], grid: Grid) -> Tensor:
    """Return the last block's values as they are: each patch speaks for itself.

    Source: MaskCLIP (Zhou et al. 2022), section 3.2; ProxyCLIP and Trident start from them.
    """
    return join_heads(clip.last_heads(layers[-1], "value"))


@dataclass(frozen=True, slots=True)
class HierarchicalValues:
    """The last block's values, mixed by CLIP's own affinity, which its more telling layers have corrected; a `ValueRule`.

    Attributes:
        attention: Self-self attention of the last block that is corrected.
        layers: How many layers correct it.
        beta: See `patch_affinity`.
        gamma: See `patch_affinity`.

    Source: S2CLIP, figure 5 ("hierarchical progressive feature extraction from CLIP"), algorithm 1, figures 3, 4, 6.

    Deviation: reconstructed, since the paper's main text is not at hand: layers are chosen by their spatial entropy on the image's windows, their
        affinities are those of ProxyCLIP on their features, and they correct the last block's attention one after the other.
    """

    attention: SelfAttention = "kk"
    layers: int = 3
    beta: float = BETA
    gamma: float = GAMMA

    def __call__(self, clip: Clip, layers: Sequence[Tensor], grid: Grid) -> Tensor:
        """Return (B, N, C)."""
        entropies = [spatial_entropy(layer.transpose(1, 2).unflatten(2, grid)) for layer in layers]
        chosen, weights = choose_layers(entropies, grid[0] * grid[1], self.layers)
        units = [unit(layers[index]) for index in chosen]
        means = [mean_cosine(part) for part in units]
        last, values = clip.last_heads(layers[-1], PARTS[self.attention]), clip.last_heads(layers[-1], "value")
        mixed = []
        for i in range(len(values)):  # one window at a time: its affinities, not all windows', lie in memory
            own = [patch_affinity(part[i : i + 1], mean, self.beta, self.gamma) for part, mean in zip(units, means, strict=True)]
            mixed.append(progressive_affinity(self_affinity(last[i : i + 1]), own, weights) @ values[i : i + 1])
        return join_heads(torch.cat(mixed))


def join_heads(heads: Tensor) -> Tensor:
    """(B, heads, N, c) to (B, N, heads c)."""
    return heads.transpose(1, 2).flatten(2)


def fuse(values: Tensor, grid: Grid, features: Tensor | None, beta: float = BETA, gamma: float = GAMMA) -> Tensor:
    """Mix CLIP's values by the patch affinity of another network, on that network's grid.

    Args:
        values: (B, N, C) on CLIP's `grid`.
        grid: See `values`.
        features: (B, F, h, w) of the other network, or None: every patch keeps its own value.
        beta: See `patch_affinity`; its mean runs over all images of the batch, which are the windows of one image.
        gamma: See `patch_affinity`.

    Returns:
        (B, C, h, w), on CLIP's grid where there are no features.

    Source: ProxyCLIP (Lan et al. 2024), section 3.2; the mean over all windows together as in the published code.
    """
    if features is None:
        return values.transpose(1, 2).unflatten(2, grid)
    size = (features.shape[-2], features.shape[-1])
    units = unit(features.flatten(2).transpose(1, 2).float())
    mean = mean_cosine(units)
    mixed = [patch_affinity(units[i : i + 1], mean, beta, gamma) @ resize_tokens(values[i : i + 1], grid, size) for i in range(len(values))]
    return torch.cat(mixed).transpose(1, 2).unflatten(2, size)


def project_windows(clip: Clip, mixed: Tensor, tokens: Grid) -> list[Tensor]:
    """Apply the last attention's output projection to windows (B, C, h, w), and bring each to a whole multiple of CLIP's grid."""
    projected = clip.project(mixed.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    height, width = projected.shape[-2:]
    if width % tokens[1]:
        factor = max(1, round(height / tokens[0]))
        projected = F.interpolate(projected, size=(tokens[0] * factor, tokens[1] * factor), mode="bilinear", align_corners=False)
    return list(projected)


def embed_map(clip: Clip, features: Tensor, correlation: Tensor | None, grid: Grid | None) -> Tensor:
    """Return the patch embeddings (h, w, D) of a spliced map (C, h', w'), of length 1; SAM's correlation, if there is one, spreads it on `grid` first."""
    if correlation is not None and grid is not None:
        features = spread(features, correlation, grid)
    return F.normalize(clip.embed(features.permute(1, 2, 0)), dim=-1)


def in_patches(coords: Sequence[Window], patch: int) -> list[Window]:
    """Turn windows in pixels into windows in patches."""
    return [(y0 // patch, x0 // patch, y1 // patch, x1 // patch) for y0, x0, y1, x1 in coords]
