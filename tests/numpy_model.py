"""A click model in numpy alone: clicks choose the colours that the mask is made of. Deterministic, and good enough to zoom in on a bright square."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fretsaw import frames
from fretsaw.errors import ShapeError
from fretsaw.types import Answer, Embedding, Prompt, RefinerState, Seen


@dataclass(frozen=True)
class Brightness:
    """What it keeps of an image: (k, k) float32 brightness of the model's frame."""

    values: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


class NumpyClickModel:
    """Answers by brightness: above the middle between positive and negative clicks is object, mixed with the mask before.

    Args:
        refines: Whether it says that it mends masks and carries a state.
    """

    preprocessing = frames.Preprocessing(frames.longest_side, 128, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    checksum = "numpy"
    logit_side = 32

    def __init__(self, refines: bool = False) -> None:
        self.refines, self.looked = refines, 0

    def look(self, image: np.ndarray, embedding: Embedding | None = None, taps: Sequence[str] = ()) -> Seen:
        self.looked += embedding is None
        side = self.logit_side
        known = embedding or Brightness(frames.resize_map(self.preprocessing.pixels_of(image)[0].mean(0), side, side))
        return Seen(self.preprocessing.frame_of(image), known, Brightness(np.zeros(1)) if self.refines else None)

    def answer(self, seen: Seen, prompt: Prompt, state: RefinerState[np.ndarray] | None = None) -> Answer:
        assert isinstance(seen.embedding, Brightness)
        values = seen.embedding.values
        at = frames.points_to_model(np.array([(click.x, click.y) for click in prompt.clicks]).reshape(-1, 2), seen.frame) * self.logit_side / 128
        columns, rows = at.astype(int).clip(0, self.logit_side - 1).T
        said = np.array([click.positive for click in prompt.clicks], bool)
        bright = values[rows, columns][said].mean() if said.any() else 0.9
        dark = values[rows, columns][~said].mean() if not said.all() else min(0.5, bright / 2)
        logits = (20 * (values - (bright + dark) / 2)).astype(np.float32)[None, None]
        if prompt.previous_logits is not None:
            logits = (0.9 * logits + 0.1 * prompt.previous_logits).astype(np.float32)
        logits.flags.writeable = False
        if not self.refines:
            return Answer(logits, 0.75)
        calls = state.error_map + 1 if state is not None and state.error_map is not None else np.ones_like(logits)
        return Answer(logits, 0.75, RefinerState(state is not None and state.given, calls))

    def pack(self, embedding: Embedding) -> dict[str, np.ndarray]:
        assert isinstance(embedding, Brightness)
        return {"brightness": embedding.values}

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> Brightness:
        if arrays.get("brightness", np.zeros(0)).shape != (self.logit_side, self.logit_side):
            raise ShapeError("expected the brightness of an image")
        return Brightness(arrays["brightness"])
