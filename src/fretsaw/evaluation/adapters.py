"""Fretsaw's own models as the click protocols see them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from fretsaw import frames
from fretsaw.errors import ModelError
from fretsaw.evaluation.predictors import ClickPredictor, OpenImage, Unit, logits
from fretsaw.evaluation.protocols import ClickProtocol
from fretsaw.methods.sam_clicks import SamClicks, best_of_three, prompt_points, single
from fretsaw.session import Session
from fretsaw.types import Click, Prompt, Refiner

if TYPE_CHECKING:
    from fretsaw.api import Segmenter

Choice = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Opener(Protocol):
    """Makes a session per image, as `Segmenter` does."""

    def open(self, image: np.ndarray) -> Session: ...


class SessionPredictor:
    """Clicks the way a user does: through a session, refiner included.

    The session answers with the best of three masks by predicted IoU at every click, all clicks so far and its own unclamped low-resolution logits in the
    prompt, enlarged bilinearly to the image: the protocol `sam`.
    """

    unit: Unit = "logits"

    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    def open(self, image: np.ndarray) -> OpenImage:
        return _SessionImage(self._opener.open(image))


class _SessionImage:
    def __init__(self, session: Session) -> None:
        self._session = session

    def predict(self, clicks: Sequence[Click], previous: np.ndarray | None) -> np.ndarray:
        assert tuple(clicks[:-1]) == self._session.step.prompt.clicks, "a session takes clicks one after the other"
        last = clicks[-1]
        return self._session.click(last.x, last.y, last.positive).logits


class DecoderPredictor:
    """Clicks on SAM's decoder with the choices of a protocol that a session does not make.

    A map handed in from outside (probabilities, labels) becomes the mask prompt; where none is, the decoder's own last logits do, none at the first click.

    Args:
        model: Encoder, prompt encoder and decoder.
        choose: `best_of_three` or `single`.
        preprocessing: How the image is fed; None for the model's own.
        refiner: Improves each answer, or None.
    """

    unit: Unit = "logits"

    def __init__(self, model: SamClicks, choose: Choice, preprocessing: frames.Preprocessing | None = None, refiner: Refiner | None = None) -> None:
        self.model, self.choose, self.refiner = model, choose, refiner
        self.preprocessing = preprocessing or model.preprocessing

    def open(self, image: np.ndarray) -> OpenImage:
        return _DecoderImage(self, image)


class _DecoderImage:
    def __init__(self, predictor: DecoderPredictor, image: np.ndarray) -> None:
        self._predictor = predictor
        self._frame = predictor.preprocessing.frame_of(image)
        pixels = predictor.preprocessing.pixels_of(image)
        with torch.no_grad():
            self._embedding = predictor.model.encode(pixels)
            self._features: Any = predictor.refiner.prepare(pixels, self._embedding) if predictor.refiner is not None else None
        self._state: Any = None
        self._last: torch.Tensor | None = None

    def predict(self, clicks: Sequence[Click], previous: np.ndarray | None) -> np.ndarray:
        mask_logits = self._last
        if previous is not None:
            size = 4 * self._embedding.final.shape[-1]
            given = np.clip(logits(previous.astype(np.float32), "probabilities"), -frames.MASK_PROMPT_LOGIT, frames.MASK_PROMPT_LOGIT)
            mask_logits = frames.mask_to_logits(given, self._frame, size).to(self._embedding.final.device)
        prompt = Prompt(tuple(clicks), previous_logits=mask_logits)
        model, refiner = self._predictor.model, self._predictor.refiner
        with torch.no_grad():
            answer, _ = self._predictor.choose(*model.decode(self._embedding, model.embed(prompt, self._frame)))
            if refiner is not None:
                answer, self._state = refiner.refine(self._features, *prompt_points(prompt, self._frame), answer, self._state)
        self._last = answer
        return frames.logits_to_image(answer, self._frame)[0, 0].cpu().numpy()


def predictor_for(segmenter: Segmenter, protocol: ClickProtocol) -> ClickPredictor:
    """Return a loaded model as a predictor that makes the protocol's choices of mask, previous mask and input frame; `predictors.wrap` does the rest.

    Raises:
        ModelError: If the model takes no clicks.
    """
    model = segmenter.parts.clicks
    if model is None:
        raise ModelError(f"expected a model that takes clicks, got {segmenter.name}; fretsaw.list_models() names their modes")
    if protocol.previous_mask == "low_res_logits_best" and protocol.multimask == "best_predicted_iou" and protocol.input == "model":
        return SessionPredictor(segmenter)
    preprocessing = replace(model.preprocessing, frame=frames.longest_side) if protocol.input == "longest_side" else None
    return DecoderPredictor(model, single if protocol.multimask == "single" else best_of_three, preprocessing, segmenter._refiner)


def load_segmenter(name: str, size: int | None, device: str, dtype: str, refiner: str | None, threads: int | None) -> Segmenter:
    """Load a model for measuring, on a fixed number of threads: sums are rounded differently on another number, and a report must not depend on the workers."""
    from fretsaw import api

    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        torch.set_num_threads(threads)
    return api.load(name, size=size, device=device, dtype=dtype, **({"refiner": refiner} if refiner is not None else {}))
