"""One image and the prompts on it: the state behind every click, for the API, the command line, the server and the evaluation.

A session holds one image's embedding and a history of frozen steps. Undo and redo move along the history. They only enlarge stored logits to the image
again, so that they restore a result exactly. If the session zooms in on a small object, a step's logits cover only a part of the image, its view.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fretsaw import frames
from fretsaw.click_true import ClickRules, Patch, obeyed, only_at, patched, without_crumbs
from fretsaw.clicks.strokes import evenly
from fretsaw.errors import ModelError, PromptError, ShapeError
from fretsaw.history import History, Step
from fretsaw.masks import MaskRuns
from fretsaw.segmentation import Segmentation
from fretsaw.types import AutomaticCut, Box, Click, ClickModel, Embedding, Prompt, RefinerState, Seen, SplittingCut, Stroke, TextLabels
from fretsaw.zoom import Views, ZoomRules, holds, next_view, prompt_within

EMPTY_LOGIT = -frames.MASK_PROMPT_LOGIT
"""The logits of the mask before the first prompt: background everywhere."""


class Session:
    """Cuts one object out of one image, prompt by prompt.

    `Segmenter.open` makes it. Several sessions may run in several threads; a session handles its own calls one after the other.

    Args:
        image: (H, W, 3) uint8 RGB.
        model: Answers the prompts.
        automatic: Cuts without a prompt, or None.
        embedding: Of this image, if it is known; then it is not computed again.
        history: Steps that were made already, the empty start first.
        text: Names masks, or None.
        zoom: When to answer a click on a part of the image; with None a session never starts to.
        taps: Intermediate tensors of the image encoder that `automatic` and `text` read.
        rules: How answers are held to the clicks, see `fretsaw.click_true`; None leaves them as the model gives them.

    Attributes:
        image: The image, read-only.
        frame: How the image lies in the model's input.
        embedding: The image's embedding, computed once.
        step: The current step of the history.
        zoom: As above.
        rules: As above.
        views: What the model computed of the parts of the image that it looked at.
    """

    def __init__(
        self,
        image: np.ndarray,
        model: ClickModel,
        automatic: AutomaticCut | None = None,
        embedding: Embedding | None = None,
        history: Sequence[Step] = (),
        text: TextLabels | None = None,
        zoom: ZoomRules | None = None,
        taps: Sequence[str] = (),
        rules: ClickRules | None = None,
    ) -> None:
        self.image = image.view()
        self.image.flags.writeable = False
        self._model, self._automatic, self._text = model, automatic, text
        self.zoom, self.views, self.rules = zoom, Views(self.image, model), rules
        self._lock = threading.RLock()
        self._history = History.of(history)
        self._whole = model.look(self.image, embedding, taps)

    @property
    def frame(self) -> frames.Frame:
        return self._whole.frame

    @property
    def embedding(self) -> Embedding:
        return self._whole.embedding

    @property
    def nbytes(self) -> int:
        """Memory of what all sessions on this image share: the embedding and the refiner's features of the image, and those of its views."""
        return self._whole.nbytes + self.views.nbytes

    @property
    def logit_side(self) -> int:
        """Side of the low-resolution logits in prompts and steps."""
        return self._model.logit_side

    @property
    def history_nbytes(self) -> int:
        """Memory of this session's own steps, including undone ones."""
        return self._history.nbytes

    @property
    def step(self) -> Step:
        return self._history.step

    @property
    def history(self) -> tuple[Step, ...]:
        """The steps up to the current one, the empty start first, without undone ones."""
        return self._history.done

    @property
    def undone(self) -> tuple[Step, ...]:
        """The steps that `redo` would make again, in their order."""
        return self._history.undone

    @property
    def model(self) -> ClickModel:
        """The model that answers the clicks."""
        return self._model

    @property
    def result(self) -> Segmentation:
        """The current mask at the image's size; empty before the first prompt."""
        with self._lock:
            return self._segmentation(self.step)

    def sibling(self, history: Sequence[Step] = (), undone: int = 0) -> Session:
        """Return a session for another object on the same image. Both share the embedding and the refiner's features; each has a history of its own.

        Args:
            history: Steps that were made already, the empty start first; none for a fresh start.
            undone: How many of the last steps are undone and wait for `redo`.
        """
        other = copy.copy(self)
        other._lock = threading.RLock()
        other._history = History.of(history, undone)
        return other

    def click(self, x: float, y: float, positive: bool = True) -> Segmentation:
        """Add a click and return the new mask.

        Args:
            x: Column in pixels of the image, 0 is the centre of the leftmost pixel; fractions are allowed.
            y: Row in pixels.
            positive: Whether the place belongs to the object.

        Raises:
            PromptError: If the click lies outside the image or is not a finite number.
        """
        self._check_inside(x, y)
        with self._lock:
            prompt = self.step.prompt
            return self._predict(replace(prompt, clicks=(*prompt.clicks, Click(float(x), float(y), bool(positive)))))

    def clicks(self, clicks: Sequence[Click], box: Box | None = None) -> Segmentation:
        """Add several clicks, and a box if one is given, and run the decoder once for all of them; one entry in the history.

        With a refiner, a mask of one's own or an automatic cut is changed around each of them, one after the other. If one of them fails, none is made.

        Raises:
            PromptError: If there is nothing to add, or a click or the box lies outside the image.
        """
        if not clicks and box is None:
            raise PromptError("expected at least one click or a box, got none")
        for click in clicks:
            self._check_inside(click.x, click.y)
        if box is not None:
            self._check_box(box)
        with self._lock:
            step = self.step
            # A refiner changes a mask that came from elsewhere only around the last click, so that each click needs an answer of its own.
            singly = self._model.refines and step.full is not None and len(clicks) > 1
            for group in [(click,) for click in clicks] if singly else [clicks]:
                step = self._step_after(step, replace(step.prompt, clicks=(*step.prompt.clicks, *group), box=box or step.prompt.box))
            return self._push(step)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Segmentation:
        """Set the object's box, half open, in pixels of the image; it replaces an earlier box and joins the clicks made so far.

        Raises:
            PromptError: If the box is empty, reversed, not finite, or does not meet the image.
        """
        box = Box(float(x0), float(y0), float(x1), float(y1))
        self._check_box(box)
        with self._lock:
            return self._predict(replace(self.step.prompt, box=box))

    def scribble(self, points: Sequence[Sequence[float]], positive: bool = True) -> Segmentation:
        """Draw a line over the object, or over what is not the object, and return the new mask; one entry in the history.

        SAM's prompt encoder sees five clicks along the line; a refiner sees the whole line.

        Args:
            points: The line's corners (x, y) in pixels of the image, from its beginning to its end; a single point is a dot.
            positive: Whether the pixels under the line belong to the object.

        Raises:
            PromptError: If there is no point, or one lies outside the image.
        """
        if not len(points):
            raise PromptError("expected a line of at least one point, got none")
        for x, y in points:
            self._check_inside(x, y, "a line")
        stroke = Stroke(tuple((float(x), float(y)) for x, y in points), bool(positive))
        with self._lock:
            prompt = self.step.prompt
            return self._predict(replace(prompt, clicks=(*prompt.clicks, *evenly(stroke)), strokes=(*prompt.strokes, stroke)))

    def mask(self, mask: np.ndarray) -> Segmentation:
        """Take a user's own mask as the current mask; the next click corrects it.

        Earlier clicks and the box are dropped, because they belong to another mask; undo brings them back.

        Args:
            mask: (H, W) bool, or (H, W) float logits, original frame.

        Raises:
            ShapeError: If the size is not the image's, or the dtype neither bool nor float.
            PromptError: If logits are not finite.
        """
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ and np.issubdtype(mask.dtype, np.floating) and not np.isfinite(mask).all():
            raise PromptError("expected finite logits, got values that are NaN or infinite")
        low_res_logits = self._low_res(mask)
        full = MaskRuns.of(mask) if mask.dtype == np.bool_ else mask.astype(np.float32)
        with self._lock:
            return self._push(Step(Prompt(previous_logits=low_res_logits), score=1.0, full=full))

    def auto(self, instances: bool = False) -> Segmentation:
        """Cut without a prompt; the next click corrects the result. Earlier clicks and the box are dropped; undo brings them back.

        Args:
            instances: Also look for the separate objects, if the automatic cut is a `SplittingCut`; it takes as long as some clicks.

        Raises:
            ModelError: If the model has no automatic mode.
        """
        return self.adopt(self.cut(instances))

    def cut(self, instances: bool = False) -> Segmentation:
        """Return the result of `auto` without changing the session, for callers that compute in one thread and `adopt` the result in another.

        Raises:
            ModelError: If the model has no automatic mode.
        """
        if self._automatic is None:
            raise ModelError("expected a model with an automatic mode, got one that needs clicks")
        cut = self._automatic(self.image, self.embedding, self.frame)
        if instances and isinstance(self._automatic, SplittingCut):
            return self._automatic.split(cut, self.embedding, self.frame)
        return cut

    def adopt(self, cut: Segmentation) -> Segmentation:
        """Take an automatic cut of this image as the current mask; the next click corrects it. Earlier clicks and the box are dropped; undo brings them back.

        Raises:
            ShapeError: If it is not of the image's size.
        """
        low_res_logits = self._low_res(cut.logits)
        with self._lock:
            return self._push(Step(Prompt(previous_logits=low_res_logits), score=cut.score, full=cut.logits, instances=cut.instances))

    def text(self, names: Sequence[str], background: Sequence[str] | None = None) -> Segmentation:
        """Name the current mask and its instances. Each gets the name of most of its pixels in the image's label map, or "" if most of them have no name.

        The masks stay as they are. Undo takes the names back.

        Args:
            names: As for `Segmenter.text`.
            background: As for `Segmenter.text`.

        Raises:
            ModelError: If the model has no text mode.
            PromptError: If there is no mask yet.
        """
        if self._text is None:
            raise ModelError("expected a model with a text mode, such as s2clip, got one without")
        with self._lock:
            result = self.result
            if not result.area:
                raise PromptError("expected a mask to name, got none: click, or call auto, first")
            labels = self._text(self.image, names, background, embedding=self.embedding)
            named = tuple(replace(part, name=labels.most_frequent(part.mask)) for part in result.instances)
            return self._push(replace(self.step, name=labels.most_frequent(result.mask), instances=named))

    def undo(self) -> Segmentation:
        """Take back the last interaction and return the mask before it.

        Raises:
            PromptError: If there is nothing to undo.
        """
        return self._move(-1, "undo")

    def redo(self) -> Segmentation:
        """Repeat an undone interaction and return its mask.

        Raises:
            PromptError: If there is nothing to redo.
        """
        return self._move(1, "redo")

    def reset(self) -> Segmentation:
        """Empty the history, keep the embedding, and return the empty result."""
        with self._lock:
            self._history = History()
            return self.result

    def save(self, path: str | Path) -> Path:
        """Write the embedding and the history to one file; `Segmenter.open(image, saved=path)` continues from it.

        The file works only with this image, these weights and this preprocessing; `open` refuses it with any other.
        """
        from fretsaw import session_file

        return session_file.write(Path(path), self.image, self._model, self.embedding, self.history)

    def _predict(self, prompt: Prompt) -> Segmentation:
        """Add the model's answer to a prompt to the history, and return the new mask."""
        return self._push(self._step_after(self.step, prompt))

    def _step_after(self, step: Step, prompt: Prompt) -> Step:
        """Ask the model about the image, or about a part of it, and return the step that follows; the history stays as it is."""
        view, state = self._view_for(step, prompt), _state_at(step)
        seen = self._whole if view is None else self.views.seen(view)
        if view != step.view:
            prompt, state = replace(prompt, previous_logits=self._start_of(self._segmentation(step).logits, view, seen)), RefinerState[np.ndarray]()
        answer = self._model.answer(seen, prompt if view is None else prompt_within(prompt, view), state)
        after = Step(replace(prompt, previous_logits=answer.logits), answer.score, refiner_state=answer.state, view=view)
        if self.rules is not None:
            return self._click_true(step, after, seen, self.rules)
        return replace(after, full=self._keep_untouched(step, answer.logits)) if self._model.refines and view is None else after

    def _click_true(self, before: Step, after: Step, seen: Seen, rules: ClickRules) -> Step:
        """Hold the model's answer to the clicks: all lie on their own side of the outline, and a user's own mask changes at the new ones alone.

        An automatic cut may be drawn anew, since its first clicks often say that another object is meant: on 24 validation photos three clicks brought cuts of
        IoU 0.74 to 0.89 so, and to 0.80 where they changed only what was clicked.
        """
        answer = self._segmentation(after).logits
        prompt = after.prompt
        new = prompt.clicks[len(before.prompt.clicks) :]
        if not isinstance(before.full, MaskRuns) or not new or prompt.box != before.prompt.box:
            held = obeyed(without_crumbs(answer, prompt.clicks, self._cell(after.view), rules), prompt.clicks, rules.unbounded())
            patch = Patch.between(answer, held)
            return replace(after, patches=(patch,) if patch is not None else ())
        given = self._segmentation(before).logits
        held = obeyed(only_at(given, answer, new, rules), prompt.clicks, rules)
        patch = Patch.between(given, held)
        patches = (*before.patches, patch) if patch is not None else before.patches
        # The model continues from the mask as it is, not from its own answer, most of which was not taken.
        return replace(after, prompt=replace(prompt, previous_logits=self._start_of(held, after.view, seen)), full=before.full, patches=patches)

    def _cell(self, view: Box | None) -> float:
        """Return the side of a cell of the model's logits in pixels of the image."""
        height, width = self.image.shape[:2]
        return (max(height, width) if view is None else max(view.x1 - view.x0, view.y1 - view.y0)) / self.logit_side

    def _view_for(self, step: Step, prompt: Prompt) -> Box | None:
        """Return the part of the image to look at for the next answer, or None for all of it. A session without zoom stays on a step's view while all clicks
        lie there.

        With a refiner, a mask that came from elsewhere keeps its pixels away from the clicks; therefore the model looks at the whole image.
        """
        if self._model.refines and step.full is not None:
            return None
        if self.zoom is None:
            return step.view if step.view is not None and holds(step.view, prompt) else None
        return next_view(step.view, self._segmentation(step).mask, prompt, self.zoom) if len(prompt.clicks) >= self.zoom.first_click else None

    def _keep_untouched(self, before: Step, logits: np.ndarray) -> np.ndarray | None:
        """If a refiner changed only a region of a mask that did not come from the decoder, return that mask with the region's new logits; else None."""
        if before.full is None or before.prompt.previous_logits is None:
            return None
        changed = logits != before.prompt.previous_logits
        if changed.all():
            return None
        enlarged = frames.logits_to_image(np.concatenate((logits, changed), 1, dtype=np.float32), self.frame)[0]
        return np.where(enlarged[1] > 0, enlarged[0], _logits_of(before.full))

    def _push(self, step: Step) -> Segmentation:
        result = self._segmentation(step)
        self._history = self._history.push(step)
        return result

    def _move(self, by: int, name: str) -> Segmentation:
        with self._lock:
            self._history = self._history.move(by, name)
            return self.result

    def _segmentation(self, step: Step) -> Segmentation:
        if step.full is not None:
            logits = _logits_of(step.full)
        elif step.prompt.previous_logits is not None and step.view is not None:
            part = frames.logits_to_image(step.prompt.previous_logits, self.views.frame(step.view))[0, 0]
            logits = frames.paste(part, step.view, np.full(self.image.shape[:2], EMPTY_LOGIT, np.float32))
        elif step.prompt.previous_logits is not None:
            logits = frames.logits_to_image(step.prompt.previous_logits, self.frame)[0, 0]
        else:
            logits = np.full(self.image.shape[:2], EMPTY_LOGIT, np.float32)
        return Segmentation(patched(logits, step.patches), step.score, image=self.image, instances=step.instances, name=step.name)

    def start_from(self, mask: np.ndarray) -> np.ndarray:
        """Return the low-resolution logits (1, 1, k, k) float32 that `mask` makes of a user's own mask.

        Args:
            mask: (H, W) bool, or (H, W) float logits, original frame.

        Raises:
            ShapeError: If the size is not the image's, or the dtype neither bool nor float.
        """
        return self._low_res(mask)

    def _low_res(self, mask: np.ndarray) -> np.ndarray:
        if mask.shape != self.image.shape[:2]:
            raise ShapeError(f"expected a mask of the image's size {self.image.shape[:2]}, got {mask.shape}")
        return self._start_of(mask, None, self._whole)

    def _start_of(self, mask: np.ndarray, view: Box | None, seen: Seen) -> np.ndarray:
        """Return a mask or logits (H, W) as low-resolution logits for the decoder, of the image or of a view."""
        part = mask if view is None else frames.crop(mask, view)
        logits = frames.mask_to_logits(part, seen.frame, self.logit_side)
        logits.flags.writeable = False
        return logits

    def _check_inside(self, x: float, y: float, name: str = "a click") -> None:
        height, width = self.image.shape[:2]
        if not (math.isfinite(x) and math.isfinite(y) and -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise PromptError(f"expected {name} inside the image, x in 0 .. {width - 1} and y in 0 .. {height - 1}, got ({x}, {y})")

    def _check_box(self, box: Box) -> None:
        height, width = self.image.shape[:2]
        finite = all(math.isfinite(value) for value in (box.x0, box.y0, box.x1, box.y1))
        if not finite or box.x0 >= box.x1 or box.y0 >= box.y1:
            raise PromptError(f"expected a box x0 < x1, y0 < y1 of finite numbers, got ({box.x0}, {box.y0}, {box.x1}, {box.y1})")
        if box.x1 <= 0 or box.y1 <= 0 or box.x0 >= width or box.y0 >= height:
            raise PromptError(f"expected a box that meets the image ({width} x {height}), got ({box.x0}, {box.y0}, {box.x1}, {box.y1})")


def _state_at(step: Step) -> RefinerState[np.ndarray]:
    """Return what a refiner knows at a step. A mask that no refiner made came from elsewhere."""
    return step.refiner_state if step.refiner_state is not None else RefinerState(given=step.prompt.previous_logits is not None)


def _logits_of(full: np.ndarray | MaskRuns) -> np.ndarray:
    """Return (H, W) float32 logits; those of a person's own mask have the largest values that a mask prompt has."""
    return np.where(full.mask(), np.float32(-EMPTY_LOGIT), np.float32(EMPTY_LOGIT)) if isinstance(full, MaskRuns) else full
