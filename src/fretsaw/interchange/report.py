"""What was read of files of annotations and what was not: counted file by file, so that nothing is left out in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fretsaw.errors import FretsawError
from fretsaw.interchange.pictures import AnnotatedPicture
from fretsaw.interchange.untrusted import Remark

MOST_SENTENCES = 1000
"""Sentences that a report keeps; beyond, it counts alone."""

PLURALS = {"box": "boxes", "category": "categories", "class": "classes", "entry": "entries"}


@dataclass(slots=True)
class FileReport:
    """What was read of one file.

    Attributes:
        name: To show.
        pictures: How many.
        objects: How many with a mask.
        left_out: How many rows could not be used, by what they are: {"box": 2, "line": 1}.
        error: Why the file could not be read, or not to its end; "" where it was.
    """

    name: str
    pictures: int = 0
    objects: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether it could not be read, or gave no object although it has rows."""
        return bool(self.error) or (not self.objects and self.left_out.total() > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        row = {"file": self.name, "pictures": self.pictures, "objects": self.objects, "left_out": dict(self.left_out)}
        return row | ({"error": self.error} if self.error else {})

    def __str__(self) -> str:
        return f"{self.name}: {counted(self.objects, self.left_out)}"


class ReadingReport:
    """What was read of some files.

    Attributes:
        files: One report for each, in the order in which they were read.
        sentences: Why each row was left out, and what else is to be said, with the file's name; at most `MOST_SENTENCES`.
        unsaid: Number of sentences beyond these.
    """

    def __init__(self) -> None:
        self.files: list[FileReport] = []
        self.sentences: list[str] = []
        self.unsaid = 0

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return sum(row.pictures for row in self.files)

    @property
    def objects(self) -> int:
        """Number of objects with a mask."""
        return sum(row.objects for row in self.files)

    @property
    def left_out(self) -> Counter[str]:
        """How many rows could not be used, by what they are."""
        return sum((row.left_out for row in self.files), Counter())

    @property
    def failed(self) -> list[FileReport]:
        """The files that could not be read, or gave no object although they have rows."""
        return [row for row in self.files if row.failed]

    def read(
        self,
        name: str,
        reader: Callable[[], Iterable[AnnotatedPicture]],
        finished: Callable[[AnnotatedPicture], AnnotatedPicture] = lambda picture: picture,
    ) -> Iterator[AnnotatedPicture]:
        """Yield a file's pictures and count them; a file that is broken is noted and ends there.

        Args:
            name: Of the file.
            reader: From `fretsaw.interchange.reading.readers`.
            finished: What is made of each picture, for example masks of its boxes.
        """
        row = FileReport(name)
        self.files.append(row)
        try:
            for found in reader():
                picture = with_boxes_left_out(finished(found))
                row.pictures += 1
                row.objects += len(picture.objects)
                row.left_out.update(sentence.kind for sentence in picture.left_out if sentence.kind)
                for sentence in picture.left_out:
                    self.note(f"{name}: {sentence}")
                yield picture
        except FretsawError as error:
            row.error = str(error) if str(error).startswith(f"{name}: ") else f"{name}: {error}"

    def note(self, sentence: str) -> None:
        """Add a sentence."""
        if len(self.sentences) < MOST_SENTENCES:
            self.sentences.append(sentence)
        else:
            self.unsaid += 1

    def __str__(self) -> str:
        broken = sum(bool(row.error) for row in self.files)
        return counted(self.objects, self.left_out) + (f"; {broken} {'file' if broken == 1 else 'files'} not read" if broken else "")

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON: the totals, the sentences, and the files of which something was left out."""
        left_out = self.left_out
        told = [row.to_dict() for row in self.files if row.left_out or row.error]
        found = {"pictures": self.pictures, "objects": self.objects, "left_out": left_out.total()}
        found |= {"left_out_kinds": dict(left_out), "left_out_first": self.sentences} if self.sentences else {}
        return found | ({"files": told} if told else {})


def with_boxes_left_out(picture: AnnotatedPicture) -> AnnotatedPicture:
    """Return a picture of which the boxes that no mask was made of are left out with a sentence each."""
    if not picture.boxes:
        return picture
    said = (Remark(f"{item.place or item.name}: expected a mask, got a box", "box") for item in picture.boxes)
    return replace(picture, boxes=(), left_out=(*picture.left_out, *said))


def counted(objects: int, left_out: Mapping[str, int]) -> str:
    """Return "3 objects, 4 left out: 2 boxes, 1 line, 1 point"."""
    total = sum(left_out.values())
    kinds = ", ".join(f"{count} {kind if count == 1 else plural(kind)}" for kind, count in sorted(left_out.items(), key=lambda row: (-row[1], row[0])))
    return f"{objects} {'object' if objects == 1 else 'objects'}" + (f", {total} left out: {kinds}" if total else "")


def plural(kind: str) -> str:
    """Return the plural of what a row is."""
    return PLURALS.get(kind, kind if kind.endswith("s") else f"{kind}s")
