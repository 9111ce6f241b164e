"""Clicks with the model in the loop: each click falls where the previous answer is wrong, as a person's would. Several objects are clicked at once.

Source: InterFormer (Huang et al. 2023), section 3.4, and FocSAM (Huang et al. 2024), whose strategy SAM-REF (section 4.1.3) takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fretsaw.clicks.simulate import SPREAD, depths, simulate_click_around, simulate_click_hrsam
from fretsaw.methods.sam_clicks import Choice, SamClicks, best_of_three, pad_points
from fretsaw.training.click_batches import ClickBatch
from fretsaw.types import NEGATIVE, POSITIVE, ImageEmbedding

FIRST_SPREAD = 2 * SPREAD
"""Spread of a person's first click, which only says which object is meant and may lie far from its middle."""

Refine = Callable[[Tensor, Tensor, Tensor, "Tensor | None", Any], "tuple[Tensor, Any]"]
"""(point_coords, point_labels, coarse logits, previous logits or None, state) -> (logits, state), for B prompt sets at once."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """The decoder's input at the last click.

    Attributes:
        point_coords: (B, N, 2) xy in the model frame of all clicks, the last one included.
        point_labels: (B, N).
        previous_logits: (B, 1, S/4, S/4) the answer to the clicks before, or None at the first.
        state: The refiner's after the click before, or None.
    """

    point_coords: Tensor
    point_labels: Tensor
    previous_logits: Tensor | None
    state: Any


def draw_clicks(rng: np.random.Generator, most: int, gamma: float) -> int:
    """Return the number of clicks before the one that is learned from: n in 0 .. most - 1 with a probability proportional to gamma^n.

    Source: InterFormer (Huang et al. 2023), its training configuration (20 clicks at most, gamma 0.6); HRSAM's takes 21.
    """
    weights = gamma ** np.arange(most)
    return int(rng.choice(most, p=weights / weights.sum()))


class Annotator:
    """Clicks every object of a batch where the model's answer to it is wrong.

    Args:
        batch: Objects.
        rng: Draws among equally deep places.
        real: Probability that an object is clicked as people click, around the deepest place, in place of at it (`simulate_click_around`).
    """

    def __init__(self, batch: ClickBatch, rng: np.random.Generator, real: float = 0.0) -> None:
        self._truth = (batch.coverage > 0.5).cpu().numpy()[:, 0].astype(np.int8)
        self._truth[batch.valid.cpu().numpy()[:, 0] == 0] = -1
        self._clicked = np.zeros(self._truth.shape, bool)
        self._places, self._labels = np.zeros((len(self._truth), 0, 2)), np.zeros((len(self._truth), 0), np.int64)
        self._around = rng.random(len(self._truth)) < real if real else np.zeros(len(self._truth), bool)
        self._scale, self._device, self._rng = batch.pixels.shape[-1] / self._truth.shape[-1], batch.coverage.device, rng

    def click(self, answer: Tensor | None, state: Any) -> Interaction:
        """Click every object once more. `answer` (B, 1, s, s) and the refiner's `state` belong to the previous clicks; both are None at the first click."""
        masks = np.zeros(self._truth.shape, bool) if answer is None else (answer[:, 0] > 0).cpu().numpy()
        spread = FIRST_SPREAD if answer is None else SPREAD
        rows = zip(masks, self._truth, self._clicked, self._around, strict=True)
        made = [_next_click(mask, truth, clicked, self._rng, spread * around) for mask, truth, clicked, around in rows]
        self._places = np.concatenate([self._places, np.array([[(x, y)] for x, y, _ in made])], 1)
        self._labels = np.concatenate([self._labels, np.array([[label] for _, _, label in made])], 1)
        coords = (torch.from_numpy(self._places).float() + 0.5) * self._scale - 0.5  # pyright: ignore[reportUnknownMemberType]
        return Interaction(coords.to(self._device), torch.from_numpy(self._labels).to(self._device), answer, state)  # pyright: ignore[reportUnknownMemberType]


@torch.no_grad()
def click_through(model: SamClicks, batch: ClickBatch, clicks: int, rng: np.random.Generator, real: float = 0.0) -> Interaction:
    """Click every object of a batch `clicks` times, feed each answer back, and make one more click without an answer.

    Args:
        model: Its decoder answers; the best of three masks at every click, as in a session.
        batch: Objects.
        clicks: Clicks that are answered.
        rng: Draws among equally deep places.
        real: Share of objects that are clicked as people click, see `Annotator`.
    """
    annotator = Annotator(batch, rng, real)
    answer: Tensor | None = None
    for _ in range(clicks):
        answer = coarse_logits(model, batch, annotator.click(answer, None))
    return annotator.click(answer, None)


@torch.no_grad()
def answered_clicks(model: SamClicks, batch: ClickBatch, clicks: int, rng: np.random.Generator, refine: Refine) -> list[tuple[Interaction, Tensor]]:
    """Click every object of a batch `clicks` times, each answer refined and fed back; return what was asked at each click, and the decoder's answer.

    Args:
        model: As for `click_through`.
        batch: Objects; their maps may be finer than the decoder's.
        clicks: How many.
        rng: Draws among equally deep places.
        refine: Improves every answer (B, 1, S/4, S/4) before it is fed back.
    """
    annotator = Annotator(batch, rng)
    answer: Tensor | None = None
    state: Any = None
    asked: list[tuple[Interaction, Tensor]] = []
    for _ in range(clicks):
        point = annotator.click(answer, state)
        coarse = coarse_logits(model, batch, point)
        asked.append((point, coarse))
        answer, state = refine(point.point_coords, point.point_labels, coarse, point.previous_logits, state)
    return asked


def coarse_logits(model: SamClicks, batch: ClickBatch, point: Interaction) -> Tensor:
    """Return the decoder's answer (B, 1, S/4, S/4): the best of its three masks by predicted IoU."""
    return answer_clicks(model, batch.embedding, point.point_coords, point.point_labels, point.previous_logits, best_of_three)


def answer_clicks(
    model: SamClicks, embedding: ImageEmbedding, point_coords: Tensor, point_labels: Tensor, previous_logits: Tensor | None, choose: Choice
) -> Tensor:
    """Return the mask (B, 1, S/4, S/4) that `choose` picks from the decoder's answer to clicks (B, N, 2) in the model frame and to its last answer."""
    prompt = model.embed_prompt(*pad_points(point_coords, point_labels), previous_logits)
    return choose(*model.decode(embedding, prompt))[0]


def _next_click(mask: np.ndarray, truth: np.ndarray, clicked: np.ndarray, rng: np.random.Generator, spread: float = 0.0) -> tuple[int, int, int]:
    """Return x, y and label of the next click, and mark its place. If nothing is wrong, it falls on the object's deepest place without a click."""
    click = simulate_click_around(mask, truth, clicked, rng, spread) if spread else simulate_click_hrsam(mask, truth, clicked, rng)
    if click is not None:
        x, y, label = int(click.x), int(click.y), POSITIVE if click.positive else NEGATIVE
    else:
        y, x = (int(i) for i in np.unravel_index(int(depths((truth == 1) & ~clicked).argmax()), truth.shape))
        label = POSITIVE
    clicked[y, x] = True
    return x, y, label
