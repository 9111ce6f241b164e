"""Figures of each stage of a coarse-to-fine model: the coarse mask, the fine mask, and the final classes or foreground."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fretsaw import frames
from fretsaw.data.samples import Sample
from fretsaw.data.truths import IGNORED
from fretsaw.evaluation.overlap import dice, pixel_accuracy
from fretsaw.evaluation.semantic import class_ious, confusion_matrix, mean_iou
from fretsaw.evaluation.semantic import pixel_accuracy as label_accuracy
from fretsaw.methods.grc_sam.cut import label_image
from fretsaw.methods.grc_sam.model import GrcResult
from fretsaw.types import ImageEmbedding


class StageTally:
    """Sums the figures of samples.

    Args:
        classes: Number of classes, the background among them; 2 for a binary model.
        foreground: Ids of the classes that the coarse and the fine mask are to find.
    """

    def __init__(self, classes: int, foreground: Iterable[int]) -> None:
        self.confusion = np.zeros((classes, classes + 1), np.int64)
        self._foreground = sorted(foreground)
        self._masks: dict[str, list[tuple[float, float]]] = {}
        self._active: list[float] = []

    def add(self, result: GrcResult | Tensor, truth: np.ndarray, frame: frames.Frame) -> None:
        """Add one image.

        Args:
            result: The network's, B = 1; or class_logits (1, K, ., .) alone.
            truth: (H, W) int, class ids, 255 ignored.
            frame: Of the image.
        """
        logits = result if isinstance(result, Tensor) else result.class_logits
        labels, _ = label_image(logits, frame)
        self.confusion += confusion_matrix(labels, truth, len(self.confusion))
        ignored, wanted = truth == IGNORED, np.isin(truth, self._foreground)
        self._add_mask("", np.isin(labels, self._foreground), wanted, ignored)
        if not isinstance(result, Tensor):
            coarse = frames.logits_to_image(result.coarse_mask.cpu().numpy(), frame)[0, 0] > 0.5
            self._add_mask("coarse ", coarse, wanted, ignored)
            self._add_mask("fine ", frames.logits_to_image(result.fine_logits.cpu().numpy(), frame)[0, 0] > 0, wanted, ignored)
            self._active.append(float(result.active.float().mean()))

    def figures(self) -> dict[str, float]:
        """Return "mIoU" and "PA" over all pixels of all images; "Dice" and "foreground PA", means over images, of the final foreground, and with "coarse " and
        "fine " before them of the two masks; "rho", the mean share of fine tokens that were computed."""
        found = {"mIoU": mean_iou(self.confusion), "PA": label_accuracy(self.confusion)}
        for stage, pairs in self._masks.items():
            found[f"{stage}Dice"], found[f"{stage}foreground PA"] = (float(np.mean(values)) for values in zip(*pairs, strict=True))
        return found | ({"rho": float(np.mean(self._active))} if self._active else {})

    def ious(self) -> np.ndarray:
        """Return the IoU of each class, NaN where it does not occur."""
        return class_ious(self.confusion)

    def _add_mask(self, stage: str, mask: np.ndarray, truth: np.ndarray, ignored: np.ndarray) -> None:
        self._masks.setdefault(stage, []).append((dice(mask & ~ignored, truth & ~ignored), pixel_accuracy(mask, truth, ignored)))


@torch.no_grad()
def stage_tally(
    samples: Iterable[Sample],
    network: Callable[[ImageEmbedding], Any],
    embedding_of: Callable[[Sample, np.ndarray], ImageEmbedding],
    frame_of: Callable[[np.ndarray], frames.Frame],
    classes: int,
    foreground: Iterable[int],
    done: Callable[[Mapping[str, float]], None] = lambda figures: None,
) -> StageTally:
    """Run a network over samples.

    Args:
        samples: Whose truths are class ids, 255 ignored; of a binary set 1 the object, 0 background, -1 or 255 ignored.
        network: Embedding -> result or class_logits.
        embedding_of: (sample, image) -> its embedding, B = 1.
        frame_of: Image -> frame.
        classes: See `StageTally`.
        foreground: See `StageTally`.
        done: Told the figures so far after every sample.
    """
    tally = StageTally(classes, foreground)
    for sample in samples:
        image, truth = sample.read()
        truth = np.where(truth < 0, IGNORED, truth).astype(np.int32)
        tally.add(network(embedding_of(sample, image)), truth, frame_of(image))
        done(tally.figures())
    return tally
