"""What a view keeps of the teacher: its embedding, and the map of the frozen stem."""

from __future__ import annotations

import torch
from torch import Tensor

from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.types import ImageEmbedding

STEM = "stage2"
"""The tap that holds what the stem computes."""


def seen(teacher: SamClicks, pixels: Tensor) -> ImageEmbedding:
    """Return SAM 2's embedding of pixels, with the stem's map as the tap `STEM`."""
    with torch.no_grad():
        return teacher.encoder(pixels, (STEM,))
