"""What S2CLIP is compared with: class maps that lie in memory as a whole, and regions without the component analysis."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fretsaw.methods.s2clip.maps import reduce_map
from fretsaw.methods.s2clip.regions import Region, region_of


class DenseMaps:
    """Class maps that lie in memory as a whole.

    Args:
        probabilities: (K, H, W) float32.
        labels: (H, W) int64.
    """

    def __init__(self, probabilities: Tensor, labels: Tensor) -> None:
        self._probabilities = probabilities
        self.labels = labels
        self.classes = len(probabilities)
        self.best_coarse = reduce_map(probabilities).amax(dim=0)

    def probabilities(self, label: int) -> Tensor:
        """Return (H, W) float32 of one class."""
        return self._probabilities[label]


def whole_classes(labels: np.ndarray, label: int, probabilities: np.ndarray, threshold: float, minimum_area: int) -> list[Region]:
    """Return all of a class as one region.

    Source: S2CLIP, table 4, row "w/o CCA".
    """
    mask = labels == label
    area = int(mask.sum())
    if float(probabilities.max()) < threshold or area < max(minimum_area, 1):
        return []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return [region_of(label, int(columns[0]), int(rows[0]), inside, probabilities, area)]
