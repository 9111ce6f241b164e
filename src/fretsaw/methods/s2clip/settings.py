"""What can be set for one image or one data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NEGATIVE_THRESHOLDS: dict[str, float | None] = {"refined": None, "plain": 0.6}
"""What stands in place of a negative mean of the cosines, by the name in a benchmark's settings; None takes the mean as it is."""

STRIPS = {"whole": 1, "halves": 2}
"""Into how many strips, side by side, the image is cut before SAM's correlation is taken, by the name in a benchmark's settings."""


@dataclass(frozen=True, slots=True)
class TextSettings:
    """Sizes and thresholds. The defaults are Trident's for things on a background (PASCAL VOC with its background class).

    Attributes:
        short_side: The image's shorter side for CLIP, in pixels. Larger finds smaller things and takes longer.
        crop: Side of the windows in which CLIP and DINO look at it: 336 is near what CLIP was trained at, and 8, 14 and 16 divide it.
        stride: Step of the windows.
        logit_scale: Factor of the cosines before the softmax; CLIP's own 100 makes it too sure for patches.
        background_threshold: A pixel whose best class is less probable than this is background; with many names probabilities are lower, so lower it.
        coarse_threshold: A pixel belongs to a region that SAM is asked about if its best class is at least this probable; 0 asks about all.
        minimum_area: Smallest region that SAM is asked about, in pixels at half the image's size; smaller ones keep their coarse label.
        cosine_factor: Two places correlate in SAM if their values' cosine exceeds this multiple of the mean; 0 lets nearly all correlate.
        negative_cosine: What becomes of a negative mean; a name of `NEGATIVE_THRESHOLDS`.
        correlated_in: Whether SAM's correlation is taken on the whole image or on its left and right halves, for wide streets; a name of `STRIPS`.

    Source: Trident (Shi et al. 2024), the configurations of its published code; S2CLIP takes them over.
    """

    short_side: int = 448
    crop: int = 336
    stride: int = 224
    logit_scale: float = 40.0
    background_threshold: float = 0.2
    coarse_threshold: float = 0.2
    minimum_area: int = 225
    cosine_factor: float = 1.2
    negative_cosine: Literal["refined", "plain"] = "refined"
    correlated_in: Literal["whole", "halves"] = "whole"

    @property
    def negative_threshold(self) -> float | None:
        """The threshold in place of a negative mean, or None."""
        return NEGATIVE_THRESHOLDS[self.negative_cosine]

    @property
    def strips(self) -> int:
        """The number of strips that SAM's correlation is taken in."""
        return STRIPS[self.correlated_in]
