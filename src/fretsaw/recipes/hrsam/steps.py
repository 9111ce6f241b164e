"""One training step of HRSAM: the distance from a teacher's embedding, or the answer to simulated clicks.

Source: HRSAM (paper 003), appendix D.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.clicks.simulate import simulate_click_hrsam
from fretsaw.data.whole_views import ObjectView
from fretsaw.methods.sam_clicks import SamClicks, single
from fretsaw.training.clicking import answer_clicks, draw_clicks
from fretsaw.training.embeddings import row
from fretsaw.training.losses import normalised_focal
from fretsaw.training.precision import autocast, precision_named
from fretsaw.types import Click, ImageEmbedding


class HrsamDistillation(nn.Module):
    """Second setting: mean squared distance between the student's embedding and the teacher's.

    Args:
        encoder: The student's.
        teacher: Looks at the plain pixels of every batch, or None where batches hold stored embeddings.
        device: Where the student is.
        dtype: Of autocast in the student, "float32" or "bfloat16".

    Source: HRSAM (paper 003), eq. 20; the mean over an embedding's entries, as in the published code.
    """

    def __init__(self, encoder: nn.Module, teacher: SamClicks | None, device: torch.device, dtype: str = "float32") -> None:
        super().__init__()
        self.image_encoder = encoder
        self._teacher = [teacher]  # in a list: not a submodule, so it is not part of the checkpoint
        self._device, self._dtype = device, precision_named(dtype)

    def forward(self, batch: Sequence[Tensor], done: int) -> dict[str, Tensor]:
        """Return the loss of (pixels (B, 3, S, S), the teacher's embedding (B, O, h, w) or its pixels (B, 3, S, S))."""
        pixels, target = (part.to(self._device, non_blocking=True) for part in batch)
        teacher = self._teacher[0]
        if teacher is not None:
            with torch.no_grad():
                target = teacher.encode(target).final
        with autocast(self._device, self._dtype):
            final = self.image_encoder(pixels).final
        return {"loss": F.mse_loss(final.float(), target)}


class ClickLearning(nn.Module):
    """First and third setting: clicks are simulated without gradient, then one step is made on the answer to all of them.

    Args:
        model: Encoder and decoder.
        device: Where it is.
        dtype: Of autocast in the encoder.
        most: Clicks after the first, at most.
        decays: Gammas of `draw_clicks`, one for all places or one each; published: 0.6 for COCO, 0.9 for LVIS.
        k: Of the clicks after the first.
        seed: Of everything drawn.
        rank: Of this process, which draws for itself.

    Source: HRSAM (paper 003), appendix D.3, and its published training code for the numbers.
    """

    def __init__(self, model: SamClicks, device: torch.device, dtype: str, most: int, decays: Sequence[float], k: float, seed: int = 0, rank: int = 0) -> None:
        super().__init__()
        self.model = model
        self._device, self._dtype = device, precision_named(dtype)
        self._most, self._decays, self._k = most, tuple(decays), k
        self._seed = (seed, rank)

    def forward(self, batch: ObjectView, done: int) -> dict[str, Tensor]:
        """Return the loss, the IoU of the answers and the number of clicks, means over the batch."""
        rng = np.random.default_rng((*self._seed, done))
        pixels, truths = batch.pixels.to(self._device, non_blocking=True), batch.truth.numpy()
        trained = self.training
        self.model.eval()
        with torch.no_grad():
            seen = self._encode(pixels)
            prompts: list[tuple[Tensor, Tensor, Tensor | None]] = []
            for index, truth in enumerate(truths):
                decay = self._decays[int(batch.place[index]) % len(self._decays)]
                more = draw_clicks(rng, self._most + 1, decay)
                prompts.append(simulate_clicks(self.model, row(seen, index), truth, more, self._k, rng))
        self.model.train(trained)
        embedding = self._encode(pixels)
        losses: list[Tensor] = []
        ious: list[Tensor] = []
        for index, (coords, labels, previous) in enumerate(prompts):
            truth = batch.truth[index].to(self._device)
            logits = answer(self.model, row(embedding, index), coords, labels, previous, truth.shape[-1])
            losses.append(normalised_focal(logits, (truth == 1).float(), alpha=0.5, gamma=2.0, weight=(truth != -1).float()))
            ious.append(_iou(logits > 0, truth))
        clicks = [float(coords.shape[1]) for coords, _, _ in prompts]
        return {"loss": torch.stack(losses).mean(), "IoU": torch.stack(ious).mean(), "clicks": torch.tensor(clicks, device=self._device).mean()}

    def _encode(self, pixels: Tensor) -> ImageEmbedding:
        with autocast(self._device, self._dtype):
            return ImageEmbedding(self.model.image_encoder(pixels).final.float())


@torch.no_grad()
def simulate_clicks(
    model: SamClicks, embedding: ImageEmbedding, truth: np.ndarray, more: int, k: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Click an object as a person would while the model answers.

    The first click falls on the object's centre (k = 1). Every other click falls where the previous answer is wrong; if nothing is wrong, there is no click.

    Args:
        model: Answers with its single mask, all clicks so far and its last logits in the prompt.
        embedding: Of one image.
        truth: (S, S) int8 of 1, 0, -1 in the model frame, with an object.
        more: Clicks after the first.
        k: Of those.
        rng: Draws places.

    Returns:
        point_coords (1, N, 2) xy in the model frame, point_labels (1, N), and the logits (1, 1, S/4, S/4) of the answer before the last click, or None.

    Source: HRSAM (paper 003), appendix D.3; InterFormer (Huang et al. 2023) for the places.
    """
    side = truth.shape[-1]
    first = simulate_click_hrsam(np.zeros(truth.shape, bool), truth, None, rng)
    assert first is not None, "views hold an object"
    clicks, clicked, previous = [first], np.zeros(truth.shape, bool), None
    for _ in range(more):
        clicked[int(clicks[-1].y), int(clicks[-1].x)] = True
        previous = answer_clicks(model, embedding, *_points(clicks), previous, single)
        mask = (enlarged(previous, side) > 0).cpu().numpy()
        click = simulate_click_hrsam(mask, truth, clicked, rng, k)
        if click is not None:
            clicks.append(click)
    return *_points(clicks), previous


def answer(model: SamClicks, embedding: ImageEmbedding, coords: Tensor, labels: Tensor, previous: Tensor | None, side: int) -> Tensor:
    """Return the model's answer to clicks, logits (side, side)."""
    return enlarged(answer_clicks(model, embedding, coords, labels, previous, single), side)


def enlarged(logits: Tensor, side: int) -> Tensor:
    """Bring logits (1, 1, h, w) to (side, side)."""
    return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)[0, 0]


def _points(clicks: Sequence[Click]) -> tuple[Tensor, Tensor]:
    return torch.tensor([[[click.x, click.y] for click in clicks]]), torch.tensor([[int(click.positive) for click in clicks]])


def _iou(mask: Tensor, truth: Tensor) -> Tensor:
    known, wanted = truth != -1, truth == 1
    return ((mask & wanted).sum() / (((mask | wanted) & known).sum()).clamp(min=1)).detach()
