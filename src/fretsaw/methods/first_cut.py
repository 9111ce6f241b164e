"""The training-free automatic cut: a saliency map says where, SAM's decoder says exactly what.

    image --U²-Netp--> map --components--> clicks at its deepest places + the map itself as mask prompt
          --SAM's decoder--> three masks per component --agreement x predicted IoU--> one each --mixed with the map, united--> logits

It needs published weights only, and is the ground floor that a trained automatic method has to beat.

Source: PMG-SAM (paper 001), section 4.7.4, speaks of masks that guide SAM's decoder; this training-free form is this project's own. Its numbers were
chosen on the validation parts of coco_mval, ccp and human_seg.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from fretsaw import frames, masks
from fretsaw.backbones.u2net import U2Net, load_u2netp, saliency_map
from fretsaw.clicks.places import deepest_places, probs_iou
from fretsaw.edges import at_own_resolution
from fretsaw.errors import ConfigError
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.segmentation import Segmentation
from fretsaw.types import Click, ImageEmbedding, Prompt

MAP_SIDE = 320
"""Side of the maps that components and clicks are found in: the saliency network's own."""

LOGIT_BOUND = frames.MASK_PROMPT_LOGIT


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One component of the saliency map.

    Attributes:
        mask: (320, 320) bool.
        clicks: On the object, original frame, the deepest place first.
    """

    mask: np.ndarray
    clicks: tuple[Click, ...]


class FirstCut(nn.Module):
    """Cuts what stands out, on an embedding that exists already.

    Args:
        saliency: Maps an image to what stands out.
        model: Encoder, prompt encoder and decoder; only the latter two are used here.
        threshold: Saliency above which a pixel belongs to a component.
        most_parts: Components that are cut, the largest first.
        smallest_part: Share of the salient area below which a component is left out.
        clicks: Clicks per component.
        map_share: Share of the saliency map's logits in the result; the rest is the decoder's.
        rounds: How often the decoder is asked; from the second time on its mask prompt is the part's result so far.
        least_agreement: A part whose mask agrees less with its map (soft IoU) follows the map alone: the decoder took something else.

    Raises:
        ConfigError: If `rounds` is not positive.
    """

    def __init__(
        self,
        saliency: U2Net,
        model: SamClicks,
        threshold: float = 0.5,
        most_parts: int = 4,
        smallest_part: float = 0.01,
        clicks: int = 3,
        map_share: float = 0.3,
        rounds: int = 1,
        least_agreement: float = 0.5,
    ) -> None:
        super().__init__()
        if rounds < 1:
            raise ConfigError(f"rounds: expected at least 1, got {rounds}")
        self.saliency = saliency
        self._model = [model]  # in a list: the session's own model, not a submodule
        self._threshold, self._most_parts, self._smallest_part = threshold, most_parts, smallest_part
        self._clicks, self._map_share = clicks, map_share
        self._rounds, self._least_agreement = rounds, least_agreement

    @classmethod
    def build(cls, model: SamClicks) -> FirstCut:
        """Return the cut with U²-Netp as shipped in the package."""
        return cls(load_u2netp(), model)

    @torch.no_grad()
    def forward(self, image: np.ndarray, embedding: ImageEmbedding, frame: frames.Frame) -> Segmentation:
        """Cut an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            embedding: Of this image, by the model's encoder.
            frame: Of this image.

        Returns:
            The union of the parts, with each part as an instance; where nothing stands out, the map alone with score 0.
        """
        probs = saliency_map(self.saliency, image)
        small = frames.resize_map(probs, MAP_SIDE, MAP_SIDE)
        found = salient_parts(small, image.shape[:2], self._threshold, self._most_parts, self._smallest_part, self._clicks)
        size = self._model[0].preprocessing.logit_side
        whole = self._prompt_map(small, frame, size)
        if not found:
            return Segmentation(at_own_resolution(whole, image, frame), 0.0, image=image)
        mixed, scores = zip(*(self._cut(part, small, whole, embedding, frame, size) for part in found), strict=True)
        union = np.max(mixed, 0)
        areas = np.array([part.mask.sum() for part in found], float)
        parts = [at_own_resolution(part, image, frame) for part in mixed]
        instances = tuple(Segmentation(part, score, image=image) for part, score in zip(parts, scores, strict=True))
        logits = parts[0] if len(parts) == 1 else at_own_resolution(union, image, frame)
        return Segmentation(logits, float(np.average(scores, weights=areas)), image=image, instances=instances)

    def _cut(self, part: Part, probs: np.ndarray, whole: np.ndarray, embedding: ImageEmbedding, frame: frames.Frame, size: int) -> tuple[np.ndarray, float]:
        """Return a part's logits (1, 1, size, size), mixed with those of the whole map, and its score."""
        model = self._model[0]
        others = (probs > self._threshold) & ~part.mask
        own = self._prompt_map(np.where(others, 0.0, probs).astype(np.float32), frame, size)
        own_probs = torch.as_tensor(own[0]).to(embedding.final.device).sigmoid()
        prompt, mixed, score = own, own, 0.0
        for _ in range(self._rounds):
            logits, iou = model.decode(embedding, model.embed(Prompt(part.clicks, previous_logits=prompt), frame))
            agreement = probs_iou(logits[0, 1:].sigmoid(), own_probs)
            quality = agreement * iou[0, 1:].clamp(0, 1)
            best = int(quality.argmax())
            if agreement[best] < self._least_agreement:
                return mixed, score
            decoded = logits[:, best + 1 : best + 2].clamp(-LOGIT_BOUND, LOGIT_BOUND).cpu().numpy()
            mixed, score = (1 - self._map_share) * decoded + self._map_share * whole, float(quality[best])
            prompt = (1 - self._map_share) * decoded + self._map_share * own
        return mixed, score

    @staticmethod
    def _prompt_map(probs: np.ndarray, frame: frames.Frame, size: int) -> np.ndarray:
        """Return a small map of probabilities as logits in the decoder's frame, (1, 1, size, size)."""
        bounded = np.clip(probs, 1 / (1 + np.exp(LOGIT_BOUND)), 1 / (1 + np.exp(-LOGIT_BOUND)))
        logits = np.log(bounded / (1 - bounded)).astype(np.float32)
        return frames.mask_to_logits(frames.resize_map(logits, frame.height, frame.width), frame, size)


def salient_parts(probs: np.ndarray, image_size: tuple[int, int], threshold: float, most_parts: int, smallest_part: float, clicks: int) -> list[Part]:
    """Split a saliency map into the parts to cut.

    Args:
        probs: (320, 320) in [0, 1], covering the whole image.
        image_size: (H, W) of the image.
        threshold: A pixel above it is salient.
        most_parts: Largest number of parts.
        smallest_part: Share of the salient area that a part needs.
        clicks: Per part.

    Returns:
        The parts, the largest first; none where nothing is salient.
    """
    labels, stats = masks.components(probs > threshold)
    areas = stats[1:, cv2.CC_STAT_AREA]
    wanted = [i for i in np.argsort(-areas, kind="stable")[:most_parts] if areas[i] >= smallest_part * areas.sum()]
    scale = np.array([image_size[1], image_size[0]]) / np.array(probs.shape[::-1])
    found: list[Part] = []
    for i in wanted:
        mask = labels == i + 1
        sure = mask & (probs > 0.9)
        places = deepest_places(sure if sure.sum() > 20 else mask, clicks)
        xy = (np.array(places, float) + 0.5) * scale - 0.5
        found.append(Part(mask, tuple(Click(float(x), float(y)) for x, y in xy)))
    return found
