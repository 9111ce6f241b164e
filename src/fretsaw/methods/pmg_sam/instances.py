"""Components as instances, and a pass of the click decoder that splits what touches.

The paper ends at connected components and names touching objects as its limit. Here each component is clicked at its deepest places: where the decoder
answers two clicks by two masks that hardly overlap and together explain the component, there are two objects.

Source: PMG-SAM (paper 001), section 4.3 (components) and section 4.6 (the limit); the pass by clicks is this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from fretsaw import frames, masks
from fretsaw.clicks.places import deepest_places
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.types import Click, ImageEmbedding, Prompt

SMALLEST = 0.01
"""Share of the whole mask below which a component is no instance."""


@dataclass(frozen=True, slots=True)
class SplitRules:
    """When a component is taken for several objects.

    Attributes:
        clicks: Places that are clicked in a component.
        inside: Share of an answer that must lie in the component.
        least: Share of the component that an answer must cover.
        apart: Largest share of the smaller of two answers that the other may cover.
        explained: Share of the component that the answers together must cover.
        confident: Least predicted IoU of an answer.
    """

    clicks: int = 12
    inside: float = 0.8
    least: float = 0.1
    apart: float = 0.2
    explained: float = 0.75
    confident: float = 0.7


RULES = SplitRules()


def find_components(mask: np.ndarray, smallest: float = SMALLEST) -> list[np.ndarray]:
    """Return a mask's components (H, W) bool, the largest first, without those below a share of the mask."""
    labels, stats = masks.components(mask)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return [labels == i + 1 for i in np.argsort(-areas, kind="stable") if areas[i] >= smallest * areas.sum()]


@torch.no_grad()
def split_component(
    component: np.ndarray, model: SamClicks, embedding: ImageEmbedding, frame: frames.Frame, rules: SplitRules = RULES
) -> list[tuple[np.ndarray, float]]:
    """Split a component into the objects that the click decoder sees in it.

    Args:
        component: (H, W) bool, original frame.
        model: Answers the clicks.
        embedding: Of this image.
        frame: Of this image.
        rules: When to split.

    Returns:
        One or more (mask (H, W) bool, score): disjoint, together the component. The score is the decoder's predicted IoU, 0 where nothing was split.
    """
    size = model.preprocessing.logit_side
    own = torch.as_tensor(frames.mask_to_logits(component, frame, size)[0, 0] > 0).to(embedding.final.device)
    answers = _answers(own, model, embedding, frame, rules)
    if len(answers) < 2:
        return [(component, 0.0)]
    chosen: list[tuple[Tensor, float]] = []
    for logits, score in answers:
        mask = (logits > 0) & own
        overlaps = [float((mask & (other > 0)).sum() / torch.minimum(mask.sum(), ((other > 0) & own).sum()).clamp(min=1)) for other, _ in chosen]
        if all(overlap <= rules.apart for overlap in overlaps):
            chosen.append((logits, score))
    covered = torch.stack([logits > 0 for logits, _ in chosen]).any(0) & own
    if len(chosen) < 2 or covered.sum() < rules.explained * own.sum():
        return [(component, 0.0)]
    owner = frames.logits_to_image(torch.stack([logits for logits, _ in chosen])[None].cpu().numpy(), frame)[0].argmax(0)
    parts = [(component & (owner == i), score) for i, (_, score) in enumerate(chosen)]
    return [(mask, score) for mask, score in parts if mask.any()]


def _answers(own: Tensor, model: SamClicks, embedding: ImageEmbedding, frame: frames.Frame, rules: SplitRules) -> list[tuple[Tensor, float]]:
    """Return the decoder's answers (size, size) to one click each that lie in the component, the surest first; three masks a click, each by itself."""
    scale = np.array([frame.width / frame.content_width, frame.height / frame.content_height]) * (frame.size / own.shape[-1])
    area = own.sum()
    found: list[tuple[float, Tensor, float]] = []
    for x, y in deepest_places(own.cpu().numpy(), rules.clicks):
        at = (np.array([x, y]) + 0.5) * scale - 0.5
        logits, iou = model.decode(embedding, model.embed(Prompt((Click(float(at[0]), float(at[1])),)), frame))
        for mask_logits, score in zip(logits[0, 1:], map(float, iou[0, 1:]), strict=True):
            mask = mask_logits > 0
            inside = (mask & own).sum()
            if inside >= rules.inside * mask.sum() and inside >= rules.least * area and score >= rules.confident:
                found.append((score, mask_logits, score))
    return [(logits, score) for _, logits, score in sorted(found, key=lambda entry: -entry[0])]
