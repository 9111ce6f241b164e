"""Compare layers of CLIP and other networks: their spatial entropy, and their average precision in telling whether two patches are of one class.

Source: S2CLIP, algorithm 1, figures 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.backbones import clip as clips
from fretsaw.backbones import dino
from fretsaw.backbones.dino import SamPatches
from fretsaw.backbones.sam import SamImageEncoder
from fretsaw.data.classes import IGNORED
from fretsaw.errors import DataError
from fretsaw.images import read_image
from fretsaw.layers.resampling import resize_image
from fretsaw.methods.s2clip.entropy import choose_layers, spatial_entropy
from fretsaw.methods.s2clip.features import HierarchicalValues
from fretsaw.methods.s2clip.model import normalise
from fretsaw.methods.s2clip.settings import TextSettings
from fretsaw.methods.s2clip.splice import Window, content_size, windows

if TYPE_CHECKING:
    from fretsaw.api import Segmenter
    from fretsaw.methods.s2clip.model import S2clip

Truth = Callable[[], tuple[np.ndarray, np.ndarray]]
"""Returns an image (H, W, 3) uint8 RGB and its classes (H, W) int, `IGNORED` where a place does not count."""

MOST_PATCHES = 1024
"""Patches of a window between which all pairs are judged; of finer grids, as many are drawn evenly."""


def layer_entropies(model: S2clip, photos: Sequence[Path], short_side: int, crop: int, advance: Callable[[], object]) -> list[dict[str, Any]]:
    """Return one row per layer of CLIP but the last: its number, its mean spatial entropy over the photos, and in which share of them it is chosen.

    Source: S2CLIP, figure 4.
    """
    depth = model.clip.depth - 1
    rule = model.values if isinstance(model.values, HierarchicalValues) else HierarchicalValues()
    entropies, chosen = np.zeros(depth), np.zeros(depth)
    for photo in photos:
        pixels, _ = _windows(read_image(photo), short_side, crop, model.clip.patch)
        own = [spatial_entropy(layer) for layer in _clip_layers(model, pixels)]
        entropies += own
        chosen[choose_layers(own, (crop // model.clip.patch) ** 2, rule.layers)[0]] += 1
        advance()
    count = max(len(photos), 1)
    return [{"layer": number, "spatial entropy": float(entropies[number] / count), "chosen": float(chosen[number] / count)} for number in range(depth)]


def layer_precisions(model: S2clip, truths: Sequence[Truth], short_side: int, crop: int, advance: Callable[[], object]) -> list[dict[str, Any]]:
    """Return one row per layer of CLIP but the last and per other network of the model: its average precision over windows.

    A pair of patches counts as positive if its centres are of one class; pairs with an ignored centre do not count; the score is the cosine of the features.
    Windows that hold one class alone, or nothing else than different ones, say nothing and are left out.

    Args:
        model: Whose networks are compared.
        truths: One an image: a sample's `read` where there are label maps; `regions_as_truth` or `names_as_truth` where there are none.
        short_side: The images' shorter side for CLIP.
        crop: Side of the windows.
        advance: Called after each image.

    Raises:
        DataError: If no window holds pairs of both kinds.

    Source: S2CLIP, figure 3.

    Deviation: the supplement does not say how patches get their class nor how images are averaged; here, by their centres, and over windows with equal weight.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for read in truths:
        image, truth = read()
        pixels, coords = _windows(image, short_side, crop, model.clip.patch)
        size = (max(box[2] for box in coords), max(box[3] for box in coords))
        for name, features in _all_features(model, pixels):
            for feature, window in zip(features, coords, strict=True):
                value = window_precision(feature, _patch_classes(truth, size, window, (feature.shape[-2], feature.shape[-1])))
                if value is not None:
                    sums[name] = sums.get(name, 0.0) + value
                    counts[name] = counts.get(name, 0) + 1
        advance()
    if not counts:
        raise DataError("expected images with at least two classes and patches of one class, got none")
    return [{"features": name, "AP": sums[name] / counts[name], "windows": counts[name]} for name in sums]


def regions_as_truth(segmenter: Segmenter, photo: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a photo and, in the place of classes, the objects that the automatic mode finds in it: 1, 2, ..., and 0 for everything outside them.

    A stand-in for label maps: two places count as alike if they belong to one object, whatever it is called. Neither CLIP nor DINO had a part in it; SAM did.

    Raises:
        ImageError: If the photo cannot be read.
        ModelError: If the model has no automatic mode.

    Deviation: figure 3 is drawn over the classes of labelled data sets; this is for folders without labels.
    """
    image = read_image(photo)
    result = segmenter.auto(image, instances=True)
    classes = np.zeros(image.shape[:2], np.int32)
    for number, part in enumerate(result.instances or (result,), start=1):
        classes[part.mask] = number
    return image, classes


def names_as_truth(segmenter: Segmenter, names: Sequence[str], settings: TextSettings, photo: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a photo and, in the place of its classes, those of some names that the model itself gives; what is none of them does not count.

    A stand-in for label maps that leans towards the layers which the model listens to: it says how well they agree with the result, not how right they are.

    Raises:
        ImageError: If the photo cannot be read.
        ConfigError: If the names cannot be used.

    Deviation: figure 3 is drawn over the classes of labelled data sets; here the labels of the model itself stand for them.
    """
    image = read_image(photo)
    labels = segmenter.text(image, names, None, settings).labels
    return image, np.where(labels < 0, IGNORED, labels)


def window_precision(features: Tensor, classes: np.ndarray) -> float | None:
    """Return the average precision of one window's pairs of patches; None where they are all of one kind.

    Args:
        features: (C, h, w).
        classes: (h, w) int, `IGNORED` where a patch does not count.
    """
    labels = torch.from_numpy(classes.reshape(-1))  # pyright: ignore[reportUnknownMemberType]
    places = torch.nonzero(labels != IGNORED).flatten()
    if len(places) > MOST_PATCHES:
        places = places[torch.linspace(0, len(places) - 1, MOST_PATCHES).long()]
    own = labels[places]
    units = F.normalize(features.flatten(1).T[places].float().cpu(), dim=1)
    first, second = torch.triu_indices(len(places), len(places), offset=1)
    return average_precision((units @ units.T)[first, second].numpy(), (own[first] == own[second]).numpy())


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the mean, over the positives, of the precision at each one's score; equal scores count together. None where all are of one kind."""
    total = int(positive.sum())
    if total in (0, len(positive)):
        return None
    order = np.argsort(-scores, kind="stable")
    hits, ranks = np.cumsum(positive[order]), np.arange(1, len(order) + 1)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    gained = np.diff(np.append(0, hits[last]))
    return float((gained * hits[last] / ranks[last]).sum() / total)


def _windows(image: np.ndarray, short_side: int, crop: int, patch: int) -> tuple[Tensor, list[Window]]:
    """Return the windows' pixels (B, 3, crop, crop) in [0, 1] and where they lie, as the text mode sees them, side by side without overlap."""
    size = content_size(image.shape[0], image.shape[1], short_side, patch, crop)
    content = torch.tensor(resize_image(image, *size)).permute(2, 0, 1)[None].float() / 255
    coords = windows(*size, crop, crop)
    return torch.cat([content[:, :, y0:y1, x0:x1] for y0, x0, y1, x1 in coords]), coords


@torch.no_grad()
def _clip_layers(model: S2clip, pixels: Tensor) -> list[Tensor]:
    """Return (B, C, h, w) per layer of CLIP but the last."""
    grid = (pixels.shape[-2] // model.clip.patch, pixels.shape[-1] // model.clip.patch)
    tokens = model.clip.tokens(normalise(pixels, clips.MEAN, clips.STD).to(model.clip.device))
    return [layer.transpose(1, 2).unflatten(2, grid) for layer in tokens]


@torch.no_grad()
def _all_features(model: S2clip, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Go through the features (B, C, h, w) of CLIP's layers, of the network of patch affinities, and of SAM."""
    yield from ((f"CLIP layer {number}", layer) for number, layer in enumerate(_clip_layers(model, pixels)))
    normalised = normalise(pixels, dino.MEAN, dino.STD).to(model.clip.device)
    if model.patches is not None and not isinstance(model.patches, SamPatches):
        yield "DINO", model.patches(normalised)
    if model.sam is not None and isinstance(model.sam.image_encoder, SamImageEncoder):
        yield "SAM", SamPatches(model.sam.image_encoder)(normalised)


def _patch_classes(truth: np.ndarray, size: tuple[int, int], window: Window, grid: tuple[int, int]) -> np.ndarray:
    """Return the class at the centre of each patch of a window, (h, w)."""
    y0, x0, y1, x1 = window
    rows = (y0 + (np.arange(grid[0]) + 0.5) * (y1 - y0) / grid[0]) * truth.shape[0] / size[0]
    columns = (x0 + (np.arange(grid[1]) + 0.5) * (x1 - x0) / grid[1]) * truth.shape[1] / size[1]
    return truth[np.minimum(rows.astype(int), truth.shape[0] - 1)[:, None], np.minimum(columns.astype(int), truth.shape[1] - 1)[None]]
