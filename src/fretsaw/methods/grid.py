"""Segment everything: prompt SAM with a grid of points and keep what is confident, stable and not a duplicate.

    image --crop_boxes--> crops --open_crop--> CropDecoder
    point_grid --batches--> decode --predicted IoU--> enlarge --stability, crop edges--> run lengths --NMS per crop, then across crops--> GridMask

This is the baseline of the automatic mode. Results equal those of segment-anything's automatic mask generator; two things are done in another order to save
time and memory, which changes no result: logits are enlarged to the crop's size only after the filter by predicted IoU and in small chunks, and small
regions are removed from one mask at a time.

Frames: boxes are half open here as everywhere in Fretsaw. Segment Anything writes the last row and column instead (`inclusive_box`), and its
non-maximum suppression and edge filter are defined on such boxes.

Source: Segment Anything (Kirillov et al. 2023), appendix B, automatic mask generation; where the paper and its released generator differ, the generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fretsaw import frames, masks
from fretsaw.errors import ConfigError, ShapeError
from fretsaw.layers.resampling import enlarge_logits
from fretsaw.layers.stability import stability_score
from fretsaw.methods.sam_clicks import SamClicks, pad_points
from fretsaw.types import Box, ImageEmbedding

EDGE_TOLERANCE = 20
"""A mask whose box comes this close, in pixels, to an inner edge of its crop is taken to be cut off there."""

CHUNK_ELEMENTS = 1 << 21
"""How many logits are enlarged at once, at least one mask: 8 MB as float32. Larger chunks take more time too, since fresh memory costs more than sums."""

BoxXYXY = tuple[int, int, int, int]
Progress = Callable[[int, int], None]


class CropDecoder(Protocol):
    """Answers point prompts on one crop, whose image it has encoded."""

    def decode(self, points: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return M masks for each prompt.

        Args:
            points: (P, 2) float64 xy in pixels of the crop, one point per prompt.
            labels: (P,) int64, all 1.

        Returns:
            logits (P, M, a, b) at any size, and predicted_iou (P, M).
        """
        ...

    def enlarge(self, logits: Tensor) -> Tensor:
        """Bring some of the logits (K, a, b) to the crop's own size, (K, h, w)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class GridMask:
    """One mask that the grid found.

    Attributes:
        size: (H, W) of the image.
        counts: Lengths of runs in column-major order, background first, int32: COCO's uncompressed run lengths.
        box: Half-open box around the mask, original frame; (0, 0, 0, 0) where the mask is empty.
        predicted_iou: The model's own estimate of the mask's IoU.
        stability: IoU between the mask's versions at a higher and a lower threshold, [0, 1].
        point: xy of the prompt, original frame.
        crop: Half-open box of the crop in which the mask was found.
    """

    size: tuple[int, int]
    counts: np.ndarray
    box: BoxXYXY
    predicted_iou: float
    stability: float
    point: tuple[float, float]
    crop: BoxXYXY

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.counts[1::2].sum())

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, decoded anew at every access."""
        return masks.decode_rle({"size": self.size, "counts": self.counts}, self.size)

    @property
    def rle(self) -> dict[str, Any]:
        """COCO's uncompressed run lengths, `{"size": [H, W], "counts": list[int]}`."""
        return {"size": list(self.size), "counts": self.counts.tolist()}


@dataclass(frozen=True, kw_only=True)
class GridMasks:
    """Finds masks for everything in an image.

    Attributes:
        points_per_side: The grid on the whole image has this many points a side; None where `point_grids` is given.
        points_per_batch: Prompts decoded at once.
        min_predicted_iou: Masks at or below are dropped; 0 switches the filter off.
        min_stability: Masks below are dropped; 0 switches the filter off.
        stability_offset: How far the threshold is moved up and down to measure stability.
        box_nms_iou: Within a crop, a mask whose box overlaps a better one's by more is a duplicate.
        crop_layers: Layer n = 1 .. crop_layers adds 2^n x 2^n overlapping crops, each prompted like a whole image.
        crop_nms_iou: The same as `box_nms_iou` across crops, where smaller crops win.
        crop_overlap: By which part of the image's short side the crops of layer 1 overlap; halved from layer to layer.
        points_downscale: Layer n has `points_per_side / points_downscale^n` points a side, rounded down.
        point_grids: One array (N, 2) of xy in [0, 1] for each layer, in place of regular grids.
        min_region_area: Holes, then islands, below this many pixels are removed; 0 leaves the masks as they are.

    Raises:
        ConfigError: If a value is outside its range, or not exactly one of `points_per_side` and `point_grids` is given.

    Source: Segment Anything (Kirillov et al. 2023), appendix B.
    Deviation: masks that cover 95 % or more of the image are kept, as the released generator keeps them.
    Deviation: a mask whose larger version is empty has stability 0, not NaN; with `min_stability` 0 the generator writes NaN.
    Deviation: box overlaps are compared with the threshold exactly; the generator's float32 can decide an overlap equal to the threshold either way.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    min_predicted_iou: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = 1.0
    box_nms_iou: float = 0.7
    crop_layers: int = 0
    crop_nms_iou: float = 0.7
    crop_overlap: float = 512 / 1500
    points_downscale: int = 1
    point_grids: Sequence[np.ndarray] | None = None
    min_region_area: int = 0
    grids: tuple[np.ndarray, ...] = field(init=False, repr=False)
    """The points of each layer, (N, 2) float64 in [0, 1]."""

    def __post_init__(self) -> None:
        _check_settings(self)
        if self.point_grids is not None:
            grids = tuple(_checked_grid(grid, layer) for layer, grid in enumerate(self.point_grids))
        else:
            assert self.points_per_side is not None
            grids = tuple(point_grid(int(self.points_per_side / self.points_downscale**layer)) for layer in range(self.crop_layers + 1))
        object.__setattr__(self, "grids", grids)

    @torch.no_grad()
    def generate(self, image: np.ndarray, open_crop: Callable[[np.ndarray], CropDecoder], progress: Progress | None = None) -> list[GridMask]:
        """Return the masks of everything that was found.

        Args:
            image: (H, W, 3) uint8 RGB.
            open_crop: Encodes a crop (h, w, 3), a view of the image, and returns what answers prompts on it, for example a `SamCrop`.
            progress: Called with (prompts done, prompts in all) after every batch.

        Returns:
            Best first: by predicted IoU within a crop, masks of smaller crops before those of larger ones.

        Raises:
            ShapeError: If the image is not (H, W, 3) uint8.
        """
        if not masks.is_array(image, 3, np.uint8) or image.shape[2] != 3:
            raise ShapeError(f"image: expected a numpy array (H, W, 3) of uint8, got {masks.describe(image)}")
        size = image.shape[0], image.shape[1]
        crops = list(crop_boxes(*size, self.crop_layers, self.crop_overlap))
        total = sum(len(self.grids[layer]) for layer, _ in crops)
        found: list[GridMask] = []
        done = 0
        for layer, crop in crops:
            x0, y0, x1, y1 = crop
            decoder = open_crop(frames.crop(image, Box(*crop)))
            points = self.grids[layer] * (x1 - x0, y1 - y0)
            candidates: list[GridMask] = []
            for start in range(0, len(points), self.points_per_batch):
                batch = points[start : start + self.points_per_batch]
                candidates += self._masks_of_batch(decoder, batch, crop, size)
                done += len(batch)
                if progress is not None:
                    progress(done, total)
            found += suppress(candidates, [mask.predicted_iou for mask in candidates], self.box_nms_iou)
        if len(crops) > 1:
            found = suppress(found, [1 / _area(mask.crop) for mask in found], self.crop_nms_iou)
        if self.min_region_area > 0:
            found = remove_small_regions(found, self.min_region_area, max(self.box_nms_iou, self.crop_nms_iou))
        return found

    def _masks_of_batch(self, decoder: CropDecoder, points: np.ndarray, crop: BoxXYXY, size: tuple[int, int]) -> Iterator[GridMask]:
        """Prompt with one batch of points; yield the masks that pass the filters, in the order of the points."""
        logits, predicted_iou = decoder.decode(points, np.ones(len(points), np.int64))
        _check_decoded(logits, predicted_iou, len(points))
        per_point = logits.shape[1]
        # Tensors stay where the decoder is; rows of masks, counted over all points, are chosen here.
        scores = predicted_iou.flatten().float().cpu()
        kept = torch.arange(len(scores))
        if self.min_predicted_iou > 0:
            kept = kept[scores > self.min_predicted_iou]
        for rows in torch.split(kept, max(1, CHUNK_ELEMENTS // _area(crop))):
            full = _enlarge(decoder, logits[rows // per_point, rows % per_point], crop)
            stability, chunk = _stable_masks(full, self.stability_offset)
            stable = stability >= self.min_stability if self.min_stability > 0 else np.ones(len(rows), bool)
            for index in np.flatnonzero(stable).tolist():
                mask, row = chunk[index], int(rows[index])
                box = _shift(masks.mask_to_box(mask), crop)
                if touches_inner_edge(box, crop, size):
                    continue
                x, y = (points[row // per_point] + crop[:2]).tolist()
                yield GridMask(size, _run_lengths(mask, crop, size), box, scores[row].item(), stability[index].item(), (x, y), crop)


# What a grid and its crops are -------------------------------------------------------------------------------------------------------------------


def point_grid(points_per_side: int) -> np.ndarray:
    """Return the centres of n x n equal cells of the unit square, row by row: (n * n, 2) float64 xy in [0, 1].

    Source: Segment Anything (Kirillov et al. 2023), appendix B, cropping.
    """
    half_cell = 1 / (2 * points_per_side)
    centres = np.linspace(half_cell, 1 - half_cell, points_per_side)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def crop_boxes(height: int, width: int, layers: int, overlap: float) -> Iterator[tuple[int, BoxXYXY]]:
    """Yield (layer, half-open box) of the whole image, layer 0, and of all crops, column by column within a layer.

    Args:
        height: Rows of the image.
        width: Columns.
        layers: Layer n = 1 .. layers has 2^n crops a side.
        overlap: By which part of the image's short side the crops of layer 1 overlap; halved from layer to layer.

    Source: Segment Anything (Kirillov et al. 2023), appendix B, cropping.
    Deviation: crops that lie outside the image, because it is only a few pixels wide, are left out; the generator fails on them.
    """
    yield 0, (0, 0, width, height)
    for layer in range(1, layers + 1):
        per_side = 2**layer
        shared = int(overlap * min(height, width) * (2 / per_side))
        crop_width, crop_height = (math.ceil((shared * (per_side - 1) + side) / per_side) for side in (width, height))
        for column in range(per_side):
            for row in range(per_side):
                x0, y0 = (crop_width - shared) * column, (crop_height - shared) * row
                if x0 < width and y0 < height:
                    yield layer, (x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height))


# Filters -------------------------------------------------------------------------------------------------------------------------------------------


def inclusive_box(box: BoxXYXY) -> BoxXYXY:
    """Return a half-open box as Segment Anything writes it: x1 and y1 are the last column and row, so one pixel has width 0; an empty box stays empty."""
    x0, y0, x1, y1 = box
    return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


def touches_inner_edge(box: BoxXYXY, crop: BoxXYXY, size: tuple[int, int]) -> bool:
    """Whether a mask's box comes within `EDGE_TOLERANCE` of a side of its crop that is not a side of the image (H, W) too."""
    image = (0, 0, size[1], size[0])
    sides = zip(inclusive_box(box), crop, image, strict=True)
    return any(abs(side - crop_side) <= EDGE_TOLERANCE < abs(side - image_side) for side, crop_side, image_side in sides)


def suppress(found: Sequence[GridMask], scores: Sequence[float], iou_threshold: float) -> list[GridMask]:
    """Return the masks without duplicates, by descending score: a mask goes if its box overlaps a kept one's by more than the threshold (IoU)."""
    boxes = np.array([inclusive_box(mask.box) for mask in found], np.float64).reshape(-1, 4)
    # One step up in float64, so that an overlap equal to the threshold stays whichever way the product in `nms` is rounded.
    return [found[index] for index in masks.nms(boxes, np.array(scores), float(np.nextafter(iou_threshold, 1)))]


def remove_small_regions(found: Sequence[GridMask], min_area: int, iou_threshold: float) -> list[GridMask]:
    """Fill small holes, then remove small islands, and drop the duplicates that this makes; masks that needed no change are preferred.

    Source: Segment Anything (Kirillov et al. 2023), appendix B, postprocessing.
    """
    cleaned: list[GridMask] = []
    scores: list[float] = []
    for old in found:
        mask = old.mask
        filled = masks.fill_holes(mask, min_area)
        kept = masks.remove_islands(filled, min_area)
        # A mask whose pieces are all small keeps the largest; it counts as changed even if that is its only one.
        changed = not np.array_equal(kept, mask) or 0 < np.count_nonzero(kept) < min_area
        box = masks.mask_to_box(kept)
        cleaned.append(replace(old, counts=_counts(kept), box=box) if changed else old)
        scores.append(0.0 if changed else 1.0)
    return suppress(cleaned, scores, iou_threshold)


# Any SAM-like model as decoder ---------------------------------------------------------------------------------------------------------------------


class SamCrop:
    """A `CropDecoder` over any model that takes clicks and the embedding of one crop.

    Args:
        model: Any `SamClicks`.
        embedding: Of the crop, B = 1.
        frame: How the crop lies in the model's input.
    """

    def __init__(self, model: SamClicks, embedding: ImageEmbedding, frame: frames.Frame) -> None:
        self._model, self._embedding, self._frame = model, embedding, frame

    def decode(self, points: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the three masks of an ambiguous prompt for each point, at the decoder's size."""
        coords = torch.as_tensor(frames.points_to_model(points, self._frame)).float()[:, None]
        prompt = self._model.embed_prompt(*pad_points(coords, torch.as_tensor(labels)[:, None]))
        logits, predicted_iou = self._model.decode(self._embedding, prompt)
        return logits[:, 1:], predicted_iou[:, 1:]

    def enlarge(self, logits: Tensor) -> Tensor:
        return enlarge_logits(logits[:, None], self._frame)[:, 0]


# Small parts ---------------------------------------------------------------------------------------------------------------------------------------


def _enlarge(decoder: CropDecoder, logits: Tensor, crop: BoxXYXY) -> Tensor:
    """Return the logits at the crop's size, (K, h, w) float32."""
    x0, y0, x1, y1 = crop
    full = decoder.enlarge(logits)
    if full.shape != (len(logits), y1 - y0, x1 - x0):
        raise ShapeError(f"enlarge: expected logits ({len(logits)}, {y1 - y0}, {x1 - x0}) of the crop's size, got {tuple(full.shape)}")
    return full.float()


def _stable_masks(logits: Tensor, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the stability (K,) float32 and the masks (K, h, w) bool of logits (K, h, w).

    On the CPU numpy does the work: it compares and counts many times faster there than torch does.
    """
    if logits.device.type == "cpu":
        values = logits.numpy()
        return masks.stability_score(values, 0.0, offset).astype(np.float32), values > 0
    return stability_score(logits, 0.0, offset).cpu().numpy(), (logits > 0).cpu().numpy()


def _run_lengths(mask: np.ndarray, crop: BoxXYXY, size: tuple[int, int]) -> np.ndarray:
    """Return the run lengths of a crop's mask in the whole image."""
    if mask.shape != size:
        mask = frames.paste(mask, Box(*crop), np.zeros(size, bool))
    return _counts(mask)


def _counts(mask: np.ndarray) -> np.ndarray:
    # As int32 they take a ninth of the memory of a list of Python numbers.
    return np.array(masks.uncompressed_rle(mask)["counts"], np.int32)


def _shift(box: BoxXYXY, crop: BoxXYXY) -> BoxXYXY:
    (x0, y0, x1, y1), (left, top) = box, crop[:2]
    return x0 + left, y0 + top, x1 + left, y1 + top


def _area(box: BoxXYXY) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _check_decoded(logits: Tensor, predicted_iou: Tensor, prompts: int) -> None:
    if logits.ndim != 4 or len(logits) != prompts or predicted_iou.shape != logits.shape[:2]:
        raise ShapeError(
            f"decode: expected logits ({prompts}, M, a, b) and predicted_iou ({prompts}, M), got {tuple(logits.shape)} and {tuple(predicted_iou.shape)}"
        )


def _check_settings(settings: GridMasks) -> None:
    if (settings.points_per_side is None) == (settings.point_grids is None):
        raise ConfigError(f"expected exactly one of points_per_side and point_grids, got {'neither' if settings.point_grids is None else 'both'}")
    for name, least in (("points_per_batch", 1), ("points_downscale", 1), ("crop_layers", 0), ("min_region_area", 0), ("stability_offset", 0)):
        if not getattr(settings, name) >= least:
            raise ConfigError(f"{name}: expected at least {least}, got {getattr(settings, name)}")
    for name in ("box_nms_iou", "crop_nms_iou"):
        if not 0 <= getattr(settings, name) <= 1:
            raise ConfigError(f"{name}: expected a number in [0, 1], got {getattr(settings, name)}")
    for name in ("min_predicted_iou", "min_stability"):
        if math.isnan(getattr(settings, name)):
            raise ConfigError(f"{name}: expected a number, got nan")
    if not 0 <= settings.crop_overlap < 1:
        raise ConfigError(f"crop_overlap: expected a part of the image's short side in [0, 1), got {settings.crop_overlap}")
    if settings.points_per_side is not None and settings.points_per_side / settings.points_downscale**settings.crop_layers < 1:
        raise ConfigError(
            f"points_per_side: expected at least {settings.points_downscale**settings.crop_layers}, so that layer {settings.crop_layers} has a point, "
            f"got {settings.points_per_side}"
        )
    if settings.point_grids is not None and len(settings.point_grids) < settings.crop_layers + 1:
        raise ConfigError(f"point_grids: expected a grid for each of the {settings.crop_layers + 1} layers, got {len(settings.point_grids)}")


def _checked_grid(grid: np.ndarray, layer: int) -> np.ndarray:
    points = np.asarray(grid, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not ((points >= 0) & (points <= 1)).all():
        raise ConfigError(f"point_grids[{layer}]: expected points (N, 2) of xy in [0, 1], got {masks.describe(grid)}")
    return points
