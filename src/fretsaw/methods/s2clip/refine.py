"""From regions to SAM's masks and back to a label map.

    class maps --split--> regions --prompts--> SAM, in batches over all classes --fuse--> labels

Source: S2CLIP, algorithm 4; Trident (Shi et al. 2024), section 3.4 and published code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.backbones.sam_decoder import MakeMasks
from fretsaw.frames import Frame, Preprocessing, points_to_model
from fretsaw.layers.resampling import enlarge_logits
from fretsaw.methods.s2clip.maps import ClassMaps, coarse_labels, reduce_map
from fretsaw.methods.s2clip.regions import Region, Split, optimised_regions, present_labels
from fretsaw.methods.sam_clicks import SamClicks, pad_points
from fretsaw.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, POSITIVE, ImageEmbedding, PromptEmbedding

PromptKind = Literal["point", "box", "mask"]
ACCELERATOR_PROMPTS = 32
"""Regions per call of the decoder on an accelerator, as in algorithm 4."""

CPU_PROMPTS = 16
"""Regions of one class per call of the decoder on a CPU. A call holds 4 MB a region until it is known which masks are wanted."""

ALL_PROMPTS: frozenset[PromptKind] = frozenset({"point", "box", "mask"})


@dataclass(frozen=True, slots=True)
class Refinement:
    """How a label map is refined.

    Attributes:
        split: Finds the regions of a class: `optimised_regions`, `original_regions`, or another function (experiments/s2clip/references.py has the one of
            table 4's "w/o CCA").
        prompts: What SAM is told about a region (table 4's "w/o box" and "w/o mask" leave one out).
        mask_coefficient: Factor of the class probabilities that are the mask prompt.
        iou_threshold: A mask counts if SAM predicts an IoU above this.
        prompts_at_once: Regions of any classes per call of the decoder. None: 32 on an accelerator; on a CPU, which gains nothing from large calls, at most 16
            regions of one class, because they have the mask prompt in common and the decoder then projects the image for all of them once.
    """

    split: Split = optimised_regions
    prompts: frozenset[PromptKind] = ALL_PROMPTS
    mask_coefficient: float = 0.005
    iou_threshold: float = 0.8
    prompts_at_once: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ClassPrompt:
    """One class's regions as SAM's decoder wants them.

    Attributes:
        label: The class.
        regions: R of them, in the order of their first pixel.
        points: (R, 2) xy of the peaks, model frame.
        boxes: (R, 4) x0, y0, x1, y1 of the outermost pixels' places, model frame.
        mask_logits: (1, 1, S/4, S/4), the same for all regions of the class.
    """

    label: int
    regions: Sequence[Region]
    points: Tensor
    boxes: Tensor
    mask_logits: Tensor


Ask = Callable[[Sequence[ClassPrompt]], tuple[Tensor, MakeMasks]]
"""(prompts of some classes) -> predicted_iou (R,) of all their regions in order, and a function that makes the low_res_logits (n, 1, S/4, S/4) of those n
whose indices it is given: a region that SAM is not sure of costs no mask."""

Observe = Callable[[int, Tensor], None]
"""Told, for each class with accepted masks, its label and the values (H, W) with which it competes."""


def class_prompts(maps: ClassMaps, preprocessing: Preprocessing, refinement: Refinement, threshold: float, minimum_area: int) -> list[ClassPrompt]:
    """Return the prompts of every class that has regions, in the order of the classes.

    Args:
        maps: The image's classes.
        preprocessing: SAM's, whose frame the prompts are in.
        refinement: How regions are found.
        threshold: Probability from which a pixel belongs to a region.
        minimum_area: Smallest region, in pixels of the reduced size.
    """
    height, width = (int(side) for side in maps.labels.shape)
    labels = coarse_labels(maps, threshold)
    small = preprocessing.frame(labels.shape[0], labels.shape[1], preprocessing.size)
    prompt_frame = preprocessing.frame(height, width, preprocessing.logit_side)
    found = []
    for label in present_labels(labels, maps.classes):
        probabilities = reduce_map(maps.probabilities(label))
        regions = refinement.split(labels, label, probabilities.cpu().numpy(), threshold, minimum_area)
        if regions:
            mask_logits = mask_prompt(probabilities, prompt_frame, threshold, refinement.mask_coefficient)
            points = points_to_model(np.array([region.point for region in regions]), small)
            corners = points_to_model(np.array([region.box for region in regions]).reshape(-1, 2, 2), small).reshape(-1, 4)
            found.append(ClassPrompt(label, regions, torch.from_numpy(points).float(), torch.from_numpy(corners).float(), mask_logits))
    return found


def mask_prompt(probabilities: Tensor, frame: Frame, threshold: float, coefficient: float) -> Tensor:
    """Return a class's mask prompt (1, 1, S/4, S/4): its probabilities above the threshold times a small factor, 0 elsewhere.

    Args:
        probabilities: (h, w) of the reduced size.
        frame: Of an image in the prompt's square.
        threshold: See `class_prompts`.
        coefficient: See `Refinement`.

    Source: S2CLIP, algorithm 4; Trident's published code.
    """
    size = (frame.content_height, frame.content_width)
    values = F.interpolate(probabilities[None, None], size=size, mode="bilinear", align_corners=False)
    values = F.pad(values, (0, frame.size - size[1], 0, frame.size - size[0]))
    return torch.where(values > threshold, coefficient * values, 0.0)


def sam_answers(model: SamClicks, embedding: ImageEmbedding, frame: Frame, kinds: frozenset[PromptKind] = ALL_PROMPTS) -> Ask:
    """Return the function that asks SAM's decoder, or any decoder behind its seam, for the single mask of each region.

    Args:
        model: SAM, SAM 2, or whatever else is a `SamClicks`.
        embedding: Of the image.
        frame: The image in the model's input.
        kinds: What the decoder is told.
    """

    def ask(prompts: Sequence[ClassPrompt]) -> tuple[Tensor, MakeMasks]:
        points, boxes = torch.cat([prompt.points for prompt in prompts]), torch.cat([prompt.boxes for prompt in prompts])
        parts: list[tuple[Tensor, tuple[int, ...]]] = []
        if "point" in kinds:
            parts.append((points[:, None], (POSITIVE,)))
        if "box" in kinds:
            parts.append((boxes.unflatten(1, (2, 2)), (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT)))
        coords = torch.cat([part for part, _ in parts], dim=1)
        labels = torch.tensor([label for _, own in parts for label in own]).expand(len(coords), -1)
        if "box" not in kinds or model.prompt_encoder.pads_beside_box:
            coords, labels = pad_points(coords, labels)
        embedded = model.embed_prompt(coords, labels)
        if "mask" in kinds:
            embedded = PromptEmbedding(embedded.sparse, _dense(model, prompts))
        return model.judge(embedding, embedded, frame)

    return ask


def _dense(model: SamClicks, prompts: Sequence[ClassPrompt]) -> Tensor:
    """Embed each class's mask once, and repeat it for its regions; a single class is expanded, which lets the decoder share its work."""
    dense = model.embed_prompt(mask_logits=torch.cat([prompt.mask_logits for prompt in prompts])).dense
    counts = [len(prompt.regions) for prompt in prompts]
    if len(prompts) == 1:
        return dense.expand(counts[0], -1, -1, -1)
    return dense.repeat_interleave(torch.tensor(counts, device=dense.device), dim=0)


def pieces(prompts: Sequence[ClassPrompt], size: int) -> Iterator[ClassPrompt]:
    """Cut classes into pieces of at most `size` regions."""
    for prompt in prompts:
        for start in range(0, len(prompt.regions), size):
            rows = slice(start, start + size)
            yield ClassPrompt(prompt.label, prompt.regions[rows], prompt.points[rows], prompt.boxes[rows], prompt.mask_logits)


def batches(prompts: Sequence[ClassPrompt], size: int) -> Iterator[list[ClassPrompt]]:
    """Pack classes into batches of at most `size` regions, a class with more being cut into pieces."""
    batch: list[ClassPrompt] = []
    for piece in pieces(prompts, size):
        if batch and sum(len(other.regions) for other in batch) + len(piece.regions) > size:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


class MaskFusion:
    """Joins accepted masks into a label map, one class after the other, so that only a few maps of the image's size exist at a time.

    Args:
        maps: The image's classes.
        frame: The image in SAM's input.
        observe: See `Observe`.

    Source: S2CLIP, algorithm 4, MapRefinement and MapFailedRegions; Trident's published code.

    Deviation: the published code first raises the refined values to those of the failed regions and then asks where the failed ones are larger, which is
        nowhere; so a failed region keeps its coarse label only where no accepted mask speaks. Fretsaw does as the code does, because the paper's figures come
        from it.
    """

    def __init__(self, maps: ClassMaps, frame: Frame, observe: Observe | None = None) -> None:
        self._maps, self._frame, self._observe = maps, frame, observe
        self._best = torch.zeros(maps.labels.shape, device=maps.labels.device)
        self._labels = maps.labels.clone()
        self._current = -1
        self._logits: Tensor | None = None

    def add(self, label: int, low_res_logits: Tensor) -> None:
        """Add an accepted mask (1, S/4, S/4) of a class; classes come in ascending order."""
        if label != self._current:
            self._close()
            self._current = label
        logits = enlarge_logits(low_res_logits[None], self._frame)[0, 0]
        self._logits = logits if self._logits is None else torch.maximum(self._logits, logits)

    def finish(self) -> Tensor:
        """Return the labels (H, W): of the class whose mask and class probability have the largest product, the coarse label where no mask speaks."""
        self._close()
        return self._labels

    def _close(self) -> None:
        if self._logits is None:
            return
        # of several masks of one class the one with the largest logit counts, so the union of the masks is where that is positive
        values = self._logits.sigmoid() * self._maps.probabilities(self._current)
        values.masked_fill_(self._logits <= 0, 0)
        wins = values > self._best
        self._labels[wins] = self._current
        torch.maximum(self._best, values, out=self._best)
        if self._observe is not None:
            self._observe(self._current, values)
        self._logits = None


@torch.no_grad()
def refine(
    maps: ClassMaps,
    ask: Ask,
    preprocessing: Preprocessing,
    refinement: Refinement,
    threshold: float,
    minimum_area: int,
    observe: Observe | None = None,
) -> Tensor:
    """Return the refined labels (H, W) int64; the coarse ones where SAM is not sure of anything.

    Args:
        maps: The image's classes.
        ask: Answers prompts, see `sam_answers`.
        preprocessing: SAM's.
        refinement: How.
        threshold: Probability from which a pixel belongs to a region.
        minimum_area: Smallest region, in pixels of the reduced size.
        observe: Told the values of each class with accepted masks.

    Source: S2CLIP, algorithm 4.

    Deviation: on an accelerator prompts of different classes share calls of the decoder; the paper calls it class by class. The answers are the same.
    """
    height, width = (int(side) for side in maps.labels.shape)
    fusion = MaskFusion(maps, preprocessing.frame(height, width, preprocessing.size), observe)
    prompts = class_prompts(maps, preprocessing, refinement, threshold, minimum_area)
    if refinement.prompts_at_once is None and maps.labels.device.type == "cpu":
        calls = ([piece] for piece in pieces(prompts, CPU_PROMPTS))
    else:
        calls = batches(prompts, refinement.prompts_at_once or ACCELERATOR_PROMPTS)
    for batch in calls:
        iou, masks = ask(batch)
        labels = [prompt.label for prompt in batch for _ in prompt.regions]
        wanted = torch.nonzero(iou > refinement.iou_threshold).flatten()
        for index, low_res_logits in zip(wanted.tolist(), masks(wanted), strict=True):
            fusion.add(labels[index], low_res_logits)
    return fusion.finish()
