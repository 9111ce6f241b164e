"""Make predictors of the click protocols out of Fretsaw's own models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import torch

from fretsaw import frames
from fretsaw.errors import ModelError
from fretsaw.evaluation.predictors import ClickPredictor, OpenImage, Unit, logits
from fretsaw.evaluation.protocols import ClickProtocol
from fretsaw.methods.sam_clicks import Choice, SamClicks, best_of_three, prompt_points, single
from fretsaw.session import Session
from fretsaw.types import Click, Prompt, Refiner, RefinerState

if TYPE_CHECKING:
    from fretsaw.api import Segmenter


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

    def __init__(self, model: SamClicks, choose: Choice, preprocessing: frames.Preprocessing | None = None, refiner: Refiner[Any] | None = None) -> None:
        self.model, self.choose, self.refiner = model, choose, refiner
        self.preprocessing = preprocessing or model.preprocessing

    def open(self, image: np.ndarray) -> OpenImage:
        return _DecoderImage(self, image)


class _DecoderImage:
    def __init__(self, predictor: DecoderPredictor, image: np.ndarray) -> None:
        self._predictor = predictor
        self._frame = predictor.preprocessing.frame_of(image)
        pixels = torch.from_numpy(predictor.preprocessing.pixels_of(image))  # pyright: ignore[reportUnknownMemberType]
        with torch.no_grad():
            self._embedding = predictor.model.encode(pixels)
            self._features: Any = predictor.refiner.prepare(pixels, self._embedding) if predictor.refiner is not None else None
        self._state: RefinerState[torch.Tensor] | None = None
        self._last: np.ndarray | None = None

    def predict(self, clicks: Sequence[Click], previous: np.ndarray | None) -> np.ndarray:
        mask_logits = self._last
        if previous is not None:
            refiner = self._predictor.refiner
            size = self._predictor.preprocessing.logit_side * (refiner.map_scale if refiner is not None else 1)
            given = np.clip(logits(previous.astype(np.float32), "probabilities"), -frames.MASK_PROMPT_LOGIT, frames.MASK_PROMPT_LOGIT)
            mask_logits = frames.mask_to_logits(given, self._frame, size)
        prompt = Prompt(tuple(clicks), previous_logits=mask_logits)
        model, refiner = self._predictor.model, self._predictor.refiner
        with torch.no_grad():
            answer, _ = self._predictor.choose(*model.decode(self._embedding, model.embed(prompt, self._frame)))
            if refiner is not None:
                before = torch.from_numpy(mask_logits).to(answer.device) if mask_logits is not None else None  # pyright: ignore[reportUnknownMemberType]
                state = self._state if self._state is not None else RefinerState[torch.Tensor](given=before is not None)
                answer, self._state = refiner.refine(self._features, *prompt_points(prompt, self._frame), answer, before, state)
        self._last = answer.cpu().numpy()
        return frames.logits_to_image(self._last, self._frame)[0, 0]


def predictor_for(segmenter: Segmenter, protocol: ClickProtocol) -> ClickPredictor:
    """Return a loaded model as a predictor that makes the protocol's choices of mask, previous mask and input frame; `predictors.wrap` does the rest.

    Raises:
        ModelError: If the model takes no clicks.
    """
    decoder = decoder_of(segmenter, single if protocol.multimask == "single" else best_of_three)
    if uses_sessions(protocol):
        return SessionPredictor(segmenter)
    if protocol.input == "longest_side":
        decoder.preprocessing = replace(decoder.preprocessing, frame=frames.longest_side)
    return decoder


def uses_sessions(protocol: ClickProtocol) -> bool:
    """Return whether a protocol clicks as a session does. Its figures are then those of a user's session, zooming in included."""
    return protocol.previous_mask == "low_res_logits_best" and protocol.multimask == "best_predicted_iou" and protocol.input == "model"


def decoder_of(segmenter: Segmenter, choose: Choice = best_of_three) -> DecoderPredictor:
    """Return a loaded model's decoder, with its refiner, as a predictor that takes any clicks at any time.

    Raises:
        ModelError: If the model takes no clicks.
    """
    if segmenter.parts.clicks is None:
        raise ModelError(f"expected a model that takes clicks, got {segmenter.name}; fretsaw.list_models() names their modes")
    return DecoderPredictor(segmenter.parts.clicks, choose, refiner=segmenter.refiner)


def load_segmenter(
    name: str,
    size: int | None,
    device: str,
    dtype: str,
    refiner: str | None,
    threads: int | None,
    zoom: bool | None = None,
    click_true: bool = True,
) -> Segmenter:
    """Load a model for measuring.

    Args:
        name: As `fretsaw.load` takes it.
        size: Side of the model's input, or None for its own.
        device: As torch spells it.
        dtype: Of the image encoder.
        refiner: A refiner's name or weight file, or None.
        threads: Number of threads on the CPU, or None to leave it as it is. It is fixed because sums are rounded differently on another number, and a report
            must not depend on the number of workers.
        zoom: As `fretsaw.load` takes it.
        click_true: As `fretsaw.load` takes it.
    """
    from fretsaw import api

    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    return api.load(name, size=size, device=device, dtype=dtype, refiner=refiner, zoom=zoom, click_true=click_true)


def load_predictor(protocol: ClickProtocol, **keywords: Any) -> ClickPredictor:
    """Load a model as the predictor of a click protocol, see `load_segmenter` and `predictor_for`."""
    return predictor_for(load_segmenter(**keywords), protocol)


def weights_checksum(name: str) -> str:
    """Return the checksum of a model's weights; missing weights are fetched first.

    Raises:
        ModelError: If there is no such name.
        WeightsError: If the weights are missing and cannot be fetched, or damaged.
    """
    from fretsaw import catalog, weights
    from fretsaw.weights.files import sha256_of

    if name not in catalog.CATALOGUE and Path(name).is_file():
        return sha256_of(Path(name))
    if catalog.find(name).networks:
        from fretsaw.catalog.text import identity

        return identity(name)
    catalog.weights_path(name)
    return weights.checksum(catalog.find(name).weights)
