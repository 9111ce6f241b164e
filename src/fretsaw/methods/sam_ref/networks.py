"""GlobalDiff and PatchDiff: the whole image seen with the prompts, and a crop around the last change seen closely.

Source: SAM-REF (Yu et al. 2024), sections 3.3 and 3.4.1, figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fretsaw.errors import ModelError
from fretsaw.layers.roi_align import roi_align
from fretsaw.types import Box, ImageEmbedding

LOGIT_SCALE = 10.0
"""Coarse logits enter the network divided by this and clamped to plus or minus 2: SAM's logits reach beyond 30."""

CROP_SIZE = 256
"""Side of the crop that PatchDiff works on."""

CHANGE_SCALE = 4.0
"""Logits to a unit of what the heads predict: a step of training moves them as far as SAM's logits lie apart."""

NO_ERROR = -30.0
"""The error map's logit where nothing is looked at."""


@dataclass(frozen=True, slots=True)
class RefinerFeatures:
    """What depends on the image alone.

    Attributes:
        fused: (1, width, s, s) the image branch.
        embedding: (1, width, s, s) the upscaled image embedding, finer maps included.
        model_size: Side S of the model frame; s = S / 4, times the refiner's `map_scale`.
    """

    fused: Tensor
    embedding: Tensor
    model_size: int

    @property
    def nbytes(self) -> int:
        """Memory of both tensors."""
        return self.fused.nbytes + self.embedding.nbytes


@dataclass(frozen=True, slots=True)
class GlobalResult:
    """What GlobalDiff says: logits after equation 1, its two maps as logits, and the last feature F(N), whose top-left pixel lies at `origin` (x, y)."""

    logits: Tensor
    error_map: Tensor
    detail_map: Tensor
    feature: Tensor
    origin: tuple[int, int] = (0, 0)


def blend(error_map: Tensor, detail_map: Tensor, coarse: Tensor) -> Tensor:
    """Take the detail where an error is expected, and the coarse logits elsewhere: s d + (1 - s) c, s = sigmoid(error).

    Source: SAM-REF, equations 1 and 2.
    """
    return torch.lerp(coarse, detail_map.to(coarse.dtype), error_map.to(coarse.dtype).sigmoid())


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip connection, at constant width and scale.

    Source: Deep Residual Learning (He et al. 2016), figure 5, left.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        # In place, since on a CPU a third of the time goes into reading and writing maps; no gradient needs what is overwritten.
        inner = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(inner)).add_(x), inplace=True)


class Heads(nn.Module):
    """Halve the channels, then predict error map and detail map by 1 x 1 convolutions.

    Source: SAM-REF, section 3.3.3.

    Deviation: What is predicted of the detail map is its difference from the coarse logits, nothing at first, so that a new refiner changes nothing. A detail
    map that has to repeat the coarse mask wherever an error is possible costs thousands of steps before the refined mask is as good as the coarse one.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width // 2, 3, padding=1)
        self.error = nn.Conv2d(width // 2, 1, 1)
        self.change = nn.Conv2d(width // 2, 1, 1)
        assert self.error.bias is not None
        assert self.change.bias is not None
        nn.init.constant_(self.error.bias, -2.0)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, feature: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Return error map and detail map (P, 1, a, a) of features (P, channels, a, a) and the coarse logits (P, 1, a, a)."""
        reduced = F.relu(self.reduce(feature), inplace=True)
        return self.error(reduced).to(coarse.dtype), coarse + CHANGE_SCALE * self.change(reduced).to(coarse.dtype)


class GlobalDiff(nn.Module):
    """The whole image, seen with the prompts.

    Args:
        width: Channels at a quarter of the model frame; 64 in the paper, 32 for speed.
        blocks: Residual blocks N.
        channels: C of the image embedding.
        map_scale: Side of all maps over that of the decoder's: 1 (the paper's), or 2 for a decoder whose map is coarse.
        levels: Channels of the image embedding's finer maps, `ImageEmbedding.high_res`, where the encoder has them (SAM 2); empty for the paper's network.

    Source: SAM-REF, section 3.3.

    Deviation: An encoder's finer maps, which SAM 2's decoder adds while it upscales, are added to the upscaled embedding; SAM's has none.

    Deviation: The image branch and the upscaled embedding are computed once per image and kept; the paper computes them at every click.

    Deviation: Coarse logits are divided by 10 and clamped to [-2, 2] before they enter; the paper does not say how they are scaled.
    """

    def __init__(self, width: int = 64, blocks: int = 3, channels: int = 256, map_scale: int = 1, levels: Sequence[int] = ()) -> None:
        super().__init__()
        half = width // 2
        self.image = nn.Sequential(nn.Conv2d(3, half, 3, 2, 1), nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, width, 3, 2 // map_scale, 1))
        self.prompt = nn.Sequential(nn.Conv2d(3, half, 3, 1, 1), nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, width, 3, 1, 1))
        self.upscale = nn.Sequential(
            nn.ConvTranspose2d(channels, 2 * width, 2, 2), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.ConvTranspose2d(2 * width, width, 2, 2)
        )
        if map_scale == 2:
            self.upscale.extend([nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, width, 2, 2)])
        self.channels = (channels, *levels)
        self.levels = nn.ModuleList(nn.Conv2d(level, width, 1) for level in levels)
        self.blocks = nn.ModuleList(BasicBlock(width) for _ in range(blocks))
        self.heads = Heads(width, width)

    def prepare(self, pixels: Tensor, embedding: ImageEmbedding) -> RefinerFeatures:
        """Return what depends on the image alone.

        Raises:
            ModelError: If the embedding is not of the kind that the refiner was made for.
        """
        expected = list(self.channels)
        found = [embedding.final.shape[1], *(level.shape[1] for level in embedding.high_res[: len(self.levels)])]
        if found != expected:
            raise ModelError(
                f"expected an image embedding of {expected} channels, the finer maps' included, for this refiner, got {found}; it is another model's"
            )
        dtype = next(self.upscale.parameters()).dtype
        upscaled = self.upscale(embedding.final.to(dtype))
        for adapt, level in zip(self.levels, embedding.high_res, strict=False):
            upscaled = upscaled + F.interpolate(adapt(level.to(dtype)), upscaled.shape[-2:], mode="bilinear", align_corners=False)
        return RefinerFeatures(self.image(pixels.to(dtype)), upscaled, pixels.shape[-1])

    @property
    def reach(self) -> int:
        """How many pixels of the map a result depends on to each side: two prompt convolutions, two a block, one in the heads."""
        return 3 + 2 * len(self.blocks)

    def inside(self, features: RefinerFeatures, disks: Tensor, coarse: Tensor, box: Box) -> GlobalResult:
        """Refine within a box (whole pixels of the map), where the result is what `forward` gives there; outside it no error is expected.

        Arguments as for `forward`, P = 1.
        """
        height, width = coarse.shape[-2:]
        x0, y0 = max(0, int(box.x0) - self.reach), max(0, int(box.y0) - self.reach)
        x1, y1 = min(width, int(box.x1) + self.reach), min(height, int(box.y1) + self.reach)
        around = (..., slice(y0, y1), slice(x0, x1))
        part = RefinerFeatures(features.fused[around], features.embedding[around], features.model_size)
        seen = self(part, disks[around], coarse[around])
        within = (..., slice(int(box.y0), int(box.y1)), slice(int(box.x0), int(box.x1)))
        local = (..., slice(int(box.y0) - y0, int(box.y1) - y0), slice(int(box.x0) - x0, int(box.x1) - x0))
        logits, error_map, detail_map = coarse.clone(), torch.full_like(coarse, NO_ERROR), coarse.clone()
        for whole, piece in ((logits, seen.logits), (error_map, seen.error_map), (detail_map, seen.detail_map)):
            whole[within] = piece[local].to(whole.dtype)
        return GlobalResult(logits, error_map, detail_map, seen.feature, (x0, y0))

    def forward(self, features: RefinerFeatures, disks: Tensor, coarse: Tensor) -> GlobalResult:
        """Refine the whole mask.

        Args:
            features: From `prepare`.
            disks: (P, 2, s, s) positive and negative prompt map.
            coarse: (P, 1, s, s) mask logits of this interaction.
        """
        x = features.fused + self.prompt(torch.cat([disks, (coarse / LOGIT_SCALE).clamp(-2, 2)], 1).to(features.fused.dtype))
        for block in self.blocks:
            x = block(x + features.embedding)
        error_map, detail_map = self.heads(x, coarse)
        return GlobalResult(blend(error_map, detail_map, coarse), error_map, detail_map, x)


class PatchDiff(nn.Module):
    """A crop around what the last click changed, seen closely.

    Source: SAM-REF, section 3.4.1.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.heads = Heads(width + 1, width)

    def forward(self, feature: Tensor, coarse: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Refine crops.

        Args:
            feature: (P, width, s, s) GlobalDiff's F(N).
            coarse: (P, 1, s, s) the decoder's logits.
            boxes: (P, 4) x0, y0, x1, y1, half open, in pixels of the maps.

        Returns:
            Refined logits, error map and detail map of the crops, each (P, 1, 256, 256).
        """
        local = roi_align(coarse, boxes, CROP_SIZE)
        crops = torch.cat([roi_align(feature, boxes, CROP_SIZE), (local / LOGIT_SCALE).clamp(-2, 2).to(feature.dtype)], 1)
        error_map, detail_map = self.heads(crops, local)
        return blend(error_map, detail_map, local), error_map, detail_map
