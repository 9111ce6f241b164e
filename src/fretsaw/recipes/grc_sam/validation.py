"""GrC-SAM's validation: measure the val split, keep the best weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fretsaw.data.samples import Sample
from fretsaw.evaluation.stages import StageTally, stage_tally
from fretsaw.methods.grc_sam.build import Description, export
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.grc_sam.config import GrcSamConfig
from fretsaw.recipes.grc_sam.data import GrcData, LabelledViews
from fretsaw.recipes.grc_sam.steps import GrcTraining
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.embeddings import to_device
from fretsaw.training.provenance import settings_text
from fretsaw.types import ImageEmbedding


class GrcValidation:
    """The loop's validation: measure the val split, and store the weights if they are the best so far."""

    def __init__(
        self,
        training: GrcTraining,
        model: SamClicks,
        config: GrcSamConfig,
        data: GrcData,
        about: Description,
        stored: LabelledViews | None,
        cache: EmbeddingCache | None,
    ) -> None:
        self._training, self._model, self._config, self._data, self._about = training, model, config, data, about
        self._views, self._cache = stored, cache
        self._best = Path(config.out) / "best.json"

    def __call__(self, done: int) -> Mapping[str, float]:
        """Return the figures of the val split; store the network if it is the best so far."""
        tally = self.measure()
        figures = tally.figures()
        decides = "mIoU" if self._data.names else "Dice"
        best = json.loads(self._best.read_text()) if self._best.exists() else None
        if best is None or figures[decides] > best[decides]:
            facts = {
                "recipe": "grc_sam",
                "steps": str(done),
                "val": json.dumps(figures),
                "base_checksum": self._model.checksum,
                "settings": settings_text(self._config),
            }
            start = self._model.mask_decoder.state_dict() if self._config.rank else None
            export(self._training.network, self._about, Path(self._config.out) / "model.safetensors", facts, self._training.encoder, start, self._config.rank)
            ious = dict(zip(self._about.shown_names, tally.ious().tolist(), strict=True))
            self._best.write_text(json.dumps({"step": done, **figures, "IoU by class": ious}, indent=1))
        return figures

    def measure(self) -> StageTally:
        """Run the network over the val part."""
        network = self._training.network.eval()

        def embedding_of(sample: Sample, image: np.ndarray) -> ImageEmbedding:
            if self._cache is not None:
                assert self._views is not None
                return to_device(self._cache.get(self._views.key(sample, 0)), self._config.device)
            return self._model.encode(self._model.pixels_of(image))

        tally = stage_tally(self._data.val, network, embedding_of, self._model.preprocessing.frame_of, len(self._about.shown_names), self._data.foreground)
        network.train()
        return tally
