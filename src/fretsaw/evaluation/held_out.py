"""Click through held-out objects while a model is trained, on embeddings that are stored already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fretsaw.data.samples import Sample
from fretsaw.evaluation.adapters import SessionPredictor
from fretsaw.evaluation.clicks import ClickTally, click_through, sample_rng
from fretsaw.evaluation.overlap import boundary_iou
from fretsaw.evaluation.protocols import SAM
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.session import Session
from fretsaw.types import ImageEmbedding, Refiner

SHOWN = ("NoC@90", "NoC@95", "IoU@1", "IoU@2", "IoU@3", "IoU@5", "IoU@10", "IoU@20")
"""The figures of `ClickTally` that a training log holds, beside "boundary IoU"."""


@dataclass(frozen=True)
class StoredOpener:
    """Opens sessions with a given embedding, as `Segmenter.open` does with a new one."""

    model: SamClicks
    embedding: ImageEmbedding
    refiner: Refiner[Any] | None

    def open(self, image: np.ndarray) -> Session:
        return Session(image, TorchClickModel(self.model, self.refiner), embedding=self.embedding)


def held_out_figures(
    samples: Sequence[Sample], model: SamClicks, refiner: Refiner[Any] | None, embedding_of: Callable[[Path], ImageEmbedding], clicks: int = 20
) -> Mapping[str, float]:
    """Click every sample by the protocol `sam`.

    Args:
        samples: Objects.
        model: Prompt encoder and decoder; its image encoder is not asked.
        refiner: Improves every answer, or None.
        embedding_of: Maps an image file to its stored embedding.
        clicks: At most so many, and the NoC of an object that does not reach the target.

    Returns:
        Those of `SHOWN`, and "boundary IoU", the mean of the last masks'.
    """
    protocol = replace(SAM, max_clicks=clicks)
    tally = ClickTally(max(clicks, 20))
    edges: list[float] = []
    for sample in samples:
        image, truth = sample.read()
        predictor = SessionPredictor(StoredOpener(model, embedding_of(sample.image), refiner))
        trace = click_through(predictor, image, truth, protocol, sample_rng(0, sample.name))
        tally.add({"ious": list(trace.ious)})
        edges.append(boundary_iou(trace.mask, truth == 1))
    metrics = tally.metrics()
    return {name: metrics[name] for name in SHOWN} | {"boundary IoU": float(np.mean(edges))}
