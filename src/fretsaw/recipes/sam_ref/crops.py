"""Crops of images, maps and truths for the training of SAM-REF. The refiner is convolutional and does not need the whole image at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fretsaw.clicks.encode import disk_maps
from fretsaw.frames import MASK_PROMPT_LOGIT
from fretsaw.methods.sam_ref.networks import GlobalResult
from fretsaw.methods.sam_ref.places import changed_box, click_place
from fretsaw.training.click_batches import ClickBatch
from fretsaw.training.clicking import Interaction
from fretsaw.training.embeddings import stack
from fretsaw.types import ImageEmbedding

MARGIN = 8
"""Width of the border of a crop, in pixels, that the loss ignores, because its features lack what lies outside the crop."""

CELL = 4
"""Pixels of the decoder's map in a cell of the embedding; of a refiner's map k times as many. Crops lie on the cells' grid."""

ANYWHERE, ERRORS = 0.2, 0.4
"""Share of crops at a random place, by which the refiner learns to change nothing far from the click; and share of crops around a wrong pixel."""


@dataclass(frozen=True, slots=True)
class CropBatch:
    """Crops of a batch, all of one side: the input of one training step.

    Attributes:
        pixels: (B, 3, 4 a, 4 a), over `map_scale`.
        embedding: Final and finer maps, each at its own scale.
        disks: (B, 2, a, a).
        coarse: (B, 1, a, a) the decoder's logits.
        previous: (B, 1, a, a) the answer before; background everywhere where there was none.
        coverage: (B, 1, a, a) the truth.
        valid: (B, 1, a, a) 0 where nothing is learned, a crop's inner edges included.
        clicks: Per crop, xy of the last click in its pixels; it may lie outside.
    """

    pixels: Tensor
    embedding: ImageEmbedding
    disks: Tensor
    coarse: Tensor
    previous: Tensor
    coverage: Tensor
    valid: Tensor
    clicks: tuple[tuple[float, float], ...]


def draw_crop(rng: np.random.Generator, place: tuple[float, float], wrong: Tensor, side: int, cell: int = CELL) -> tuple[int, int, int]:
    """Return x, y and side of a crop of the refiner's map, on the grid of the embedding's cells: around the last click, something wrong, or anywhere.

    Args:
        rng: Draws.
        place: xy of the last click in pixels of the map.
        wrong: (s, s) bool, where the coarse mask is wrong.
        side: Of the crop; 0, or no less than the map's, takes the whole map.
        cell: Pixels of the map in a cell of the embedding.
    """
    map_size = wrong.shape[-1]
    if side <= 0 or side >= map_size:
        return 0, 0, map_size
    cells, room = side // cell, (map_size - side) // cell
    kind = rng.random()
    if kind < ANYWHERE:
        x, y = (int(i) for i in rng.integers(0, room + 1, 2))
    else:
        if kind < ANYWHERE + ERRORS and len(places := wrong.nonzero()):
            row, column = (int(side) for side in places[int(rng.integers(len(places)))])
            place = (column, row)
        x, y = (int(np.clip(round(c / cell - cells / 2 + rng.uniform(-0.3, 0.3) * cells), 0, room)) for c in place)
    return cell * x, cell * y, cell * cells


def cut_crop(batch: ClickBatch, point: Interaction, coarse: Tensor, row: int, crop: tuple[int, int, int]) -> CropBatch:
    """Return a crop of everything that the refiner sees of one object of a batch.

    Args:
        batch: Objects.
        point: What was asked.
        coarse: (B, 1, s, s) the decoder's answer, at the size of the refiner's maps.
        row: Which object.
        crop: From `draw_crop`.
    """
    rows, (x, y, side) = slice(row, row + 1), crop
    map_size, model_size = coarse.shape[-1], batch.pixels.shape[-1]

    def cut(values: Tensor) -> Tensor:
        """The crop of a map of any scale."""
        left, top, width = (n * values.shape[-1] // map_size for n in (x, y, side))
        return values[..., top : top + width, left : left + width]

    valid = cut(batch.valid[rows]).clone()
    valid[..., : MARGIN if x > 0 else 0] = 0
    valid[..., side - (MARGIN if x + side < map_size else 0) :] = 0
    valid[..., : MARGIN if y > 0 else 0, :] = 0
    valid[..., side - (MARGIN if y + side < map_size else 0) :, :] = 0
    column, line = click_place(point.point_coords[rows], point.point_labels[rows], model_size, coarse)
    return CropBatch(
        cut(batch.pixels[rows]),
        ImageEmbedding(cut(batch.embedding.final[rows]), tuple(cut(level[rows]) for level in batch.embedding.high_res)),
        cut(disk_maps(point.point_coords[rows], point.point_labels[rows], model_size, map_size)),
        cut(coarse[rows]),
        cut(point.previous_logits[rows]) if point.previous_logits is not None else torch.full_like(cut(coarse[rows]), -MASK_PROMPT_LOGIT),
        cut(batch.coverage[rows]),
        valid,
        ((column - x, line - y),),
    )


def together(crops: Sequence[CropBatch]) -> CropBatch:
    """Join crops of one side into a batch."""
    embedding = stack([crop.embedding for crop in crops])
    maps = (torch.cat([getattr(crop, name) for crop in crops]) for name in ("disks", "coarse", "previous", "coverage", "valid"))
    return CropBatch(torch.cat([crop.pixels for crop in crops]), embedding, *maps, clicks=tuple(place for crop in crops for place in crop.clicks))


def patch_box(rng: np.random.Generator, result: GlobalResult, seen: CropBatch, row: int) -> list[float]:
    """Return the box that PatchDiff would refine. If there is none, return a box around the click, so that every step trains both refiners."""
    side = seen.coarse.shape[-1]
    x, y = seen.clicks[row]
    inside = 0 <= x < side and 0 <= y < side
    if inside and (box := changed_box(result.logits[row, 0].detach() > 0, seen.previous[row, 0] > 0, (x, y))) is not None:
        return [box.x0, box.y0, box.x1, box.y1]
    half = rng.uniform(side / 12, side / 3)
    x, y = (float(np.clip(c, half, side - half)) for c in (x, y))
    return [float(int(x - half)), float(int(y - half)), float(int(x + half)), float(int(y + half))]
