"""From word logits on the patch grid to labels and class probabilities at the image's size, in bands of rows and one class at a time.

All classes' probabilities at 2048 x 2048 would take 2.9 GB for 171 classes. Here only the grid, the labels and the logarithm of the softmax's
denominator are kept; the probabilities of a class are made from them when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BAND_BYTES = 48 * 2**20
"""Memory for the logits of one band of rows."""

REDUCTION = 2
"""Regions are looked for at the image's size divided by this, as in S2CLIP's algorithm 4."""


class ClassMaps(Protocol):
    """What refinement needs to know about an image's classes.

    Attributes:
        labels: (H, W) int64.
        classes: K.
        best_coarse: (H // 2, W // 2) float32: the largest class probability, each class reduced by itself.
    """

    labels: Tensor
    classes: int
    best_coarse: Tensor

    def probabilities(self, label: int) -> Tensor:
        """Return (H, W) float32 of one class."""
        ...


class TextMaps:
    """Class maps made from word logits; see the module's text.

    Args:
        word_logits: (n, h, w) float32, already multiplied by the logit scale.
        word_classes: The class of each word, ascending.
        size: Rows and columns of the image.
        floor: Where no class is as probable as this, class 0 stands; 0 for none.

    Source: Trident (Shi et al. 2024), published code, `postprocess_result`: softmax over all words, then the maximum over a class's words.

    Deviation: Trident takes that maximum for the background's words alone and sums nothing for other classes with several words (its class files list one
        class per word there); here every class may have several words.
    """

    def __init__(self, word_logits: Tensor, word_classes: Sequence[int], size: tuple[int, int], floor: float = 0.0) -> None:
        self._logits, self._size = word_logits, size
        self._word_classes = torch.tensor(list(word_classes), device=word_logits.device)
        self.classes = int(self._word_classes.max()) + 1
        device, half = word_logits.device, reduced_size(size)
        self.labels = torch.empty(size, dtype=torch.int64, device=device)
        self._denominator = torch.empty(size, device=device)
        self.best_coarse = torch.empty(half, device=device)
        self._fill(floor)

    def probabilities(self, label: int) -> Tensor:
        """Return (H, W) float32 of one class."""
        result: Tensor | None = None
        for word in torch.nonzero(self._word_classes == label).flatten().tolist():
            logits = F.interpolate(self._logits[None, word : word + 1], size=self._size, mode="bilinear", align_corners=False)[0, 0]
            values = logits.sub_(self._denominator).exp_()
            result = values if result is None else torch.maximum(result, values)
        assert result is not None
        return result

    def _fill(self, floor: float) -> None:
        """Go through the image once, band by band."""
        height, width = self._size
        half_height = len(self.best_coarse)
        above, _, _ = taps(half_height, height)
        per_band = max(1, BAND_BYTES // (4 * len(self._logits) * width * REDUCTION))
        for start in range(0, half_height, per_band):
            stop = min(start + per_band, half_height)
            # every full row lies in one band, and both rows that a reduced row is made of lie in the same one
            first = 0 if start == 0 else int(above[start])
            last = height if stop == half_height else int(above[stop])
            best = self._band(slice(first, last), floor)
            self.best_coarse[start:stop] = self._reduced_best(best, start, stop, first)

    def _band(self, rows: slice, floor: float) -> Tensor:
        """Fill labels and denominators of some rows; returns the class probabilities there, (K, rows, W)."""
        height, width = self._size
        upper, lower, weight = (part[rows] for part in taps(height, self._logits.shape[1], self._logits.device))
        grid = torch.lerp(self._logits[:, upper], self._logits[:, lower], weight[None, :, None])
        logits = F.interpolate(grid[None], size=(grid.shape[1], width), mode="bilinear", align_corners=False)[0]
        self._denominator[rows] = denominator = logits.logsumexp(dim=0)
        words = logits.sub_(denominator).exp_()
        if self.classes == len(words):
            classes = words
        else:
            classes = words.new_zeros(self.classes, *words.shape[1:])
            for word, label in enumerate(self._word_classes.tolist()):
                torch.maximum(classes[label], words[word], out=classes[label])
        best, labels = classes.max(dim=0)
        self.labels[rows] = labels.masked_fill_(best < floor, 0)
        return classes

    def _reduced_best(self, classes: Tensor, start: int, stop: int, first: int) -> Tensor:
        height, width = self._size
        upper, lower, weight = (part[start:stop] for part in taps(len(self.best_coarse), height, classes.device))
        left, right, across = taps(self.best_coarse.shape[1], width, classes.device)
        result = classes.new_zeros(stop - start, self.best_coarse.shape[1])
        for values in classes:
            rows = torch.lerp(values[upper - first], values[lower - first], weight[:, None])
            torch.maximum(result, torch.lerp(rows[:, left], rows[:, right], across), out=result)
        return result


def taps(count: int, length: int, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for `count` places resampled from `length`, the two sources of each and the weight of the second: bilinear, half-pixel centres."""
    places = ((torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (length / count) - 0.5).clamp_min(0)
    lower = places.floor().long().clamp_max(length - 1)
    return lower, (lower + 1).clamp_max(length - 1), (places - lower).float()


def reduced_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns at which regions are looked for."""
    return max(1, size[0] // REDUCTION), max(1, size[1] // REDUCTION)


def reduce_map(values: Tensor) -> Tensor:
    """Reduce maps (..., H, W) for the search of regions: bilinear without anti-aliasing, as Trident does."""
    size = reduced_size((values.shape[-2], values.shape[-1]))
    return F.interpolate(values.reshape(1, -1, *values.shape[-2:]), size=size, mode="bilinear", align_corners=False).reshape(*values.shape[:-2], *size)


def coarse_labels(maps: ClassMaps, threshold: float) -> np.ndarray:
    """Return the labels (h, w) int32 in which regions are looked for; K where no class reaches the threshold, so that such places belong to no region.

    Source: S2CLIP, algorithm 4.
    """
    size = (maps.best_coarse.shape[0], maps.best_coarse.shape[1])
    labels = F.interpolate(maps.labels[None, None].float(), size=size, mode="nearest")[0, 0].to(torch.int32)
    if threshold > 0:
        labels.masked_fill_(maps.best_coarse < threshold, maps.classes)
    return labels.cpu().numpy()
