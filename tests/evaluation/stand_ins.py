"""Stand-ins for networks in the tests of the click protocols; nothing here needs torch, so that worker processes start quickly."""

from __future__ import annotations

import numpy as np

from fretsaw.evaluation.predictors import probabilities
from fretsaw.types import Click


def square(x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    truth = np.zeros(shape, np.int8)
    truth[y0:y1, x0:x1] = 1
    return truth


def photo(truth: np.ndarray) -> np.ndarray:
    """An image whose red channel is the object, so that a predictor can see it."""
    image = np.full((*truth.shape, 3), 20, np.uint8)
    image[truth == 1, 0] = 220
    return image


class Disks:
    """Predicts a disk around each positive click, cut out around negative ones; remembers what it was given."""

    def __init__(self, radius: float = 8, unit="logits") -> None:
        self.radius, self.unit = radius, unit
        self.opened: list[np.ndarray] = []
        self.calls: list[tuple[list[Click], np.ndarray | None]] = []

    def open(self, image: np.ndarray) -> OpenDisks:
        self.opened.append(image)
        return OpenDisks(self, image.shape[:2])


class OpenDisks:
    def __init__(self, owner: Disks, shape: tuple[int, int]) -> None:
        self.owner, self.shape = owner, shape

    def predict(self, clicks, previous):
        self.owner.calls.append((list(clicks), None if previous is None else previous.copy()))
        rows, columns = np.mgrid[: self.shape[0], : self.shape[1]]
        answer = np.full(self.shape, -6.0, np.float32)
        for click in clicks:
            near = np.hypot(rows - click.y, columns - click.x) <= self.owner.radius
            answer[near] = 6.0 if click.positive else -6.0
        return answer if self.owner.unit == "logits" else probabilities(answer, "logits")


class Sight:
    """Predicts the red channel, whatever the clicks."""

    unit = "logits"

    def open(self, image):
        return _OpenSight(image)


class _OpenSight:
    def __init__(self, image) -> None:
        self.image = image

    def predict(self, clicks, previous):
        return (self.image[..., 0].astype(np.float32) - 120) / 10
