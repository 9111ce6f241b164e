"""Crops of images, maps and truths that SAM-REF's recipe learns from: a refiner of convolutions needs not see a whole image at every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fretsaw.clicks.encode import disk_maps
from fretsaw.methods.sam_ref.networks import GlobalResult
from fretsaw.methods.sam_ref.places import changed_box, last_place
from fretsaw.training.click_batches import ClickBatch
from fretsaw.training.clicking import Interaction
from fretsaw.types import ImageEmbedding

MARGIN = 8
"""Pixels along a crop's edge that are not learned from: their features lack what lies outside."""

CELL = 4
"""Pixels of the decoder's map in a cell of the embedding; of a refiner's map k times as many. Crops lie on the cells' grid."""

ANYWHERE = 0.25
"""Share of crops that lie anywhere: the refiner must also learn to leave alone what is far from the click."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a step learns from: crops of a batch, all of one side."""

    pixels: Tensor
    embedding: ImageEmbedding
    disks: Tensor
    coarse: Tensor
    previous: Tensor | None
    coverage: Tensor
    valid: Tensor
    clicks: tuple[tuple[float, float], ...]
    """Per crop, xy of the last click in its pixels; it may lie outside."""


def draw_crop(rng: np.random.Generator, point: Interaction, row: int, map_size: int, model_size: int, side: int, cell: int = CELL) -> tuple[int, int, int]:
    """Return x, y and side of a crop of the refiner's map, on the grid of the embedding's cells: around the last click, or one in four times anywhere."""
    if side <= 0 or side >= map_size:
        return 0, 0, map_size
    cells, room = side // cell, (map_size - side) // cell
    if rng.random() < ANYWHERE:
        x, y = (int(i) for i in rng.integers(0, room + 1, 2))
    else:
        place = last_place(point.point_coords[row], point.point_labels[row]).cpu().numpy() * (map_size / model_size) / cell
        x, y = (int(np.clip(round(c - cells / 2 + rng.uniform(-0.3, 0.3) * cells), 0, room)) for c in place)
    return cell * x, cell * y, cell * cells


def cut_crops(batch: ClickBatch, point: Interaction, coarse: Tensor, crops: list[tuple[int, int, int]]) -> Seen:
    """Return the crops of everything that the refiner sees; their inner edges are not learned from."""
    map_size, scale = coarse.shape[-1], batch.pixels.shape[-1] // coarse.shape[-1]
    cell = map_size // batch.embedding.final.shape[-1]
    disks = disk_maps(point.point_coords, point.point_labels, batch.pixels.shape[-1], map_size)

    def cut(values: Tensor, times: int = 1, parts: int = 1) -> Tensor:
        found = []
        for row, crop in enumerate(crops):
            x, y, side = (n * times // parts for n in crop)
            found.append(values[row, :, y : y + side, x : x + side])
        return torch.stack(found)

    valid = cut(batch.valid).clone()
    for row, (x, y, side) in enumerate(crops):
        valid[row, :, :, : MARGIN if x > 0 else 0] = 0
        valid[row, :, :, side - (MARGIN if x + side < map_size else 0) :] = 0
        valid[row, :, : MARGIN if y > 0 else 0] = 0
        valid[row, :, side - (MARGIN if y + side < map_size else 0) :] = 0
    places = [(last_place(point.point_coords[i], point.point_labels[i]) + 0.5) / scale - 0.5 for i in range(len(crops))]
    return Seen(
        cut(batch.pixels, scale),
        ImageEmbedding(cut(batch.embedding.final, parts=cell)),
        cut(disks),
        cut(coarse),
        None if point.previous_logits is None else cut(point.previous_logits),
        cut(batch.coverage),
        valid,
        tuple((float(place[0]) - x, float(place[1]) - y) for place, (x, y, _) in zip(places, crops, strict=True)),
    )


def patch_box(rng: np.random.Generator, result: GlobalResult, seen: Seen, row: int) -> list[float]:
    """Return the box that PatchDiff would refine; where there is none, one around the click, so that every step teaches both refiners."""
    side = seen.coarse.shape[-1]
    x, y = seen.clicks[row]
    before = torch.zeros_like(seen.coarse[row, 0], dtype=torch.bool) if seen.previous is None else seen.previous[row, 0] > 0
    if 0 <= x < side and 0 <= y < side and (box := changed_box(result.logits[row, 0].detach() > 0, before, (x, y))) is not None:
        return [box.x0, box.y0, box.x1, box.y1]
    half = rng.uniform(side / 12, side / 3)
    x, y = (float(np.clip(c, half, side - half)) for c in (x, y))
    return [float(int(x - half)), float(int(y - half)), float(int(x + half)), float(int(y + half))]
