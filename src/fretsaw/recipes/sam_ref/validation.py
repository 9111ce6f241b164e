"""SAM-REF's validation: measure the held-out objects, keep the best weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fretsaw.evaluation.held_out import held_out_figures
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.methods.sam_ref.model import GLOBAL_FROM, SamRef
from fretsaw.recipes.sam_ref.config import SamRefConfig
from fretsaw.recipes.sam_ref.data import ClickData
from fretsaw.recipes.sam_ref.files import export
from fretsaw.recipes.sam_ref.stages import DecoderStage, RefinerStage
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.embeddings import to_device
from fretsaw.types import ImageEmbedding


class SamRefValidation:
    """The loop's validation: measure the held-out objects, and store the weights if they are the best so far."""

    def __init__(self, config: SamRefConfig, model: SamClicks, learner: RefinerStage | DecoderStage, data: ClickData, cache: EmbeddingCache) -> None:
        self._config, self._model, self._learner, self._data, self._cache = config, model, learner, data, cache
        self._keys = {photo.path: photo.key for photo in data.held_out_photos}
        self._best = Path(config.out) / "best.json"
        start = Path(config.out) / "start.json"
        if not start.exists():
            Path(config.out).mkdir(parents=True, exist_ok=True)
            start.write_text(json.dumps(self._measure(None), indent=1))
        self.start: dict[str, float] = json.loads(start.read_text())

    def __call__(self, done: int) -> Mapping[str, float]:
        """Return the figures of all held-out objects and of each set, and how many clicks fewer than before training ("less NoC@90": higher is better)."""
        self._learner.eval()
        if isinstance(self._learner, RefinerStage):
            figures = dict(self._measure(_as_used(self._learner.refiner)))
        else:
            learning, self._model.mask_decoder = self._model.mask_decoder, self._learner.kept
            figures = dict(self._measure(None))
            self._model.mask_decoder = learning
        best = json.loads(self._best.read_text()) if self._best.exists() else None
        if best is None or _order(figures) < _order(best):
            export(self._learner, self._config, self._model, done)
            self._best.write_text(json.dumps({"step": done, **figures}, indent=1))
        self._learner.train()
        return figures | {f"less {name}": self.start[name] - figures[name] for name in ("NoC@90", "NoC@95")}

    def _measure(self, refiner: SamRef | None) -> Mapping[str, float]:
        def stored(path: Path) -> ImageEmbedding:
            return to_device(self._cache.get(self._keys[path]), self._model.device)

        sets = self._data.held_out_sets
        groups = {name: [sample for sample, own in zip(self._data.held_out, sets, strict=True) if own == name] for name in dict.fromkeys(sets)}
        parts = {name: held_out_figures(samples, self._model, refiner, stored) for name, samples in groups.items()}
        means = {figure: float(np.mean([part[figure] for part in parts.values()])) for figure in next(iter(parts.values()))}
        return means | {f"{name} {figure}": part[figure] for name, part in parts.items() if len(parts) > 1 for figure in ("NoC@90", "NoC@95", "boundary IoU")}


def _as_used(refiner: SamRef) -> SamRef:
    """Return a copy of the refiner that answers from the same clicks on as a loaded refiner."""
    copy = refiner.for_answers()
    copy.global_from, copy.patch_from = GLOBAL_FROM, None
    return copy


def _order(figures: Mapping[str, float]) -> tuple[float, float]:
    """Return the order of two validations, lower is better: first NoC@90 + NoC@95, then the boundary IoU."""
    return figures["NoC@90"] + figures["NoC@95"], -figures["boundary IoU"]
