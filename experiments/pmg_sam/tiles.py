"""PMG-SAM's decoder on tiles of a large image, guided by the mask of the whole image; `crisp.py --tiles` shows what it is worth."""

from __future__ import annotations

import numpy as np
import torch

from fretsaw import frames
from fretsaw.methods.pmg_sam.cut import PmgCut
from fretsaw.methods.pmg_sam.pairing import DualFeatures, stages_of
from fretsaw.methods.sam_clicks import SamClicks


@torch.no_grad()
def decode_tile(cut: PmgCut, model: SamClicks, image: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Decode one tile with the mask of the whole image in the pre-mask's place.

    Args:
        cut: The trained automatic cut.
        model: Whose image encoder the cut reads.
        image: (H, W, 3) uint8 RGB, the tile.
        coarse: (H, W) logits of the tile, cut out of the mask of the whole image.

    Returns:
        Logits (H, W).
    """
    frame, pixels = model.preprocessing.frame_of(image), model.pixels_of(image)
    embedding = model.encode(pixels, cut.taps)
    if cut.network.refines_with_levels:
        features = cut.branch(pixels, embedding)
    else:
        features = DualFeatures(stages_of(embedding), (), embedding.final.new_zeros(0), embedding.final, embedding.high_res)
    pre_mask = torch.from_numpy(frames.mask_to_logits(coarse, frame, model.preprocessing.logit_side)).to(features.final.device)
    return frames.logits_to_image(cut.network.refine(features, pre_mask).cpu().numpy(), frame)[0, 0]
