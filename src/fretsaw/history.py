"""The steps made on one object and how many of them are undone: frozen values that a session, the server and a file on disk share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fretsaw.click_true import Patch
from fretsaw.errors import PromptError
from fretsaw.masks import MaskRuns
from fretsaw.segmentation import Segmentation
from fretsaw.types import Box, Prompt, RefinerState


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The state after one interaction; an entry of the undo list.

    Attributes:
        prompt: Clicks, box and, as `previous_logits`, the low-resolution logits for the next interaction.
        score: The model's own quality estimate of the mask, [0, 1].
        full: The mask at the image's size, if it did not come from the decoder: (H, W) float32 logits of an automatic cut, or the runs of a user's own
            mask. None if the low-resolution logits alone make the mask. Steps that correct it by clicks share it.
        patches: Where the mask differs from that, or from what the low-resolution logits make, in the order in which the parts were changed.
        instances: Parts of an automatic cut.
        refiner_state: What the refiner returned last, or None if no refiner made this step.
        name: The mask's class, or "" if it has no name.
        view: The part of the image that the low-resolution logits cover, in whole pixels; the rest is background. None for the whole image.
    """

    prompt: Prompt = Prompt()
    score: float = 0.0
    full: np.ndarray | MaskRuns | None = None
    instances: tuple[Segmentation, ...] = ()
    refiner_state: RefinerState[np.ndarray] | None = None
    name: str = ""
    view: Box | None = None
    patches: tuple[Patch, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory of its masks, logits and refiner's state; of its patches the last, since the steps before hold the others."""
        logits = self.prompt.previous_logits
        own = (self.full.nbytes if self.full is not None else 0) + (logits.nbytes if logits is not None else 0)
        own += self.patches[-1].nbytes if self.patches else 0
        error_map = self.refiner_state.error_map if self.refiner_state is not None else None
        return own + (error_map.nbytes if error_map is not None else 0) + sum(part.logits.nbytes for part in self.instances)


@dataclass(frozen=True, slots=True)
class History:
    """All steps in order, the empty start first, and the position of the current one. Every change returns a new history, so that a failure changes nothing.

    Attributes:
        steps: All of them; the steps after the current one are undone.
        position: Of the current step.

    Example:
        >>> from fretsaw.history import History, Step
        >>> history = History().push(Step(score=0.5)).push(Step(score=0.9)).move(-1, "undo")
        >>> history.step.score, len(history.undone)
        (0.5, 1)
    """

    steps: tuple[Step, ...] = (Step(),)
    position: int = 0

    @classmethod
    def of(cls, steps: Sequence[Step], undone: int = 0) -> History:
        """Return the history of steps that were made already.

        Args:
            steps: In order, the empty start first; none for a fresh start.
            undone: How many of the last steps are undone.
        """
        made = tuple(steps) or (Step(),)
        return cls(made, max(0, len(made) - 1 - undone))

    @property
    def step(self) -> Step:
        """The current step."""
        return self.steps[self.position]

    @property
    def done(self) -> tuple[Step, ...]:
        """The steps up to the current one."""
        return self.steps[: self.position + 1]

    @property
    def undone(self) -> tuple[Step, ...]:
        """The steps after the current one, which `redo` would repeat."""
        return self.steps[self.position + 1 :]

    @property
    def nbytes(self) -> int:
        """Memory of all steps; masks that they share count once."""
        shared = {id(step.full): step.full.nbytes for step in self.steps if step.full is not None}
        return sum(step.nbytes - (step.full.nbytes if step.full is not None else 0) for step in self.steps) + sum(shared.values())

    def push(self, step: Step) -> History:
        """Return the history with one more step and without the undone ones."""
        return History((*self.done, step), self.position + 1)

    def move(self, by: int, name: str) -> History:
        """Return the history with another current step.

        Args:
            by: -1 to undo, 1 to redo.
            name: The user's word for it, for the error message.

        Raises:
            PromptError: If there is no such step.
        """
        if not 0 <= self.position + by < len(self.steps):
            raise PromptError(f"nothing to {name}: {self.position} of {len(self.steps) - 1} interactions are in place")
        return replace(self, position=self.position + by)
