"""Clicks with the model in the loop: each is made where the answer before was wrong, as a person would, and several objects are clicked at once.

Source: InterFormer (Huang et al. 2023), section 3.4, and FocSAM (Huang et al. 2024), whose strategy SAM-REF (section 4.1.3) takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fretsaw.clicks.simulate import depths, simulate_click_hrsam
from fretsaw.methods.sam_clicks import Choice, SamClicks, best_of_three, pad_points
from fretsaw.training.click_batches import ClickBatch
from fretsaw.types import NEGATIVE, POSITIVE, ImageEmbedding

Refine = Callable[[Tensor, Tensor, Tensor, "Tensor | None", Any], "tuple[Tensor, Any]"]
"""(point_coords, point_labels, coarse logits, previous logits or None, state) -> (logits, state), for B prompt sets at once."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """What the decoder is asked at the last click.

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
    """Return how many clicks come before the one that is learned from: n in 0 .. most - 1 with a probability proportional to gamma^n.

    Source: InterFormer (Huang et al. 2023), its training configuration (20 clicks at most, gamma 0.6); HRSAM's takes 21.
    """
    weights = gamma ** np.arange(most)
    return int(rng.choice(most, p=weights / weights.sum()))


@torch.no_grad()
def click_through(model: SamClicks, batch: ClickBatch, clicks: int, rng: np.random.Generator, refine: Refine | None = None) -> Interaction:
    """Click every object of a batch `clicks` times, each answer fed back, and make one more click, which is not answered.

    Args:
        model: Its decoder answers; the best of three masks at every click, as in a session.
        batch: Objects.
        clicks: Clicks that are answered.
        rng: Draws among equally deep places.
        refine: Improves every answer before it is fed back, or None.
    """
    truth = (batch.coverage > 0.5).cpu().numpy()[:, 0].astype(np.int8)
    truth[batch.valid.cpu().numpy()[:, 0] == 0] = -1
    clicked = np.zeros(truth.shape, bool)
    answer: Tensor | None = None
    state: Any = None
    places, labels = np.zeros((len(truth), 0, 2)), np.zeros((len(truth), 0), np.int64)
    while True:
        mask = np.zeros(truth.shape, bool) if answer is None else (answer[:, 0] > 0).cpu().numpy()
        made = [_next_click(mask[row], truth[row], clicked[row], rng) for row in range(len(truth))]
        places = np.concatenate([places, np.array([[(x, y)] for x, y, _ in made])], 1)
        labels = np.concatenate([labels, np.array([[label] for _, _, label in made])], 1)
        side = truth.shape[-1]
        coords = (torch.from_numpy(places).float() + 0.5) * (batch.pixels.shape[-1] / side) - 0.5
        point = Interaction(coords.to(model.device), torch.from_numpy(labels).to(model.device), answer, state)
        if places.shape[1] > clicks:
            return point
        answer = coarse_logits(model, batch, point)
        if refine is not None:
            answer, state = refine(point.point_coords, point.point_labels, answer, point.previous_logits, state)


def coarse_logits(model: SamClicks, batch: ClickBatch, point: Interaction) -> Tensor:
    """Return the decoder's answer (B, 1, S/4, S/4): the best of its three masks by predicted IoU."""
    return answer_clicks(model, batch.embedding, point.point_coords, point.point_labels, point.previous_logits, best_of_three)


def answer_clicks(
    model: SamClicks, embedding: ImageEmbedding, point_coords: Tensor, point_labels: Tensor, previous_logits: Tensor | None, choose: Choice
) -> Tensor:
    """Return the decoder's answer (B, 1, S/4, S/4) to clicks (B, N, 2) in the model frame, its last answer in the prompt, by the mask that `choose` takes."""
    prompt = model.embed_prompt(*pad_points(point_coords, point_labels), previous_logits)
    return choose(*model.decode(embedding, prompt))[0]


def _next_click(mask: np.ndarray, truth: np.ndarray, clicked: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int]:
    """Return x, y and label of the next click, and mark it; where nothing is wrong, the deepest place of the object that was not clicked."""
    click = simulate_click_hrsam(mask, truth, clicked, rng)
    if click is not None:
        x, y, label = int(click.x), int(click.y), POSITIVE if click.positive else NEGATIVE
    else:
        y, x = (int(i) for i in np.unravel_index(int(depths((truth == 1) & ~clicked).argmax()), truth.shape))
        label = POSITIVE
    clicked[y, x] = True
    return x, y, label
