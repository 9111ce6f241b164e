"""What a trained GrC-SAM does with an image: cut the foreground, or name every pixel.

Source: GrC-SAM (paper 000), sections 3.5 and A.4.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fretsaw import frames
from fretsaw.errors import ModelError
from fretsaw.layers.resampling import enlarge_logits
from fretsaw.methods.grc_sam.model import GrcSam, LinearHead
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.segmentation import BACKGROUND, LabelMap, Segmentation
from fretsaw.types import ImageEmbedding

FOREGROUND = "foreground"

BOUND = frames.MASK_PROMPT_LOGIT


class GrcForeground(nn.Module):
    """Cuts the foreground: the one class of a binary model, or whatever is not background.

    Args:
        network: Trained.
        names: Its classes; ("background", "foreground") for a binary model.

    Raises:
        ModelError: If none of the classes is the background.
    """

    def __init__(self, network: GrcSam | LinearHead, names: tuple[str, ...]) -> None:
        super().__init__()
        if BACKGROUND not in names:
            raise ModelError(f"expected a class called {BACKGROUND} to tell the foreground by, got {', '.join(names)}")
        self.network = network
        self._background = names.index(BACKGROUND)

    @torch.no_grad()
    def forward(self, image: np.ndarray, embedding: ImageEmbedding, frame: frames.Frame) -> Segmentation:
        """Cut an image; see `fretsaw.session.AutomaticCut`. The score is the mean probability of the foreground on the mask."""
        logits = foreground_logits(class_logits(self.network, embedding), self._background)
        full = frames.logits_to_image(logits.cpu().numpy(), frame)[0, 0].clip(-BOUND, BOUND)
        mask = full > 0
        score = float((1 / (1 + np.exp(-full[mask]))).mean()) if mask.any() else 0.0
        return Segmentation(full, score, image=image)


class GrcLabels(nn.Module):
    """Names every pixel of an image.

    Args:
        clicks: Encodes images, with taps.
        network: Trained.
        names: Its classes; ("background", "foreground") for a binary model.
    """

    def __init__(self, clicks: SamClicks, network: GrcSam | LinearHead, names: tuple[str, ...]) -> None:
        super().__init__()
        self._clicks = [clicks]  # in a list: the session's own model, not a submodule
        self.network, self.names = network, names

    @torch.no_grad()
    def forward(self, image: np.ndarray) -> LabelMap:
        """Return the label map of an image (H, W, 3) uint8 RGB, with probabilities."""
        clicks = self._clicks[0]
        logits = class_logits(self.network, clicks.encode(clicks.pixels_of(image)))
        labels, probabilities = label_image(logits, clicks.preprocessing.frame_of(image))
        return LabelMap(labels, self.names, probabilities, image)


def class_logits(network: GrcSam | LinearHead, embedding: ImageEmbedding) -> Tensor:
    """Return (B, K, ., .) logits of either network."""
    result = network(embedding)
    return result if isinstance(result, Tensor) else result.class_logits


def foreground_logits(logits: Tensor, background: int) -> Tensor:
    """Return (B, 1, ., .) logits of "not background" from (B, K, ., .); K = 1 is that already."""
    if logits.shape[1] == 1:
        return logits
    others = torch.cat([logits[:, :background], logits[:, background + 1 :]], 1)
    return others.logsumexp(1, keepdim=True) - logits[:, background : background + 1]


def label_image(logits: Tensor, frame: frames.Frame) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (H, W) int32 and probabilities (K, H, W) float32 from one image's logits (1, K, ., .); K = 1 becomes background and foreground."""
    enlarged = enlarge_logits(logits, frame)[0]
    if len(enlarged) == 1:
        enlarged = torch.cat([torch.zeros_like(enlarged), enlarged])
    probabilities = enlarged.softmax(0)
    return enlarged.argmax(0).int().cpu().numpy(), probabilities.cpu().numpy()
