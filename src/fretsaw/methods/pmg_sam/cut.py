"""PMG-SAM as an automatic cut: on the embedding that clicks use, at the image's own size.

Source: PMG-SAM (paper 001), section 4.3, "inference".
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fretsaw import frames, masks
from fretsaw.backbones.u2net import U2Net
from fretsaw.edges import at_own_resolution
from fretsaw.methods.pmg_sam.instances import RULES, SplitRules, find_components, split_component
from fretsaw.methods.pmg_sam.model import PmgResult, PmgSam
from fretsaw.methods.pmg_sam.pairing import STAGES, DualBranch, DualFeatures, stage_taps
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.segmentation import Segmentation
from fretsaw.types import ImageEmbedding


class PmgCut(nn.Module):
    """Cuts without a prompt.

    Args:
        saliency: U²-Net, the global branch.
        network: The trained part.
        model: Whose image encoder is the local branch, and whose decoder splits touching objects; shared, not copied.
        rules: When touching objects are split.
        smallest_part: Share of the mask's area below which a piece that touches no other is left out.

    Source: PMG-SAM (paper 001), section 4.3.

    Deviation: the image fills the model frame as the shared encoder wants it, which for SAM 2 means squashed; the paper pads.

    Deviation: pieces of less than 5 % of the mask are left out; the paper keeps all that is above the threshold. Chosen on validation parts.
    """

    def __init__(self, saliency: U2Net, network: PmgSam, model: SamClicks, rules: SplitRules = RULES, smallest_part: float = 0.05) -> None:
        super().__init__()
        self.branch = DualBranch(saliency, mean=model.preprocessing.mean, std=model.preprocessing.std)
        self.network = network.eval()
        self._model = [model]  # in a list: the session's own model, not a submodule
        self._rules, self._smallest_part = rules, smallest_part

    @property
    def taps(self) -> tuple[str, ...]:
        """What it reads of the image encoder beside its embedding."""
        return stage_taps(self._model[0].encoder)

    @torch.no_grad()
    def forward(self, image: np.ndarray, embedding: ImageEmbedding, frame: frames.Frame) -> Segmentation:
        """Cut an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            embedding: Of this image, by the model's encoder; without the stages among its taps it is made again.
            frame: Of this image.

        Returns:
            The mask at the image's own size. Its score is the share of the soft mask's mass that its decision keeps, see `expected_iou`.
        """
        found = without_crumbs(self.predict(image, embedding, frame).mask_logits, self._smallest_part)
        logits = at_own_resolution(found.cpu().numpy(), image, frame)
        return Segmentation(logits, expected_iou(logits), image=image)

    @torch.no_grad()
    def predict(self, image: np.ndarray, embedding: ImageEmbedding, frame: frames.Frame) -> PmgResult:
        """Return pre-mask and mask in the decoder's frame, B = 1."""
        return self.network(self._features(image, embedding, frame))

    @torch.no_grad()
    def split(self, result: Segmentation, embedding: ImageEmbedding, frame: frames.Frame) -> Segmentation:
        """Return a cut with its instances: the components, and where the click decoder sees several objects in one, each of them.

        Args:
            result: Of `forward`.
            embedding: Of the same image.
            frame: Of the same image.
        """
        found: list[Segmentation] = []
        for component in find_components(result.mask):
            for mask, score in split_component(component, self._model[0], embedding, frame, self._rules):
                logits = np.where(mask, result.logits, np.minimum(-np.abs(result.logits), -1e-3)).astype(np.float32)
                found.append(Segmentation(logits, score or expected_iou(logits), image=result.image))
        return Segmentation(result.logits, result.score, image=result.image, instances=tuple(found))

    def _features(self, image: np.ndarray, embedding: ImageEmbedding | None, frame: frames.Frame) -> DualFeatures:
        model = self._model[0]
        pixels = torch.as_tensor(frames.to_pixels(image, frame, model.preprocessing.mean, model.preprocessing.std))
        if embedding is None or STAGES[0] not in embedding.taps:
            embedding = model.encode(pixels, self.taps)
        return self.branch(pixels, embedding)


def without_crumbs(logits: Tensor, smallest_part: float) -> Tensor:
    """Return logits (1, 1, h, w) whose sign is turned where a component of the mask has less than a share of the mask's area; the largest always stays."""
    mask = (logits[0, 0] > 0).cpu().numpy()
    crumbs = mask & ~masks.remove_islands(mask, smallest_part * mask.sum())
    return torch.where(torch.as_tensor(crumbs).to(logits.device), -logits, logits)


def expected_iou(logits: np.ndarray) -> float:
    """Return sum(p over the mask) / (mask's area + sum(p outside)), the IoU of decision and soft mask, [0, 1]; 0 for an empty mask."""
    small = logits[:: max(1, logits.shape[0] // 512), :: max(1, logits.shape[1] // 512)]
    probs = 1 / (1 + np.exp(-np.clip(small, -30, 30)))
    mask = small > 0
    return float(probs[mask].sum() / (mask.sum() + probs[~mask].sum())) if mask.any() else 0.0
