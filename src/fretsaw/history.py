"""What was done to one object, step by step, and how far of it is undone: frozen values that a session, the server and a file on disk share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fretsaw.errors import PromptError
from fretsaw.masks import MaskRuns
from fretsaw.segmentation import Segmentation
from fretsaw.types import Box, Prompt, RefinerState


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What is known after one interaction; an entry of the undo list.

    Attributes:
        prompt: Clicks, box and, as `previous_logits`, the low-resolution logits that the next interaction starts from.
        score: The model's own quality estimate of the mask, [0, 1].
        full: What the mask is at the image's size where it did not come from the decoder: (H, W) float32 logits of an automatic cut, or the runs of a
            person's own mask; None where the low-resolution logits say everything.
        instances: Parts of an automatic cut.
        refiner_state: What the refiner returned last, or None if no refiner made this step.
        name: The mask's class, where it was named; or "".
        view: The part of the image that the low-resolution logits speak of, in whole pixels, all around it being background; None for the whole image.
    """

    prompt: Prompt = Prompt()
    score: float = 0.0
    full: np.ndarray | MaskRuns | None = None
    instances: tuple[Segmentation, ...] = ()
    refiner_state: RefinerState[np.ndarray] | None = None
    name: str = ""
    view: Box | None = None

    @property
    def nbytes(self) -> int:
        """Memory of its masks, logits and refiner's state."""
        logits = self.prompt.previous_logits
        own = (self.full.nbytes if self.full is not None else 0) + (logits.nbytes if logits is not None else 0)
        error_map = self.refiner_state.error_map if self.refiner_state is not None else None
        return own + (error_map.nbytes if error_map is not None else 0) + sum(part.logits.nbytes for part in self.instances)


@dataclass(frozen=True, slots=True)
class History:
    """Steps in their order, the empty start first, and the place of the current one. Every change is a new history: what fails on the way has changed nothing.

    Attributes:
        steps: All of them; those behind the current one are undone.
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
        """Return the history of steps that were made already, the empty start first; none for a fresh start.

        Args:
            steps: In their order.
            undone: How many of them, counted from the end, are undone.
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
        """The steps behind the current one, which `redo` would make again."""
        return self.steps[self.position + 1 :]

    @property
    def nbytes(self) -> int:
        """Memory of all steps."""
        return sum(step.nbytes for step in self.steps)

    def push(self, step: Step) -> History:
        """Return the history with one more step; what was undone is gone."""
        return History((*self.done, step), self.position + 1)

    def move(self, by: int, name: str) -> History:
        """Return the history with another current step.

        Args:
            by: -1 to undo, 1 to redo.
            name: Of the move, for the error.

        Raises:
            PromptError: If there is no step that far.
        """
        if not 0 <= self.position + by < len(self.steps):
            raise PromptError(f"nothing to {name}: {self.position} of {len(self.steps) - 1} interactions are in place")
        return replace(self, position=self.position + by)

    def as_one(self, later: History) -> History:
        """Return this history with the current step of a later one as its next: several interactions become one."""
        return self.push(later.step)
