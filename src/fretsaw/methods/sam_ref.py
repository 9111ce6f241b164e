"""SAM-REF: look at the image again, with the prompts and the coarse mask in hand, and mend the mask.

    pixels ----image branch----+                                    (once per image)
    embedding ----upscaled-----+--> base
    disks, coarse logits --prompt branch--> + --N blocks--> F(N) --heads--> error map, detail map --eq. 1--> global mask
    F(N), coarse logits --RoIAlign around the last click--> heads --eq. 2--> local mask, pasted onto the previous mask
    the error region grew? local : global

Source: SAM-REF (Yu et al. 2024), section 3, figure 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fretsaw.clicks.encode import disk_maps
from fretsaw.errors import ConfigError
from fretsaw.frames import expand_box
from fretsaw.layers.roi_align import roi_align
from fretsaw.types import NEGATIVE, POSITIVE, Box, ImageEmbedding

BOX_FACTOR = 1.4
"""How much the box around a change is expanded before it is refined (FocalClick)."""

LOGIT_SCALE = 10.0
"""Coarse logits enter the network divided by this and clamped to plus or minus 2: SAM's logits reach beyond 30."""

CROP_SIZE = 256
"""Side of the crop that PatchDiff works on."""

SURE_LOGIT = 4.0
"""What the decoder calls background with this much certainty, and nobody clicked or had before, is not looked at again."""

NO_ERROR = -30.0
"""The error map's logit where nothing is looked at."""

MARGIN = 8
"""Pixels of the map that are looked at around everything that is not sure background."""


def check_map_scale(map_scale: int) -> None:
    """Refuse a refiner's maps that are neither the decoder's size nor twice it, with a ConfigError."""
    if map_scale not in (1, 2):
        raise ConfigError(f"map_scale: expected 1 or 2, got {map_scale}")


@dataclass(frozen=True, slots=True)
class RefinerFeatures:
    """What depends on the image alone.

    Attributes:
        fused: (1, width, s, s) the image branch.
        embedding: (1, width, s, s) the upscaled image embedding.
        model_size: Side S of the model frame; s = S / 4, times the refiner's `map_scale`.
    """

    fused: Tensor
    embedding: Tensor
    model_size: int


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
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(inner)))


class Heads(nn.Module):
    """Halve the channels, then predict error map and detail map by 1 x 1 convolutions.

    Source: SAM-REF, section 3.3.3.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width // 2, 3, padding=1)
        self.error = nn.Conv2d(width // 2, 1, 1)
        self.detail = nn.Conv2d(width // 2, 1, 1)
        # Start as the identity: sigmoid(-4) = 0.02 of the detail map.
        assert self.error.bias is not None
        nn.init.constant_(self.error.bias, -4.0)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        reduced = F.relu(self.reduce(feature))
        return self.error(reduced), self.detail(reduced)


class GlobalDiff(nn.Module):
    """The whole image, seen with the prompts.

    Args:
        width: Channels at a quarter of the model frame; 64 in the paper, 32 for speed.
        blocks: Residual blocks N.
        channels: C of the image embedding.
        map_scale: Side of all maps over that of the decoder's: 1 (the paper's), or 2 for a decoder whose map is coarse.

    Source: SAM-REF, section 3.3.

    Deviation: The image branch and the upscaled embedding are computed once per image and kept; the paper computes them at every click.

    Deviation: Coarse logits are divided by 10 and clamped to [-2, 2] before they enter; the paper does not say how they are scaled.
    """

    def __init__(self, width: int = 64, blocks: int = 3, channels: int = 256, map_scale: int = 1) -> None:
        super().__init__()
        half = width // 2
        self.image = nn.Sequential(nn.Conv2d(3, half, 3, 2, 1), nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, width, 3, 2 // map_scale, 1))
        self.prompt = nn.Sequential(nn.Conv2d(3, half, 3, 1, 1), nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, width, 3, 1, 1))
        self.upscale = nn.Sequential(
            nn.ConvTranspose2d(channels, 2 * width, 2, 2), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.ConvTranspose2d(2 * width, width, 2, 2)
        )
        if map_scale == 2:
            self.upscale.extend([nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, width, 2, 2)])
        self.blocks = nn.ModuleList(BasicBlock(width) for _ in range(blocks))
        self.heads = Heads(width, width)

    def prepare(self, pixels: Tensor, embedding: ImageEmbedding) -> RefinerFeatures:
        """Return what depends on the image alone."""
        return RefinerFeatures(self.image(pixels), self.upscale(embedding.final), pixels.shape[-1])

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
        x = features.fused + self.prompt(torch.cat([disks, (coarse / LOGIT_SCALE).clamp(-2, 2)], 1))
        for block in self.blocks:
            x = block(x + features.embedding)
        error_map, detail_map = self.heads(x)
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
        crops = torch.cat([roi_align(feature, boxes, CROP_SIZE), (local / LOGIT_SCALE).clamp(-2, 2)], 1)
        error_map, detail_map = self.heads(crops)
        return blend(error_map, detail_map, local), error_map, detail_map


class SamRef(nn.Module):
    """The refiner (seam 3): GlobalDiff, PatchDiff and the choice between them.

    Args:
        width: Channels; 64 in the paper, 32 for speed.
        blocks: Residual blocks in GlobalDiff.
        channels: C of the image embedding.
        map_scale: See `GlobalDiff`; the decoder's logits are enlarged to it before they are refined, and what comes out has that size.
        sure_logit: See `unsure_box`; it is no part of the weights.
        heeds_clicks: Whether an answer that contradicts more clicks than the decoder's own gives way to the decoder's; it is no part of the weights.

    Source: SAM-REF, section 3.2 and 3.4.2.

    Deviation: GlobalDiff looks only at the box around the prompts, the mask before and what the decoder is not sure of, which costs a fraction; the paper's
    looks at the whole image. Inside the box the results are the same.

    Deviation: A refined mask that contradicts more of the clicks than the decoder's own is not given, the decoder's is. The paper has no such rule; without it
    single objects, thin ones above all, never come to 90 %, since every click is refined away again.

    Deviation: Over an encoder of 672 pixels the decoder's map has 168, too few for thin parts: `map_scale` 2 refines at half the model frame's side.
    """

    def __init__(
        self,
        width: int = 64,
        blocks: int = 3,
        channels: int = 256,
        map_scale: int = 1,
        sure_logit: float = SURE_LOGIT,
        heeds_clicks: bool = True,
    ) -> None:
        super().__init__()
        check_map_scale(map_scale)
        self.config = {"width": width, "blocks": blocks, "channels": channels, "map_scale": map_scale}
        self.map_scale = map_scale
        self.sure_logit = sure_logit
        self.heeds_clicks = heeds_clicks
        self.global_diff = GlobalDiff(width, blocks, channels, map_scale)
        self.patch_diff = PatchDiff(width)

    def prepare(self, pixels: Tensor, embedding: ImageEmbedding) -> RefinerFeatures:
        """Return the features of an image: pixels (1, 3, S, S) and its embedding."""
        return self.global_diff.prepare(pixels.to(embedding.final.device), embedding)

    def refine(
        self,
        features: RefinerFeatures,
        point_coords: Tensor,
        point_labels: Tensor,
        logits: Tensor,
        previous_logits: Tensor | None,
        state: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mend a coarse mask; see `fretsaw.types.Refiner`.

        The state holds `error_map`, GlobalDiff's error logits of the interaction before, and `given` where the mask came from elsewhere (a person's own, an
        automatic cut): such a mask is mended around the clicks only, at the first click and all later ones, so that what was not clicked stays.
        """
        point_coords, point_labels = point_coords.to(logits.device), point_labels.to(logits.device)
        logits = self.enlarged(logits)
        given = previous_logits if previous_logits is not None and (not state or "given" in state) else None
        before = state["error_map"] if state and given is None else None
        answer, error_map = self._selected(features, point_coords, point_labels, logits, previous_logits, before)
        if self.heeds_clicks:
            plain = logits if given is None else _changed_around(_click(point_coords, point_labels, features.model_size, logits), logits, given)
            asked = (point_coords[0], point_labels[0], features.model_size)
            answer = plain if contradictions(answer[0, 0] > 0, *asked) > contradictions(plain[0, 0] > 0, *asked) else answer
        return answer, {"error_map": error_map} | ({"given": torch.ones(())} if given is not None else {})

    def enlarged(self, logits: Tensor) -> Tensor:
        """Return the decoder's logits (P, 1, S/4, S/4) at the size of the refiner's maps."""
        return logits if self.map_scale == 1 else F.interpolate(logits, scale_factor=self.map_scale, mode="bilinear", align_corners=False)

    def _selected(
        self, features: RefinerFeatures, point_coords: Tensor, point_labels: Tensor, logits: Tensor, previous_logits: Tensor | None, before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The dynamic patch selector (section 3.4.2): GlobalDiff's answer or PatchDiff's, and the error map; any error has grown where there is none before."""
        disks = disk_maps(point_coords, point_labels, features.model_size, logits.shape[-1])
        region = unsure_box(disks, logits, previous_logits, self.sure_logit)
        result = self.global_diff.inside(features, disks, logits, region)
        error_map = result.error_map
        if previous_logits is None or not error_region_grew(error_map, before):
            return result.logits, error_map
        click = _click(point_coords, point_labels, features.model_size, logits)
        box = changed_box(result.logits[0, 0] > 0, previous_logits[0, 0] > 0, click)
        if box is None:
            return previous_logits, error_map
        if not _contains(region, box):
            result = self.global_diff.inside(features, disks, logits, box)
        x, y = result.origin
        boxes = torch.tensor([[box.x0, box.y0, box.x1, box.y1]], device=logits.device)
        offset = torch.tensor([x, y, x, y], device=logits.device)
        around = (..., slice(y, y + result.feature.shape[-2]), slice(x, x + result.feature.shape[-1]))
        crop, _, _ = self.patch_diff(result.feature, logits[around], boxes - offset)
        return paste_crop(crop, box, previous_logits), error_map


def unsure_box(disks: Tensor, logits: Tensor, previous_logits: Tensor | None, sure: float) -> Box:
    """Return the box around prompts, the mask before and all that the decoder does not call background with certainty, with a margin.

    Args:
        disks: (1, 2, h, w) prompt maps.
        logits: (1, 1, h, w) the decoder's.
        previous_logits: (1, 1, h, w) the mask before, or None.
        sure: Logits of at most minus this are certain; infinity takes the whole map.
    """
    height, width = logits.shape[-2:]
    unsure = (logits[0, 0] > -sure) | (disks[0] > 0).any(0)
    if previous_logits is not None:
        unsure |= previous_logits[0, 0] > 0
    rows, columns = (unsure.any(axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        return Box(0, 0, width, height)
    x0, x1, y0, y1 = (int(i) for i in (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
    return Box(max(0, x0 - MARGIN), max(0, y0 - MARGIN), min(width, x1 + MARGIN), min(height, y1 + MARGIN))


def _contains(outer: Box, inner: Box) -> bool:
    return outer.x0 <= inner.x0 and outer.y0 <= inner.y0 and outer.x1 >= inner.x1 and outer.y1 >= inner.y1


def contradictions(mask: Tensor, point_coords: Tensor, point_labels: Tensor, model_size: int) -> int:
    """Return how many clicks a mask contradicts: positive ones outside it, negative ones inside.

    Args:
        mask: (s, s) bool, in the decoder's frame.
        point_coords: (N, 2) xy in the model frame.
        point_labels: (N,); box corners and padding do not count.
        model_size: Side S of the model frame.
    """
    side = mask.shape[-1]
    x, y = ((point_coords + 0.5) * (side / model_size) - 0.5).round().long().clamp(0, side - 1).unbind(-1)
    return int(((mask[y, x] != (point_labels == POSITIVE)) & ((point_labels == POSITIVE) | (point_labels == NEGATIVE))).sum())


def _click(point_coords: Tensor, point_labels: Tensor, model_size: int, logits: Tensor) -> tuple[float, float]:
    """Return the last click of a prompt set (1, N, 2), xy in pixels of the map."""
    x, y = ((last_place(point_coords[0], point_labels[0]) + 0.5) * (logits.shape[-1] / model_size) - 0.5).tolist()
    return x, y


def _changed_around(click: tuple[float, float], logits: Tensor, previous: Tensor) -> Tensor:
    """Return the mask before with the decoder's answer in the box around what it changed at the click; both (1, 1, s, s)."""
    box = changed_box(logits[0, 0] > 0, previous[0, 0] > 0, click)
    if box is None:
        return previous
    return paste_crop(logits[..., int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)], box, previous)


def error_region_grew(error_map: Tensor, before: Tensor | None) -> bool:
    """Whether more pixels have sigmoid(error) > 0.5 than before; without a before, any growth counts.

    Source: SAM-REF, section 3.4.2.
    """
    count = int((error_map > 0).sum())
    return before is None or count > int((before > 0).sum())


def last_place(point_coords: Tensor, point_labels: Tensor) -> Tensor:
    """Return the xy of the last click among points (N, 2) with labels (N,); the box's centre where there is no click."""
    clicks = point_coords[(point_labels == 0) | (point_labels == 1)]
    return clicks[-1] if len(clicks) else point_coords[(point_labels == 2) | (point_labels == 3)].mean(0)


def changed_box(mask: Tensor, previous: Tensor, click: tuple[float, float], factor: float = BOX_FACTOR) -> Box | None:
    """Return the box around the change that the last click made.

    Args:
        mask: (h, w) bool, GlobalDiff's.
        previous: (h, w) bool.
        click: xy in pixels of the masks; may be fractional.
        factor: How much the box is expanded about its centre.

    Returns:
        The expanded box of the 8-connected component of (mask xor previous) that holds the click, or None where the click changed nothing.

    Source: SAM-REF, section 3.4.1; the factor from FocalClick (Chen et al. 2022).
    """
    changed = (mask ^ previous).cpu().numpy().astype(np.uint8)
    height, width = changed.shape
    column, row = min(max(round(click[0]), 0), width - 1), min(max(round(click[1]), 0), height - 1)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(changed, connectivity=8)
    label = labels[row, column]
    if label == 0:
        return None
    x, y, columns, rows, _ = stats[label]
    return expand_box(Box(x, y, x + columns, y + rows), factor, 2, height, width)


def paste_crop(crop: Tensor, box: Box, canvas: Tensor) -> Tensor:
    """Return `canvas` (1, 1, h, w) with `crop` (1, 1, a, b), resampled to the box's size, in the box; outside it every bit is kept."""
    rows, columns = int(box.y1 - box.y0), int(box.x1 - box.x0)
    result = canvas.clone()
    # The mean over each pixel's own area: unlike a wider filter it is not cut off at the crop's border, so a crop returns as it came.
    patch = F.interpolate(crop, (rows, columns), mode="area")
    result[..., int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = patch
    return result


def build_sam_ref(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> SamRef:
    """Build a refiner from its weights and the `config` that was saved with them; loading is strict."""
    from fretsaw.weights import load_strictly

    refiner = SamRef(**config)
    load_strictly(refiner, dict(state_dict))
    # A CPU's convolutions are quicker with the channels last in memory; results stay the same.
    return refiner.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (torch's stubs lack it)
