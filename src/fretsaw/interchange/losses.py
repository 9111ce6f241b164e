"""What a format cannot hold of a picture: found before it is written, so that it can be said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fretsaw import masks
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask

MOST_SENTENCES = 1000
MOST_NUMBERS = 254
"""Objects and classes that the palette images of VOC tell apart."""

EMPTY, OVERLAPS, SCORES, HOLES, PARTS = "objects without a pixel", "overlaps", "scores", "holes", "objects in several parts"
ATTRIBUTES = "attributes"

LACKS: dict[str, frozenset[str]] = {
    "png": frozenset({SCORES, ATTRIBUTES}),
    "coco": frozenset({EMPTY}),
    "coco-polygons": frozenset({EMPTY, HOLES}),
    "yolo": frozenset({EMPTY, SCORES, ATTRIBUTES, HOLES, PARTS}),
    "yolo-painted": frozenset({EMPTY, SCORES, ATTRIBUTES, PARTS}),
    "voc": frozenset({EMPTY, SCORES, ATTRIBUTES, OVERLAPS}),
    "labelme": frozenset({EMPTY}),
    "label-studio": frozenset({SCORES, ATTRIBUTES}),
    "cvat": frozenset({EMPTY, SCORES}),
}
"""What each format that is written cannot hold. Holes and parts come back when Fretsaw reads them, since they are joined by cuts of no width; other programs
may fill the holes and draw the cuts."""


class Losses:
    """What is lost when pictures are written in a format.

    Args:
        format: One of `fretsaw.interchange.formats.WRITERS`.

    Attributes:
        counts: How many: {"object": 1, "pixel": 40, "score": 3, "hole": 2}.
        sentences: What and why, with the picture's name; at most `MOST_SENTENCES`. Scores and holes are counted alone.
    """

    def __init__(self, format: str) -> None:
        self._lacks = LACKS.get(format, frozenset())
        self._format, self._names = format, {}
        self.counts: Counter[str] = Counter()
        self.sentences: list[str] = []

    def fitted(self, picture: AnnotatedPicture) -> AnnotatedPicture:
        """Return the picture without the objects that the format cannot hold, and note what else it loses."""
        objects = tuple(self._kept(picture))
        if OVERLAPS in self._lacks:
            objects = tuple(self._uncovered(picture, objects))
        for item in objects:
            self._note(item)
        return replace(picture, objects=objects)

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind if count == 1 else kind + 's'}" for kind, count in self.counts.items())

    def _kept(self, picture: AnnotatedPicture) -> Iterator[NamedMask]:
        for number, item in enumerate(picture.objects, 1):
            if EMPTY in self._lacks and not item.mask.any():
                self._lose(picture, number, item, "has no pixel")
            elif OVERLAPS in self._lacks and self._names.setdefault(item.name, len(self._names) + 1) > MOST_NUMBERS:
                del self._names[item.name]
                self._lose(picture, number, item, f"has a name beyond the {MOST_NUMBERS} that the format tells apart")
            else:
                yield item

    def _uncovered(self, picture: AnnotatedPicture, objects: tuple[NamedMask, ...]) -> Iterator[NamedMask]:
        """Yield the objects of which something can be seen; the later ones lie on top."""
        above = np.zeros(picture.size, bool)
        seen = []
        for number, item in reversed(list(enumerate(objects, 1))):
            mask = item.mask
            covered, area = int(np.count_nonzero(mask & above)), int(np.count_nonzero(mask))
            above |= mask
            if covered == area:
                self._lose(picture, number, item, "lies wholly under others")
                continue
            if covered:
                self.counts["pixel"] += covered
                self._say(f"{picture.file_name}: object {number} ({item.name}) loses {covered} of its {area} pixels, which lie under others")
            seen.append((number, item))
        for number, item in seen[MOST_NUMBERS:]:
            self._lose(picture, number, item, f"is beyond the {MOST_NUMBERS} objects that the format tells apart on a picture")
        yield from (item for _, item in reversed(seen[:MOST_NUMBERS]))

    def _note(self, item: NamedMask) -> None:
        if SCORES in self._lacks and item.score is not None:
            self.counts["score"] += 1
        if ATTRIBUTES in self._lacks:
            self.counts["attribute"] += len(item.attributes)
        if HOLES in self._lacks or PARTS in self._lacks:
            mask = item.mask
            x0, y0, x1, y1 = masks.mask_to_box(mask)
            part = np.pad(mask[y0:y1, x0:x1], 1)
            if HOLES in self._lacks:
                self.counts["hole"] += max(0, len(masks.components(~part, connectivity=8)[1]) - 2)
            if PARTS in self._lacks:
                self.counts["separate part"] += max(0, len(masks.components(part, connectivity=4)[1]) - 2)
        self.counts += Counter()  # without zeros

    def _lose(self, picture: AnnotatedPicture, number: int, item: NamedMask, why: str) -> None:
        self.counts["object"] += 1
        self._say(f"{picture.file_name}: object {number} ({item.name}) is lost: it {why}")

    def _say(self, sentence: str) -> None:
        if len(self.sentences) < MOST_SENTENCES:
            self.sentences.append(sentence)
