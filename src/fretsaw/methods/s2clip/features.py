"""The image side: an image in, one map of patch embeddings out.

    image --windows--> CLIP's tokens --values, mixed by CLIP's own layers (S2CLIP) or not (Trident)--> mixed by DINO's affinity --splice--> one map
          --spread by SAM's correlation--> embedded in the space of the texts

Source: S2CLIP, figure 5; Trident (Shi et al. 2024), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
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


Layers = Callable[[], Iterator[Sequence[Tensor]]]
"""Goes through an image's windows, a few at a time: CLIP's patch tokens (b, N, C) after each block but the last. Called anew for each pass."""

ValueRule = Callable[[Clip, Layers, Grid], Tensor]
"""(CLIP, its layers, their grid) -> the values (B, N, C) of the last block, heads joined, of all windows, that DINO's affinity mixes."""


def plain_values(clip: Clip, layers: Layers, grid: Grid) -> Tensor:
    """Return the last block's values as they are: each patch speaks for itself.

    Source: MaskCLIP (Zhou et al. 2022), section 3.2; ProxyCLIP and Trident start from them.
    """
    return torch.cat([join_heads(clip.last_heads(few[-1], "value")) for few in layers()])


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

    def __call__(self, clip: Clip, layers: Layers, grid: Grid) -> Tensor:
        """Return (B, N, C)."""
        entropies, cosines = survey(layers, grid)
        chosen, weights = choose_layers(entropies, grid[0] * grid[1], self.layers)
        means = [torch.tensor(cosines[index]) for index in chosen]
        mixed = []
        for few in layers():
            units = [unit(few[index]) for index in chosen]
            last, values = clip.last_heads(few[-1], PARTS[self.attention]), clip.last_heads(few[-1], "value")
            for i in range(len(values)):  # one window at a time: its affinities, not all windows', lie in memory
                own = [patch_affinity(part[i : i + 1], mean, self.beta, self.gamma) for part, mean in zip(units, means, strict=True)]
                mixed.append(progressive_affinity(self_affinity(last[i : i + 1]), own, weights) @ values[i : i + 1])
        return join_heads(torch.cat(mixed))


def survey(layers: Layers, grid: Grid) -> tuple[list[float], list[float]]:
    """Return each layer's spatial entropy and mean cosine similarity over all windows of an image."""
    entropies, cosines, count = np.zeros(0), np.zeros(0), 0
    for few in layers():
        share = len(few[0])
        own = [spatial_entropy(layer.transpose(1, 2).unflatten(2, grid)) for layer in few]
        alike = [float(mean_cosine(unit(layer))) for layer in few]
        entropies, cosines = (sums + share * np.array(new) if count else share * np.array(new) for sums, new in ((entropies, own), (cosines, alike)))
        count += share
    return (entropies / count).tolist(), (cosines / count).tolist()


def join_heads(heads: Tensor) -> Tensor:
    """(B, heads, N, c) to (B, N, heads c)."""
    return heads.transpose(1, 2).flatten(2)


def fuse(values: Tensor, grid: Grid, features: Tensor | None, beta: float = BETA, gamma: float = GAMMA) -> Iterator[Tensor]:
    """Mix CLIP's values by the patch affinity of another network, on that network's grid.

    Args:
        values: (B, N, C) on CLIP's `grid`.
        grid: See `values`.
        features: (B, F, h, w) of the other network, or None: every patch keeps its own value.
        beta: See `patch_affinity`; its mean runs over all images of the batch, which are the windows of one image.
        gamma: See `patch_affinity`.

    Yields:
        (1, C, h, w) per image, on CLIP's grid where there are no features; one at a time, since all of them take as much as the features.

    Source: ProxyCLIP (Lan et al. 2024), section 3.2; the mean over all windows together as in the published code.
    """
    if features is None:
        yield from (own[None].transpose(1, 2).unflatten(2, grid) for own in values)
        return
    size = (features.shape[-2], features.shape[-1])
    mean = torch.stack([mean_cosine(_units(own)) for own in features]).mean()
    for own, feature in zip(values, features, strict=True):
        yield (patch_affinity(_units(feature), mean, beta, gamma) @ resize_tokens(own[None], grid, size)).transpose(1, 2).unflatten(2, size)


def _units(feature: Tensor) -> Tensor:
    """(F, h, w) to (1, h w, F) of length 1."""
    return unit(feature.flatten(1).T[None].float())


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
