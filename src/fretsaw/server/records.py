"""What is known about a picture and its objects: plain values, which `changes.py` alters, `store.py` keeps and `replies.py` shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from fretsaw.clicks.strokes import single_clicks
from fretsaw.segmentation import distinct_color
from fretsaw.types import Prompt, Stroke

COLORS = ("#3b82f6", "#f97316", "#10b981", "#e11d48", "#a855f7", "#eab308", "#06b6d4", "#ec4899", "#84cc16", "#6366f1")
"""Of the first objects; calmer than what tells hundreds of classes apart."""

RECORD_BYTES, OBJECT_BYTES, POINT_BYTES, NAME_BYTES = 4096, 1024, 128, 64
"""About what a picture, an object, a place on the picture and the name of an interaction take as Python's objects, beside run lengths."""


@dataclass(slots=True)
class PartRecord:
    """One of the separate objects that an automatic cut is made of.

    Attributes:
        name: Its class, or "".
        score: The model's own estimate of it.
        box: Half open, x0 y0 x1 y1.
        area: In pixels.
        rle: The mask inside the box, as COCO's compressed run lengths.
    """

    name: str
    score: float
    box: tuple[int, int, int, int]
    area: int
    rle: dict[str, Any]


@dataclass(slots=True)
class ObjectRecord:
    """One object on a picture.

    Attributes:
        id: Unique on its picture, from 1, never used again.
        name: Its class, or "".
        color: "#rrggbb".
        steps: Names of the interactions' files in their order.
        position: How many of them are in place; the rest is undone.
        rle: The current mask as COCO's compressed run lengths.
        score: The model's own estimate of it.
        box: Half open, x0 y0 x1 y1.
        area: In pixels.
        clicks: x, y and positive of the clicks in place.
        scribbles: The lines in place.
        prompt_box: The box prompt in place, or None.
        hidden: Whether the page shows it.
        deleted: Whether it was thrown away; it can be taken back until the picture is forgotten.
        parts: The separate objects of an automatic cut, where the current mask is one that knows them.
        revision: Grows whenever the mask changes.
    """

    id: int
    name: str
    color: str
    rle: dict[str, Any]
    steps: list[str] = field(default_factory=list[str])
    position: int = 0
    score: float = 0.0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    area: int = 0
    clicks: list[tuple[float, float, bool]] = field(default_factory=list[tuple[float, float, bool]])
    scribbles: list[Stroke] = field(default_factory=list[Stroke])
    prompt_box: tuple[float, float, float, float] | None = None
    hidden: bool = False
    deleted: bool = False
    parts: list[PartRecord] = field(default_factory=list[PartRecord])
    revision: int = 0

    @property
    def is_text(self) -> bool:
        """Whether all that it calls by a name can be written."""
        return is_text(self.name, self.color, *self.steps, *(part.name for part in self.parts), *map(str, self.rle.values()))


@dataclass(slots=True)
class ImageRecord:
    """A picture and its objects.

    Attributes:
        id: 24 hexadecimal digits.
        name: The file's name, to show and to export; never a path to open.
        uploaded: Whether the original lies in the store, else in the served folder.
        hash: Of the pixels.
        size: (H, W).
        objects: In the order in which they were made.
        changed: Seconds since 1970.
        revision: How many commands have changed the record.
        notice: What those at work on the picture should know of its file, in a sentence; or "".
    """

    id: str
    name: str
    uploaded: bool
    hash: str = ""
    size: tuple[int, int] = (0, 0)
    objects: list[ObjectRecord] = field(default_factory=list[ObjectRecord])
    changed: float = 0.0
    revision: int = 0
    notice: str = ""

    @property
    def living(self) -> list[ObjectRecord]:
        """The objects that were not thrown away."""
        return [item for item in self.objects if not item.deleted]

    @property
    def is_text(self) -> bool:
        """Whether all that it calls by a name can be written."""
        return is_text(self.name, self.hash, self.notice) and all(item.is_text for item in self.objects)

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return RECORD_BYTES + sum(_memory_of(item) for item in self.objects)


def shown_prompt(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as an object's fields `clicks`, `scribbles` and `prompt_box`."""
    box = prompt.box
    return {
        "clicks": [(click.x, click.y, click.positive) for click in single_clicks(prompt.clicks, prompt.strokes)],
        "scribbles": list(prompt.strokes),
        "prompt_box": (box.x0, box.y0, box.x1, box.y1) if box is not None else None,
    }


def is_text(*texts: str) -> bool:
    """Return whether texts can be written; JSON can hold halves of letters (lone surrogates) that no file can."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def object_color(number: int) -> str:
    """Return the colour of the object of a number, where nobody has chosen one."""
    return COLORS[number - 1] if number <= len(COLORS) else "#{:02x}{:02x}{:02x}".format(*distinct_color(number - 1))


def _memory_of(item: ObjectRecord) -> int:
    runs = len(item.rle["counts"]) + sum(len(part.rle["counts"]) for part in item.parts)
    points = len(item.clicks) + sum(len(stroke.points) for stroke in item.scribbles)
    return OBJECT_BYTES + runs + OBJECT_BYTES * len(item.parts) + POINT_BYTES * points + NAME_BYTES * len(item.steps)


IMAGE_RECORD: TypeAdapter[ImageRecord] = TypeAdapter(ImageRecord)
OBJECT_RECORD: TypeAdapter[ObjectRecord] = TypeAdapter(ObjectRecord)
