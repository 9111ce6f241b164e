"""SAM's grid mode over any model that takes clicks, as the papers compare with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fretsaw.methods.grid import SamCrop
from fretsaw.methods.sam_clicks import SamClicks


def sam_crops(model: SamClicks) -> Callable[[np.ndarray], SamCrop]:
    """Return what `GridMasks.generate` takes as `open_crop`: it encodes a crop with the model."""

    def open_crop(crop: np.ndarray) -> SamCrop:
        return SamCrop(model, model.encode(model.pixels_of(crop)), model.preprocessing.frame_of(crop))

    return open_crop
