"""Zooming in: when a mask shows that the object is small in the image, the model looks only at the object and its surroundings.

    mask, clicks --surroundings--> box --small enough?--> view, or the one before while it still fits
    view --cut out, encoded once--> embedding --decoder--> logits of the view, background around it

In the embedding of a large image a small object covers only a few cells. The same encoder sees a view at the image's own resolution.

Source: f-BRS (Sofiiuk et al. 2020), zoom-in: surroundings 1.4 times the mask's box, encoded again when less than half of them agrees.

Deviation: f-BRS zooms from the second click on and at any size; here from the third, and only where it makes the object at least 1.4 times as large, since an
encoding costs as much as ten clicks. Chosen on validation parts of coco_mval, ccp and human_seg.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np

from fretsaw import frames, masks
from fretsaw.types import Box, Click, ClickModel, Prompt, Seen, Stroke

MOST_VIEWS = 4
"""How many embeddings of views a session keeps for one image, beside the image's own."""


@dataclass(frozen=True, slots=True)
class ZoomRules:
    """When to zoom in, and on what.

    Attributes:
        first_click: Number of the first click that may zoom in.
        most_area: Largest share of the image that the surroundings may take; if they take more, the model looks at the whole image.
        expansion: Side of the surroundings over the side of the box around mask and clicks.
        least_overlap: Smallest IoU of the current view with the new surroundings at which the view is kept.
        smallest: Smallest side of the surroundings in pixels of the image.
    """

    first_click: int = 3
    most_area: float = 0.5
    expansion: float = 1.4
    least_overlap: float = 0.5
    smallest: int = 64


def next_view(view: Box | None, mask: np.ndarray, prompt: Prompt, rules: ZoomRules) -> Box | None:
    """Return the part of the image that the model should look at, or None for all of it.

    Args:
        view: The current view, or None.
        mask: (H, W) bool, the answer before.
        prompt: All clicks, the new one included, in the original frame.
        rules: When and on what to zoom.
    """
    if len(prompt.clicks) < rules.first_click or not mask.any():
        return None
    wanted = surroundings(mask, prompt, rules)
    if (wanted.x1 - wanted.x0) * (wanted.y1 - wanted.y0) > rules.most_area * mask.size:
        return None
    if view is not None and holds(view, prompt) and box_iou(view, wanted) >= rules.least_overlap:
        return view
    return wanted


def surroundings(mask: np.ndarray, prompt: Prompt, rules: ZoomRules) -> Box:
    """Return the box, in whole pixels, around a mask (H, W), the positive clicks, the last click and the prompt's box, expanded."""
    x0, y0, x1, y1 = masks.mask_to_box(mask)
    boxes = [Box(x0, y0, x1, y1), *(Box(click.x, click.y, click.x + 1, click.y + 1) for click in _told(prompt)), *([prompt.box] if prompt.box else [])]
    around = Box(min(box.x0 for box in boxes), min(box.y0 for box in boxes), max(box.x1 for box in boxes), max(box.y1 for box in boxes))
    return frames.expand_box(around, rules.expansion, rules.smallest, *mask.shape)


def holds(view: Box, prompt: Prompt) -> bool:
    """Whether all positive clicks and the last click lie in a view."""
    return all(_inside(click, view) for click in _told(prompt))


def prompt_within(prompt: Prompt, view: Box) -> Prompt:
    """Return a prompt in pixels of a view, without clicks outside it and lines that leave it; the box is cut to the view."""
    strokes = tuple(_moved(stroke, view) for stroke in prompt.strokes if all(_inside(Click(*point), view) for point in stroke.points))
    clicks = tuple(replace(click, x=click.x - view.x0, y=click.y - view.y0) for click in prompt.clicks if _inside(click, view))
    box = prompt.box
    if box is not None:
        corners = [np.clip(value, low, high) - low for value, low, high in _edges(box, view)]
        box = Box(*(float(value) for value in corners)) if corners[0] < corners[2] and corners[1] < corners[3] else None
    return replace(prompt, clicks=clicks, box=box, strokes=strokes)


def box_iou(a: Box, b: Box) -> float:
    """Return the intersection of two boxes over their union."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0) - shared)


class Views:
    """What the model computes of an image's views. Each is computed at its first use, and the last few are kept. Several sessions and threads may share one.

    Args:
        image: (H, W, 3) uint8 RGB.
        model: Computes the embeddings of the views.
    """

    def __init__(self, image: np.ndarray, model: ClickModel) -> None:
        self._image, self._model = image, model
        self._lock = threading.Lock()
        self._known: OrderedDict[Box, Seen] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory of the views that are kept."""
        return sum(seen.nbytes for seen in list(self._known.values()))

    def frame(self, view: Box) -> frames.Frame:
        """Return how a view lies in the model's input."""
        return self._model.preprocessing.frame_of(frames.crop(self._image, view))

    def seen(self, view: Box) -> Seen:
        """Return what is computed once of a view."""
        with self._lock:
            if view not in self._known:
                self._known[view] = self._model.look(np.ascontiguousarray(frames.crop(self._image, view)))
                if len(self._known) > MOST_VIEWS:
                    self._known.popitem(last=False)
            self._known.move_to_end(view)
            return self._known[view]


def _told(prompt: Prompt) -> tuple[Click, ...]:
    return tuple(click for click in prompt.clicks[:-1] if click.positive) + prompt.clicks[-1:]


def _inside(click: Click, view: Box) -> bool:
    return view.x0 - 0.5 <= click.x <= view.x1 - 0.5 and view.y0 - 0.5 <= click.y <= view.y1 - 0.5


def _moved(stroke: Stroke, view: Box) -> Stroke:
    return replace(stroke, points=tuple((x - view.x0, y - view.y0) for x, y in stroke.points))


def _edges(box: Box, view: Box) -> list[tuple[float, float, float]]:
    """Return each edge of a box with its view's bounds."""
    return [(box.x0, view.x0, view.x1), (box.y0, view.y0, view.y1), (box.x1, view.x0, view.x1), (box.y1, view.y0, view.y1)]
